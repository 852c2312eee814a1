package natd

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/seccomp"
)

// nobody is the overflow user, which owns nothing.
const nobody = 65534

// confine leaves behind what the process could do and doesn't need any more: from here on it has sockets of TCP, UDP and
// ping, and reads what says who the host's name servers are. The container can make it do what it likes if there is a
// hole in the stack.
func confine() error {
	if err := setNoNewPrivileges(); err != nil {
		return err
	}
	if err := restrictFiles(); err != nil {
		return err
	}
	if err := becomeNobody(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	return filterCalls()
}

// setNoNewPrivileges is for all threads: unlike ids, which package syscall sets for all, this is the caller's alone.
func setNoNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOTSUP:
		return &fault.Error{Step: "confine hull-net", Err: errors.New("it has threads that Go doesn't know"), Hint: "build it with CGO_ENABLED=0, as make build does"}
	}
	return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", errno)
}

// becomeNobody leaves what root can do. An ordinary user's process stays that user's.
func becomeNobody() error {
	if os.Geteuid() != 0 {
		return nil
	}
	// The id may have no mapping in a user namespace: there root is not the host's.
	if err := syscall.Setgroups(nil); err != nil && !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("setgroups", err)
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil && !errors.Is(err, unix.EINVAL) {
		return os.NewSyscallError("setresgid", err)
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil && !errors.Is(err, unix.EINVAL) {
		return os.NewSyscallError("setresuid", err)
	}
	return nil
}

// readable are where resolv.conf is, or what it links to.
var readable = []string{"/etc", "/run"}

// restrictFiles has all threads open nothing but for reading, in few places, and nobody else's abstract sockets and
// processes (landlock(7), Linux 5.13). Kernels without it leave the process what its user may do.
func restrictFiles() error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return nil // not there, disabled at boot, or forbidden by a filter above us
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1} // all of the first version
	if abi >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	// What a kernel doesn't know of it is zero, and so taken.
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	rules := os.NewFile(fd, "landlock rules")
	defer rules.Close()
	places := readable
	if real, err := filepath.EvalSymlinks(resolvConf); err == nil {
		places = append(places, filepath.Dir(real))
	}
	for _, place := range places {
		if err := letRead(rules, place); err != nil {
			return err
		}
	}
	_, _, errno = syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules.Fd(), 0, 0)
	runtime.KeepAlive(rules)
	if errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}

func letRead(rules *os.File, place string) error {
	dir, err := os.OpenFile(place, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	beneath := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_READ_FILE, Parent_fd: int32(dir.Fd())}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, rules.Fd(), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&beneath)), 0, 0, 0)
	runtime.KeepAlive(dir)
	if errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}

// calls is what the process has no use for, and somebody in its place would: other programs and processes, namespaces,
// mounts, sockets of other kinds, and what the kernel has had many holes in.
func calls() *specs.LinuxSeccomp {
	deny := func(names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActErrno}
	}
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		deny("execve", "execveat", "fork", "vfork", "clone3", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "pidfd_open",
			"unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount", "fspick", "mount_setattr",
			"open_by_handle_at", "io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "userfaultfd",
			"add_key", "keyctl", "request_key", "socketpair"),
	}}
	// Threads are made, processes are not.
	process := deny("clone")
	process.Args = []specs.LinuxSeccompArg{{Index: 0, Value: unix.CLONE_THREAD, ValueTwo: 0, Op: specs.OpMaskedEqual}}
	s.Syscalls = append(s.Syscalls, process)
	for _, family := range []uint64{unix.AF_UNIX, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_ALG, unix.AF_VSOCK, unix.AF_XDP} {
		socket := deny("socket")
		socket.Args = []specs.LinuxSeccompArg{{Index: 0, Value: family, Op: specs.OpEqualTo}}
		s.Syscalls = append(s.Syscalls, socket)
	}
	return s
}

// filterCalls loads the filter for all threads.
func filterCalls() error {
	p, err := seccomp.Compile(calls())
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(p.Filter)), Filter: &p.Filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
