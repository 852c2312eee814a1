package filter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/seccomp"
)

// envRole has this test program play one that has taken over the kernel of a sandbox.
const envRole = "HULL_TEST_FILTER_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(envRole)
	if role == "" {
		os.Exit(m.Run())
	}
	err := play(role)
	fmt.Println(err)
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// attacks are what the process of a sandbox tries after its filter is in place. Each must end it, or not be there.
var attacks = map[string]func(dir int){
	"execute":               func(int) { call(unix.SYS_EXECVE, str("/bin/true"), 0, 0) },
	"execute a descriptor":  func(dir int) { call(unix.SYS_EXECVEAT, uintptr(dir), str(""), 0, 0, unix.AT_EMPTY_PATH) },
	"open a path":           func(int) { call(unix.SYS_OPENAT, cwd, str("/etc/passwd"), unix.O_NOFOLLOW) },
	"follow a link":         func(dir int) { call(unix.SYS_OPENAT, uintptr(dir), str("link"), 0) },
	"openat2":               func(dir int) { call(unix.SYS_OPENAT2, uintptr(dir), str("x"), 0, 0) },
	"open by handle":        func(dir int) { call(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(dir), 0, 0) },
	"fork":                  func(int) { call(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0) },
	"make a user namespace": func(int) { call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0) },
	"clone3":                func(int) { call(unix.SYS_CLONE3, 0, 0) },
	"unshare":               func(int) { call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER) },
	"join a namespace":      func(dir int) { call(unix.SYS_SETNS, uintptr(dir), 0) },
	"mount":                 func(int) { call(unix.SYS_MOUNT, 0, 0, 0, 0, 0) },
	"copy a mount":          func(dir int) { call(unix.SYS_OPEN_TREE, uintptr(dir), str(""), unix.AT_EMPTY_PATH) },
	"move a mount":          func(int) { call(unix.SYS_MOVE_MOUNT, 0, 0, 0, 0, 0) },
	"change the root":       func(int) { call(unix.SYS_CHROOT, str("/")) },
	"change the directory":  func(dir int) { call(unix.SYS_FCHDIR, uintptr(dir)) },
	"make a socket":         func(int) { call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0) },
	"a socket that has no peer": func(int) {
		call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0, uintptr(unsafe.Pointer(new([2]int32))))
	},
	"connect":                func(dir int) { call(unix.SYS_CONNECT, uintptr(dir), 0, 0) },
	"bind":                   func(dir int) { call(unix.SYS_BIND, uintptr(dir), 0, 0) },
	"seize a process":        func(int) { call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1, 0, 0) },
	"read another's memory":  func(int) { call(unix.SYS_PROCESS_VM_READV, 1, 0, 0, 0, 0, 0) },
	"take a descriptor":      func(int) { call(unix.SYS_PIDFD_GETFD, 0, 0, 0) },
	"kill by pid":            func(int) { call(unix.SYS_KILL, 1, 0) },
	"load a program":         func(int) { call(unix.SYS_BPF, 0, 0, 0) },
	"another filter":         func(int) { call(unix.SYS_SECCOMP, 1, 0, 0) },
	"gain capabilities":      func(int) { call(unix.SYS_CAPSET, 0, 0) },
	"become another user":    func(int) { call(unix.SYS_SETRESUID, 0, 0, 0) },
	"raise a limit":          func(int) { call(unix.SYS_PRLIMIT64, 0, 0, 0, 0) },
	"be dumpable":            func(int) { call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	"asynchronous requests":  func(int) { call(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(new(uintptr)))) },
	"watch files":            func(int) { call(unix.SYS_INOTIFY_INIT1, 0) },
	"a pidfd":                func(int) { call(unix.SYS_PIDFD_OPEN, 1, 0) },
	"signal by pidfd":        func(dir int) { call(unix.SYS_PIDFD_SEND_SIGNAL, uintptr(dir), 9, 0, 0) },
	"signals from an owner":  func(dir int) { call(unix.SYS_FCNTL, uintptr(dir), unix.F_SETOWN, 1) },
	"x32":                    func(int) { call(0x40000000|unix.SYS_EXECVE, str("/bin/true"), 0, 0) },
	"io_uring":               func(int) { call(unix.SYS_IO_URING_SETUP, 1, 0) },
	"userfaultfd":            func(int) { call(unix.SYS_USERFAULTFD, 0) },
	"keys":                   func(int) { call(unix.SYS_KEYCTL, 0, 0, 0, 0, 0) },
	"type into the terminal": func(int) { call(unix.SYS_IOCTL, 0, unix.TIOCSTI, 0) },
	"take the terminal":      func(int) { call(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0) },
	"make a device":          func(dir int) { call(unix.SYS_MKNODAT, uintptr(dir), str("dev"), unix.S_IFCHR|0o666, 0x103) },
	"link what is elsewhere": func(dir int) { call(unix.SYS_LINKAT, cwd, str("/etc/passwd"), uintptr(dir), str("p"), 0) },
	"link a descriptor": func(dir int) {
		call(unix.SYS_LINKAT, uintptr(dir), str(""), uintptr(dir), str("p"), unix.AT_EMPTY_PATH)
	},
	"rename what is elsewhere": func(dir int) { call(unix.SYS_RENAMEAT2, cwd, str("/etc/passwd"), uintptr(dir), str("p"), 0) },
	"memory at will":           func(int) { call(unix.SYS_MMAP, 0, 4096, 7, unix.MAP_SHARED|unix.MAP_HUGETLB, 0, 0) },
}

