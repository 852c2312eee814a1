// Package filter keeps the process of a sandbox to the system calls that its kernel makes.
//
// It is what a container finds that has taken over that kernel: calls on descriptors that the process has, on names below one
// of them, on memory and threads of its own, and on its helpers. Anything else ends the process: it can't execute, make a
// socket or a namespace, connect, mount, or look at processes of others. A filter can't look at names; that they lead nowhere
// else is the work of the root, which is empty, and of the mounts, on which no link is followed.
//
// The helpers of systrap, which execute the container's programs, are forked by one that was there before the filter; each has
// a filter of its own, by which every system call of a program comes here instead of to the host's kernel. Where a virtual machine
// of the host's executes them instead, the calls for helpers are not allowed, and those are that run the machine.
package filter

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/seccomp"
)

// always are calls that may have any arguments.
var always = []string{
	// of Go's runtime: memory, threads, signals, time
	"madvise", "mincore", "mprotect", "munmap", "mlock", "munlock", "mremap", "msync",
	"exit", "exit_group", "futex", "getpid", "gettid", "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "restart_syscall",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_yield", "sigaltstack", "set_robust_list", "rseq", "getrandom", "getcpu",
	"timer_delete", "timer_settime", "setitimer",
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "pipe2", "ppoll", "poll",
	// on open files
	"close", "dup", "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek",
	"fallocate", "fdatasync", "fsync", "ftruncate", "fstat", "fstatfs", "sync_file_range", "fchmod", "fchown",
	"fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getdents64", "tee", "splice",
	"recvmsg", "sendmsg", "recvmmsg", "sendmmsg", "shutdown",
	// of its own threads, and of systrap's helpers, which are all the other processes in its pid namespace
	"tgkill",
}

// A condition is of one argument.
type condition = specs.LinuxSeccompArg

func is(arg uint, value uint64) condition {
	return condition{Index: arg, Value: value, Op: specs.OpEqualTo}
}

// has is that all of the bits are set.
func has(arg uint, bits uint64) condition {
	return condition{Index: arg, Value: bits, ValueTwo: bits, Op: specs.OpMaskedEqual}
}

// lacks is that none of the bits is set.
func lacks(arg uint, bits uint64) condition {
	return condition{Index: arg, Value: bits, ValueTwo: 0, Op: specs.OpMaskedEqual}
}

// fd is a descriptor: not AT_FDCWD, which is negative.
func fd(arg uint) condition { return lacks(arg, 1<<31) }

// rule allows a call where all conditions hold, or with any arguments.
type rule struct {
	call  string
	conds []condition
}

