package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// childMode makes the test binary a child that loads a filter: the value names an entry of children.
const childMode = "HULL_TEST_SECCOMP"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		if err := children(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func children(mode string) error {
	runtime.LockOSThread() // the filter holds for this thread and for what it executes
	switch mode {
	case "random":
		return childRandom()
	case "exec":
		return childExec()
	case "executed":
		return childExecuted()
	case "kill":
		return childKill()
	case "notify":
		return childNotify()
	}
	return fmt.Errorf("no child %q", mode)
}

// load loads a profile for this thread and returns the listener, if there is one.
func load(s *specs.LinuxSeccomp) (*Program, int, error) {
	p, err := Compile(s)
	if err != nil {
		return nil, -1, err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, -1, err
	}
	prog := unix.SockFprog{Len: uint16(len(p.Filter)), Filter: &p.Filter[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(p.Flags), uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return nil, -1, fmt.Errorf("seccomp: %w", errno)
	}
	return p, int(fd), nil
}

// runChild runs this test binary as a child and returns what it prints.
func runChild(t *testing.T, mode string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childMode+"="+mode)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func TestKernel(t *testing.T) {
	for _, mode := range []string{"random", "exec", "notify"} {
		t.Run(mode, func(t *testing.T) {
			out, err := runChild(t, mode)
			if err != nil || !strings.Contains(out, "passed\n") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("kill", func(t *testing.T) {
		out, err := runChild(t, "kill")
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%v\n%s", err, out)
		}
		if ws := exit.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != unix.SIGSYS {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// harmless are calls that change nothing, whatever their arguments.
func harmless() []string {
	return []string{"getpgid", "getsid", "getpriority", "ioprio_get", "sched_getscheduler", "sched_get_priority_max"}
}

// childRandom loads random rules for harmless calls and compares the kernel's answers with Simulate's.
func childRandom() error {
	rnd := rand.New(rand.NewPCG(1, 2))
	ops := Operators()
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for i := range 48 {
		r := specs.LinuxSyscall{Names: harmless()[i%6 : i%6+1], Action: specs.ActErrno, ErrnoRet: errno(uint(3000 + i))}
		for _, index := range rnd.Perm(maxArgs)[:1+rnd.IntN(3)] {
			a := specs.LinuxSeccompArg{Index: uint(index), Value: randomValue(rnd), ValueTwo: randomValue(rnd),
				Op: specs.LinuxSeccompOperator(ops[rnd.IntN(len(ops))])}
			if a.Op == specs.OpMaskedEqual {
				a.Value |= 4 // no mask would match always
			}
			r.Args = append(r.Args, a)
		}
		s.Syscalls = append(s.Syscalls, r)
		if _, err := Compile(s); err != nil {
			s.Syscalls = s.Syscalls[:len(s.Syscalls)-1] // its args are another rule's
		}
	}
	p, _, err := load(s)
	if err != nil {
		return err
	}
	seen := map[uint32]bool{}
	for range 20000 {
		c := Call{Arch: native().name}
		c.Number, _ = Number(c.Arch, harmless()[rnd.IntN(6)])
		for i := range c.Args {
			c.Args[i] = uint64(uintptr(randomValue(rnd)))
		}
		want, _, err := p.Simulate(c)
		if err != nil {
			return err
		}
		_, _, errno := unix.RawSyscall6(uintptr(c.Number), uintptr(c.Args[0]), uintptr(c.Args[1]), uintptr(c.Args[2]),
			uintptr(c.Args[3]), uintptr(c.Args[4]), uintptr(c.Args[5]))
		got := uint32(unix.SECCOMP_RET_ALLOW)
		if errno >= 3000 {
			got = unix.SECCOMP_RET_ERRNO | uint32(errno)
		}
		if got != want {
			return fmt.Errorf("%+v: the kernel says %#x, Simulate %#x", c, got, want)
		}
		seen[want] = true
	}
	if len(seen) < 10 {
		return fmt.Errorf("only %d different answers", len(seen))
	}
	fmt.Println("passed")
	return nil
}

// childExec loads a usual profile and executes this program, whose runtime must live with it.
func childExec() error {
	text, err := os.ReadFile("testdata/default.json")
	if err != nil {
		return err
	}
	s := new(specs.LinuxSeccomp)
	if err := json.Unmarshal(text, s); err != nil {
		return err
	}
	s.Architectures = slices.DeleteFunc(s.Architectures, func(specs.Arch) bool { return runtime.GOARCH != "amd64" })
	if _, _, err := load(s); err != nil {
		return err
	}
	return unix.Exec(os.Args[0], os.Args, append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, childMode+"=")
	}), childMode+"=executed"))
}

// childExecuted runs below a usual profile.
func childExecuted() error {
	for _, test := range []struct {
		what         string
		number, arg0 uintptr
		want         unix.Errno
	}{
		{"a call that isn't named", unix.SYS_REBOOT, 0, unix.EPERM},
		{"a call newer than any", 5000, 0, unix.ENOSYS},
		{"clone3", unix.SYS_CLONE3, 0, unix.ENOSYS},
		{"a socket that is refused", unix.SYS_SOCKET, unix.AF_VSOCK, unix.EPERM},
		{"PER_BSD", unix.SYS_PERSONALITY, 6, unix.EPERM},
		{"a personality that is allowed", unix.SYS_PERSONALITY, 0xffffffff, 0},
		{"clone with a namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER, unix.EPERM},
	} {
		if _, _, errno := unix.RawSyscall(test.number, test.arg0, 0, 0); errno != test.want {
			return fmt.Errorf("%s: errno %d; want %d", test.what, errno, test.want)
		}
	}
	if _, err := os.ReadDir("/"); err != nil {
		return err
	}
	fmt.Println("passed")
	return nil
}

// childKill makes a call that kills it.
func childKill() error {
	_, _, err := load(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"getpgid"}, Action: specs.ActKillProcess}}})
	if err != nil {
		return err
	}
	_, err = unix.Getpgid(0)
	return fmt.Errorf("alive: %w", err)
}

// childNotify loads a filter with a listener.
func childNotify() error {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/agent",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"getpgid"}, Action: specs.ActNotify}}}
	p, fd, err := load(s)
	if err != nil {
		return err
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	if !p.Notify || !strings.Contains(link, "seccomp notify") {
		return fmt.Errorf("Notify is %v, descriptor %d is %s", p.Notify, fd, link)
	}
	fmt.Println("passed")
	return nil
}

// TestSupportedFlags asks a kernel of this project's oldest version or newer.
func TestSupportedFlags(t *testing.T) {
	have := SupportedFlags()
	for _, want := range []string{"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"} { // 3.17, 4.17, 4.14
		if !slices.Contains(have, want) {
			t.Errorf("%s is missing in %q", want, have)
		}
	}
	if haveFlag(1 << 20) {
		t.Error("the kernel has a flag that nobody defined")
	}
}