// duties are what it has to be able to do.
var duties = map[string]func(dir int) error{
	"open a name": func(dir int) error {
		fd, err := unix.Openat(dir, "file", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		_, err = unix.Pwrite(fd, []byte("x"), 0)
		return errors.Join(err, unix.Fsync(fd), unix.Close(fd), unix.Unlinkat(dir, "file", 0))
	},
	"no link is followed": func(dir int) error {
		if _, err := unix.Openat(dir, "link", unix.O_RDONLY|unix.O_NOFOLLOW, 0); err != unix.ELOOP {
			return fmt.Errorf("open: %w", err)
		}
		return nil
	},
	// Go looks at the processors each second, unless told not to, and has threads, timers and collections.
	"run for a while": func(int) error {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				runtime.LockOSThread()
				time.Sleep(1500 * time.Millisecond)
				_ = make([]byte, 1<<20)
			})
		}
		wg.Wait()
		runtime.GC()
		return nil
	},
	"profiles": func(int) error {
		var b bytes.Buffer
		if err := pprof.StartCPUProfile(&b); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		pprof.StopCPUProfile()
		_, err := os.ReadFile("/proc/self/maps")
		if !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("/proc/self/maps: %w", err)
		}
		return pprof.Lookup("heap").WriteTo(&b, 0)
	},
	"a socket pair": func(int) error {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Sendmsg(p[0], []byte("x"), nil, nil, 0), unix.Close(p[0]), unix.Close(p[1]))
	},
}

const cwd = ^uintptr(99) // AT_FDCWD

func str(s string) uintptr {
	b, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(b))
}

var kept []*byte // so that they stay where they are

func call(nr uintptr, args ...uintptr) {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	fmt.Println("the kernel answers", errno)
}

