package spec

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/seccomp"
)

// Denial are system calls that the default profile does not allow.
type Denial struct {
	Calls  []string
	Reason string
	// Capabilities are those with any of which the calls are allowed.
	Capabilities []string
	// Missing has the calls fail as if the kernel had none of them, so that programs do without: ENOSYS instead of EPERM.
	Missing bool
}

// Denials returns what the default profile does not allow. docs/do.md has the same for users.
func Denials() []Denial {
	const admin = "CAP_SYS_ADMIN"
	return []Denial{
		{Reason: "they change what is mounted, and are the way to much of the kernel that nobody else uses",
			Calls: []string{"mount", "umount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount",
				"open_tree", "open_tree_attr", "mount_setattr"}, Capabilities: []string{admin}},
		{Reason: "of other namespaces", Calls: []string{"setns", "listns"}, Capabilities: []string{admin}},
		{Reason: "a root within the root", Calls: []string{"chroot"}, Capabilities: []string{"CAP_SYS_CHROOT"}},
		{Reason: "its flags lie in memory, where the filter can't see those that make namespaces; C libraries then use clone",
			Calls: []string{"clone3"}, Capabilities: []string{admin}, Missing: true},
		{Reason: "keyrings belong to users, not to containers",
			Calls: []string{"add_key", "keyctl", "request_key"}},
		{Reason: "they do what other calls do without passing this filter, and have had many holes",
			Calls: []string{"io_uring_setup", "io_uring_enter", "io_uring_register"}},
		{Reason: "a file by its number, past the directories it lies in",
			Calls: []string{"open_by_handle_at"}, Capabilities: []string{"CAP_DAC_READ_SEARCH"}},
		{Reason: "programs in the kernel", Calls: []string{"bpf"}, Capabilities: []string{admin, "CAP_BPF"}},
		{Reason: "it measures the host, and has had many holes",
			Calls: []string{"perf_event_open"}, Capabilities: []string{admin, "CAP_PERFMON"}},
		{Reason: "it stops the kernel in the middle of its work, which makes holes easier to use",
			Calls: []string{"userfaultfd"}, Capabilities: []string{"CAP_SYS_PTRACE"}},
		{Reason: "what happens to files of a whole file system", Calls: []string{"fanotify_init"}, Capabilities: []string{admin}},
		{Reason: "the host's log", Calls: []string{"syslog"}, Capabilities: []string{admin, "CAP_SYSLOG"}},
		{Reason: "the kernel's modules",
			Calls:        []string{"init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms"},
			Capabilities: []string{"CAP_SYS_MODULE"}},
		{Reason: "another kernel, or none",
			Calls: []string{"reboot", "kexec_load", "kexec_file_load"}, Capabilities: []string{"CAP_SYS_BOOT"}},
		{Reason: "the host's clock",
			Calls:        []string{"settimeofday", "clock_settime", "clock_settime64", "stime"},
			Capabilities: []string{"CAP_SYS_TIME"}},
		{Reason: "the host's disks and their quotas", Calls: []string{"swapon", "swapoff", "quotactl", "quotactl_fd"}, Capabilities: []string{admin}},
		{Reason: "accounting of processes", Calls: []string{"acct"}, Capabilities: []string{"CAP_SYS_PACCT"}},
		{Reason: "the container's name", Calls: []string{"sethostname", "setdomainname"}, Capabilities: []string{admin}},
		{Reason: "input and output ports", Calls: []string{"iopl", "ioperm"}, Capabilities: []string{"CAP_SYS_RAWIO"}},
		{Reason: "the terminal of others", Calls: []string{"vhangup"}, Capabilities: []string{"CAP_SYS_TTY_CONFIG"}},
		{Reason: "16-bit code and other modes of old processors", Calls: []string{"vm86", "vm86old"}},
		{Reason: "no kernel has them any more, or nobody needs them",
			Calls: []string{"_sysctl", "afs_syscall", "bdflush", "getpmsg", "lookup_dcookie", "nfsservctl", "putpmsg", "security",
				"sysfs", "tuxcall", "uselib", "ustat", "vserver"}, Missing: true},
	}
}