// rules are those that hold for each platform.
func rules() []rule {
	threads := uint64(unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD)
	list := []rule{
		// threads, and no processes
		{"clone", []condition{has(0, threads), lacks(0, ^uint64(threads|unix.CLONE_SETTLS))}},
		{"prctl", []condition{is(0, unix.PR_SET_VMA), is(1, unix.PR_SET_VMA_ANON_NAME)}},
		{"membarrier", []condition{is(1, 0)}},
		{"timer_create", []condition{is(0, unix.CLOCK_THREAD_CPUTIME_ID)}},
		// shared memory, with its file server above all
		{"memfd_create", []condition{lacks(1, ^uint64(unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))}},
		{"fcntl", []condition{is(1, unix.F_ADD_SEALS), is(2, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)}},
		// names below a descriptor; of openat(2) the last one is no link that is followed
		{"openat", []condition{fd(0), has(2, unix.O_NOFOLLOW)}},
		{"newfstatat", []condition{fd(0), has(3, unix.AT_SYMLINK_NOFOLLOW)}},
		{"newfstatat", []condition{fd(0), has(3, unix.AT_EMPTY_PATH)}},
		{"statx", []condition{fd(0), has(2, unix.AT_EMPTY_PATH)}},
		{"mkdirat", []condition{fd(0)}},
		{"mknodat", []condition{fd(0), is(3, 0)}},
		{"symlinkat", []condition{fd(1)}},
		{"readlinkat", []condition{fd(0)}},
		{"unlinkat", []condition{fd(0)}},
		{"linkat", []condition{fd(0), fd(2), is(4, 0)}},
		{"renameat", []condition{fd(0), fd(2)}},
		{"renameat2", []condition{fd(0), fd(2)}},
		{"fchownat", []condition{fd(0), has(4, unix.AT_EMPTY_PATH)}},
		{"fchownat", []condition{fd(0), has(4, unix.AT_SYMLINK_NOFOLLOW)}},
		{"fchmodat", []condition{fd(0)}},
		{"utimensat", []condition{fd(0)}},
		// a file that is read comes to be written, too: under the same number
		{"dup3", []condition{is(2, unix.O_CLOEXEC)}},
		// sockets that there are
		{"accept4", []condition{fd(0)}},
		{"getsockopt", []condition{is(1, unix.SOL_SOCKET)}},
		// not those of datagrams, which go wherever they are addressed to, without connect(2)
		{"socketpair", []condition{is(0, unix.AF_UNIX), is(1, unix.SOCK_STREAM|unix.SOCK_CLOEXEC)}},
		{"socketpair", []condition{is(0, unix.AF_UNIX), is(1, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC)}},
	}
	// F_OFD_SETLK is for what is locked while a container is paused; a program in native isolation can lock its files, too
	for _, cmd := range []uint64{unix.F_OFD_SETLK, unix.F_GET_SEALS, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_DUPFD_CLOEXEC, unix.F_DUPFD} {
		list = append(list, rule{"fcntl", []condition{is(1, cmd)}})
	}
	for _, request := range []uint64{
		unix.TIOCINQ, unix.TCGETS, unix.TCSETS, unix.TCSETSW, unix.TCSETSF, unix.TIOCGWINSZ, unix.TIOCSWINSZ,
		tcgets2, tcsets2, tcsetsw2, tcsetsf2,
	} {
		list = append(list, rule{"ioctl", []condition{fd(0), is(1, request)}})
	}
	for _, flags := range mappings {
		list = append(list, rule{"mmap", []condition{is(3, flags)}})
	}
	return list
}

// mappings are flags of mmap(2).
var mappings = []uint64{
	unix.MAP_SHARED, unix.MAP_SHARED | unix.MAP_FIXED, unix.MAP_PRIVATE, unix.MAP_PRIVATE | unix.MAP_FIXED,
	unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_STACK,
	unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED,
	unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED | unix.MAP_NORESERVE, mapDroppable | unix.MAP_ANONYMOUS,
}

// helperRules are what systrap does with its helpers, all of which are children of children in this pid namespace.
func helperRules() []rule {
	self := uint64(os.Getpid())
	list := []rule{
		{"wait4", nil},
		{"rt_tgsigqueueinfo", []condition{is(0, self)}},
		{"setpriority", []condition{is(0, unix.PRIO_PROCESS)}},
		{"waitid", []condition{is(0, unix.P_PID)}},
	}
	for _, request := range []uint64{notifRecv, notifSend, notifSetFlags} {
		list = append(list, rule{"ioctl", []condition{fd(0), is(1, request)}})
	}
	for _, request := range []uint64{
		unix.PTRACE_ATTACH, unix.PTRACE_CONT, unix.PTRACE_DETACH, unix.PTRACE_GETEVENTMSG, unix.PTRACE_GETREGSET,
		unix.PTRACE_SETREGSET, unix.PTRACE_GETSIGINFO, unix.PTRACE_SETOPTIONS, ptraceSetSigMask, ptraceSysEmu,
	} {
		list = append(list, rule{"ptrace", []condition{is(0, request)}})
	}
	return list
}