func play(role string) error {
	// As package boot does, by another means.
	runtime.GOMAXPROCS(2)
	dir, err := unix.Open(os.Args[1], unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	f, err := Compile(Process{})
	if err == nil {
		err = f.Install()
	}
	if err != nil {
		return err
	}
	if duty, ok := duties[role]; ok {
		return duty(dir)
	}
	attacks[role](dir)
	return nil
}

func actor(t *testing.T, role string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", dir)
	cmd.Env = append(os.Environ(), envRole+"="+role)
	return cmd
}

func TestAttacks(t *testing.T) {
	for role := range attacks {
		out, err := actor(t, role).CombinedOutput()
		if err == nil && strings.HasPrefix(string(out), "the kernel answers "+unix.ENOSYS.Error()) {
			continue // what is newer than all that the profile has is no call
		}
		var e *exec.ExitError
		if !errors.As(err, &e) {
			t.Errorf("%s: %v, %s", role, err, out)
			continue
		}
		if ws := e.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != unix.SIGSYS || len(out) > 0 {
			t.Errorf("%s: %v, %s", role, err, out)
		}
	}
}

// Who has the host's network has no sockets but of the internet, and of netlink to see the devices.
func TestHostNetwork(t *testing.T) {
	for _, r := range (&Sockets{Types: []Type{{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}}, Options: []Option{{1, 2, true, true}}}).rules() {
		switch r.call {
		case "socket":
			if f := r.conds[0]; f.Index != 0 || f.Op != specs.OpEqualTo || f.Value != unix.AF_INET && f.Value != unix.AF_INET6 && f.Value != unix.AF_NETLINK {
				t.Errorf("socket: %+v", r.conds)
			}
			if typ := r.conds[1]; typ.Value&unix.SOCK_RAW == unix.SOCK_RAW && r.conds[0].Value != unix.AF_NETLINK {
				t.Errorf("raw socket: %+v", r.conds)
			}
		case "connect", "bind", "listen", "getsockname", "getpeername", "sendto", "recvfrom", "ioctl", "getsockopt", "setsockopt":
		default:
			t.Errorf("%s is allowed", r.call)
		}
	}
}

func TestDuties(t *testing.T) {
	for role := range duties {
		if out, err := actor(t, role).CombinedOutput(); err != nil {
			t.Errorf("%s: %v, %s", role, err, out)
		}
	}
}

// What the profile doesn't name is not allowed, whatever its arguments: each call known to hull, by its name.
func TestEveryOtherCall(t *testing.T) {
	profile := Process{}.profile()
	p, err := seccomp.Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, s := range profile.Syscalls {
		for _, n := range s.Names {
			named[n] = true
		}
	}
	var arch specs.Arch = specs.ArchX86_64
	if runtime.GOARCH == "arm64" {
		arch = specs.ArchAARCH64
	}
	for _, name := range seccomp.Names() {
		nr, ok := seccomp.Number(arch, name)
		if !ok || named[name] {
			continue
		}
		for _, a := range []uint64{0, 1, ^uint64(0)} {
			if p.Allows(nr, a, a, a, a, a, a) {
				t.Errorf("%s is allowed", name)
			}
		}
	}
	for _, name := range []string{"execve", "execveat", "socket", "connect", "open", "openat2", "fork", "vfork", "clone3", "unshare", "setns", "mount",
		"process_vm_readv", "process_vm_writev", "pidfd_open", "kill", "prctl", "ptrace"} {
		if i := slices.IndexFunc(profile.Syscalls, func(s specs.LinuxSyscall) bool {
			return len(s.Args) == 0 && slices.Contains(s.Names, name)
		}); i >= 0 {
			t.Errorf("%s is allowed with any arguments", name)
		}
	}
	if !strings.HasPrefix(string(profile.DefaultAction), "SCMP_ACT_KILL") {
		t.Errorf("what is not allowed: %s", profile.DefaultAction)
	}
}

// Who may connect with sockets of the host's can make no others than those that have one peer, and take no name.
func TestUnixSockets(t *testing.T) {
	p, err := seccomp.Compile(Process{Sockets: &Sockets{Unix: UnixSockets{Connect: true}}}.profile())
	if err != nil {
		t.Fatal(err)
	}
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	for _, kind := range []uint64{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		if !p.Allows(unix.SYS_SOCKET, unix.AF_UNIX, kind|flags, 0, 0, 0, 0) {
			t.Errorf("type %d is not allowed", kind)
		}
	}
	for name, args := range map[string][4]uint64{
		"datagrams": {unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM | flags},
		"raw":       {unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_RAW | flags},
		"inet":      {unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM | flags},
		"netlink":   {unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW | flags},
		"bind":      {unix.SYS_BIND, 3},
		"listen":    {unix.SYS_LISTEN, 3},
		"chdir":     {unix.SYS_CHDIR},
		"chroot":    {unix.SYS_CHROOT},
		"cwd":       {unix.SYS_FCHDIR, 1<<32 - 100}, // AT_FDCWD
	} {
		if p.Allows(uint32(args[0]), args[1], args[2], args[3], 0, 0, 0) {
			t.Errorf("%s: it is allowed", name)
		}
	}
	// Who may make some takes names, and connects with nobody.
	if p, err = seccomp.Compile(Process{Sockets: &Sockets{Unix: UnixSockets{Bind: true}}}.profile()); err != nil {
		t.Fatal(err)
	}
	for call, want := range map[uint32]bool{unix.SYS_BIND: true, unix.SYS_LISTEN: true, unix.SYS_CONNECT: false} {
		if p.Allows(call, 3, 0, 0, 0, 0, 0) != want {
			t.Errorf("call %d is allowed: %v, want %v", call, !want, want)
		}
	}
	if p.Allows(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM|flags, 0, 0, 0, 0) {
		t.Error("datagrams are allowed")
	}
}