// namespaceFlags are the CLONE_NEW* flags of clone(2); unshare(2) has one more, whose place in clone's has the signal.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Seccomp returns a profile for programs that are not trusted and have only the given capabilities. It allows the
// system calls known to hull, except for Denials and, of some, certain arguments; any other is missing (ENOSYS), as in
// an older kernel: what a newer kernel adds has to be looked at first. Programs for other architectures than the
// host's, also those of 32 bits, are killed.
func Seccomp(capabilities ...string) *specs.LinuxSeccomp {
	has := func(names []string) bool {
		return slices.ContainsFunc(names, func(c string) bool { return slices.Contains(capabilities, c) })
	}
	errno := func(e unix.Errno) *uint { n := uint(e); return &n }
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(unix.ENOSYS)}
	apart := []string{"ioctl", "socket", "socketpair"}
	if !has([]string{"CAP_SYS_ADMIN"}) {
		apart = append(apart, "clone", "unshare")
	}
	var denied []string
	for _, d := range Denials() {
		switch {
		case has(d.Capabilities):
		case d.Missing:
			apart = append(apart, d.Calls...)
		default:
			denied = append(denied, d.Calls...)
		}
	}
	slices.Sort(denied)
	slices.Sort(apart)
	s.Syscalls = []specs.LinuxSyscall{
		{Action: specs.ActAllow, Names: without(without(seccomp.Names(), denied), apart)},
		{Action: specs.ActErrno, ErrnoRet: errno(unix.EPERM), Names: denied},
	}
	// A rule for a call with an argument in a set of values, by its low 32 bits, which are all that the kernel looks at.
	when := func(action specs.LinuxSeccompAction, e *uint, arg uint, mask uint64, values []uint64, names ...string) {
		for _, v := range values {
			s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Action: action, ErrnoRet: e, Names: names,
				Args: []specs.LinuxSeccompArg{{Index: arg, Op: specs.OpMaskedEqual, Value: mask, ValueTwo: v}}})
		}
	}
	// What the rules before have left: lower bounds come last.
	otherwise := func(action specs.LinuxSeccompAction, e *uint, arg uint, names ...string) {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Action: action, ErrnoRet: e, Names: names,
			Args: []specs.LinuxSeccompArg{{Index: arg, Op: specs.OpGreaterEqual, Value: 0}}})
	}
	const low = 1<<32 - 1

	if slices.Contains(apart, "clone") {
		when(specs.ActAllow, nil, 0, namespaceFlags, []uint64{0}, "clone")
		when(specs.ActAllow, nil, 0, namespaceFlags|unix.CLONE_NEWTIME, []uint64{0}, "unshare")
		otherwise(specs.ActErrno, errno(unix.EPERM), 0, "clone", "unshare")
	}
	// Input to a terminal as if someone had typed it, the console's selection, and line disciplines, which load modules.
	when(specs.ActErrno, errno(unix.EPERM), 1, low, []uint64{unix.TIOCSTI, tiocLinux, unix.TIOCSETD}, "ioctl")
	otherwise(specs.ActAllow, nil, 1, "ioctl")
	// Others reach the host past the network namespace (AF_VSOCK), or are ways into little used parts of the kernel.
	families := []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
	if has([]string{"CAP_NET_RAW"}) {
		families = append(families, unix.AF_PACKET)
	}
	when(specs.ActAllow, nil, 0, low, families, "socket", "socketpair")
	otherwise(specs.ActErrno, errno(unix.EAFNOSUPPORT), 0, "socket", "socketpair")
	return s
}

// without returns names that aren't among others. Both are sorted; it is done in place.
func without(names, others []string) []string {
	rest := names[:0]
	for _, n := range names {
		for len(others) > 0 && others[0] < n {
			others = others[1:]
		}
		if len(others) == 0 || others[0] != n {
			rest = append(rest, n)
		}
	}
	return rest
}

const tiocLinux = 0x541c // TIOCLINUX, include/uapi/asm-generic/ioctls.h; golang.org/x/sys has none