// Numbers that x/sys has not, or not for each architecture.
const (
	tcgets2          = 0x802c542a // TCGETS2 and the like, include/uapi/asm-generic/ioctls.h
	tcsets2          = 0x402c542b
	tcsetsw2         = 0x402c542c
	tcsetsf2         = 0x402c542d
	notifRecv        = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV and the like, include/uapi/linux/seccomp.h
	notifSend        = 0xc0182101
	notifSetFlags    = 0x40082104
	ptraceSetSigMask = 0x420b // PTRACE_SETSIGMASK, include/uapi/linux/ptrace.h
	ptraceSysEmu     = 31     // PTRACE_SYSEMU, arch/*/include/uapi/asm/ptrace.h
	mapDroppable     = 0x8    // MAP_DROPPABLE, include/uapi/linux/mman.h, Linux 6.11
)

// refused are calls of Go's own that fail instead of ending the process: a profile begins with a look at /proc/self/maps, and
// goes on without.
func refused() specs.LinuxSyscall {
	const cwd = uint64(math.MaxUint64 + 1 + unix.AT_FDCWD)
	none := uint(unix.ENOENT) // as it would be
	return specs.LinuxSyscall{Names: []string{"openat"}, Action: specs.ActErrno, ErrnoRet: &none,
		Args: []condition{is(0, cwd), is(2, unix.O_RDONLY|unix.O_CLOEXEC)}}
}

// terminal is what makes a terminal that is nobody's the controlling one of this process: a container's may come after the filter.
var terminal = rule{"ioctl", []condition{fd(0), is(1, unix.TIOCSCTTY), is(2, 0)}}

// Process is what a filter is for.
type Process struct {
	Sockets *Sockets // those of the host's that it passes on; or nil
	Early   bool     // the filter comes before there is a container
	KVM     bool     // programs run by the host's KVM, and not by systrap
}

// profile returns the filter of this process.
func (p Process) profile() *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{
		DefaultAction: specs.ActKillProcess,
		Syscalls:      []specs.LinuxSyscall{{Names: always, Action: specs.ActAllow}, refused()},
	}
	list := append(rules(), p.Sockets.rules()...)
	if p.KVM {
		list = append(list, machineRules()...)
	} else {
		list = append(list, helperRules()...)
	}
	if p.Early {
		list = append(list, terminal)
	}
	for _, r := range list {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{r.call}, Action: specs.ActAllow, Args: r.conds})
	}
	return s
}

// Confine shuts this process in, for ever: with an empty directory as its root, so that an absolute path leads nowhere, also
// not by the links of a /proc into what its descriptors are open at, to its program or into a helper; out of reach of other
// processes of its user; under the filter.
func Confine(empty string, f *Filter) error {
	if err := unix.Chroot(empty); err != nil {
		return &os.PathError{Op: "chroot", Path: empty, Err: err}
	}
	// A root is none for who stands outside of it.
	if err := unix.Chdir("/"); err != nil {
		return &os.PathError{Op: "chdir", Path: "/", Err: err}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	return f.Install()
}

// Filter is a compiled one.
type Filter struct{ program *seccomp.Program }

// Compile makes the filter of a process.
func Compile(p Process) (*Filter, error) {
	program, err := seccomp.Compile(p.profile())
	if err == nil && p.KVM {
		program.Filter = append(leaveMachine(), program.Filter...)
	}
	return &Filter{program}, err
}

// Install puts all threads of this process under the filter, for ever.
func (f *Filter) Install() error {
	p := f.program
	prog := unix.SockFprog{Len: uint16(len(p.Filter)), Filter: &p.Filter[0]}
	const setModeFilter = 1 // SECCOMP_SET_MODE_FILTER, include/uapi/linux/seccomp.h
	r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(p)
	switch {
	case errno != 0:
		return fmt.Errorf("seccomp: %w", errno)
	case r != 0:
		return fmt.Errorf("seccomp: thread %d has a filter of its own", r)
	}
	return nil
}
