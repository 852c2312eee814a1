package hull_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/seccomp"
)

// The program that runs a sandbox where the host forbids a system call, as a container around it does:
//
//	forbidden CALL BUNDLE ROOT PROGRAM
func init() {
	roles["forbidden"] = func(args []string) error {
		call := specs.LinuxSyscall{Names: []string{args[0]}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EPERM))}
		if args[0] == "seccomp" {
			// What is forbidden is a listener.
			call.Args = []specs.LinuxSeccompArg{{Index: 1, Value: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, ValueTwo: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Op: specs.OpMaskedEqual}}
		}
		p, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{call}})
		if err != nil {
			return err
		}
		prog := unix.SockFprog{Len: uint16(len(p.Filter)), Filter: &p.Filter[0]}
		const setModeFilter = 1 // SECCOMP_SET_MODE_FILTER, include/uapi/linux/seccomp.h
		if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
			return errno
		}
		r := &hull.Runtime{Root: filepath.Join(args[2], "state"), Isolation: hull.Sandbox, SandboxProgram: args[3]}
		c, err := r.Run(context.Background(), "box", hull.CreateOptions{Bundle: args[1], Stdio: hull.Stdio{Out: os.Stdout, Err: os.Stderr}})
		if err != nil {
			return errors.New(errorText(err))
		}
		ws, err := c.Init().Wait()
		if err == nil && ws != 0 {
			err = errors.New(describe(ws))
		}
		return errors.Join(err, c.Delete(context.Background(), hull.DeleteOptions{}))
	}
}

// Where the host forbids what a sandbox needs, hull says what that is.
func TestSandboxForbidden(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	for call, want := range map[string][]string{
		"ptrace":  {"run box: ptrace a helper of the sandbox's kernel: operation not permitted\n", "the host forbids ptrace(2)"},
		"seccomp": {"run box: seccomp with a listener: operation not permitted\n", "a seccomp profile around hull"},
		"chroot":  {"run box: chroot /nowhere: operation not permitted\n"},
	} {
		t.Run(call, func(t *testing.T) {
			out, err := actor(t, "forbidden", call, hulltest.Bundle(t, args("echo", "ran")), t.TempDir(), hulltest.SandboxBinary(t)).CombinedOutput()
			if exitStatus(err) != 1 {
				t.Errorf("exit status %d", exitStatus(err))
			}
			for _, w := range want {
				if !strings.Contains(string(out), w) {
					t.Errorf("%v: %q doesn't say %q", err, out, w)
				}
			}
		})
	}
}

// A sandbox whose program is none, or that lacks what it needs itself, says so and leaves nothing.
func TestSandboxFaults(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	write(t, plain, "plain")
	cut := filepath.Join(t.TempDir(), "cut") // as an installation leaves it that had no room
	program, err := os.ReadFile(hulltest.SandboxBinary(t))
	if err == nil {
		err = os.WriteFile(cut, program[:1<<20], 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		program string
		edit    func(*specs.Spec)
		words   []string
	}{
		"missing":        {"/nonexistent/hull-sandbox", nil, []string{"look for the program hull-sandbox", "no such file"}},
		"not executable": {plain, nil, []string{"start hull-sandbox: permission denied", "must be executable"}},
		"a script":       {script, nil, []string{"start hull-sandbox: no such file or directory", "not static"}},
		"cut":            {cut, nil, []string{"the sandbox ended while it was being made: SIG", "hull-sandbox may be damaged"}},
		"no sandbox":     {hulltest.Prog(t), nil, []string{"the sandbox ended while it was being made: exit status ", "hull-sandbox may be damaged"}},
		"little memory": {"", func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(4 << 20))}
		}, []string{"the sandbox ended while it was being made", "linux.resources.memory.limit may be too small"}},
		"few processes": {"", func(s *specs.Spec) {
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(3))}
		}, []string{"the sandbox ended while it was being made", "linux.resources.pids.limit may be too small"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t)
			if test.program != "" {
				r.SandboxProgram = test.program
			}
			edits := []func(*specs.Spec){args("true")}
			if test.edit != nil {
				edits = append(edits, test.edit)
			}
			_, err := tryRun(t, r, edits...)
			refused(t, err, nil, test.words...)
		})
	}
}

// sandboxed returns a container with a process of exec, and the host's processes that it consists of.
func sandboxed(t *testing.T) (c *hull.Container, second *hull.Process, all []int) {
	t.Helper()
	c = running(t)
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	second, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
	if err != nil {
		t.Fatal(errorText(err))
	}
	if all, err = c.Processes(); err != nil || len(all) < 2 {
		t.Fatal(all, err)
	}
	return c, second, all
}

// The container's kernel is killed, as by the host's that has no memory left: the container has ended then, with all of its
// processes.
func TestSandboxKilled(t *testing.T) {
	c, second, all := sandboxed(t)
	if err := unix.Kill(c.Init().Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	expect(t, "137", wait(t, second))
	expect(t, "signal SIGKILL", wait(t, c.Init()))
	wantStatus(t, c, hull.Stopped)
	for _, pid := range all {
		gone(t, pid)
	}
	_, err := tryExec(t, c, verb("true"))
	refused(t, err, hull.ErrBadState)
}

// So are its helpers, which the programs' memory is in: it goes on as far as it can, and can be deleted.
func TestSandboxHelpersKilled(t *testing.T) {
	c, second, all := sandboxed(t)
	for _, pid := range all {
		if pid != c.Init().Pid {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(errorText(err))
	}
	if status := wait(t, second); status == "0" {
		t.Error("the process of exec ends as if nothing had been")
	}
	for _, pid := range all {
		gone(t, pid)
	}
}

// A socket that the sandbox's kernel has no file for is refused before it gets any stream: who waits for the end of another one
// would wait for the container's.
func TestSandboxSocketAsStream(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "socket")
	defer socket.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := running(t)
	_, err = c.Exec(t.Context(), hull.ExecOptions{Process: c.ProcessSpec(), Stdio: hull.Stdio{In: socket, Out: w}})
	w.Close()
	refused(t, err, hull.ErrUnsupported, "standard stream 0: not possible in sandbox isolation: a socket of another family than AF_UNIX")
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("standard output: %v", err)
	}
}

// A socket of the host's is a stream where it has one other end and no more: else who takes over the sandbox's kernel would be
// sent connections of the host's, or could send to whoever has a name.
func TestSandboxSocketsAsStreams(t *testing.T) {
	name := "@hulltest-streams-" + strconv.Itoa(os.Getpid())
	socket := func(kind int, listens bool) *os.File {
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err == nil && listens {
			err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: name}), unix.Listen(fd, 1))
		}
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		return f
	}
	pair := func(kind int) (ours, theirs *os.File) {
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		return ours, theirs
	}
	c := running(t)
	_, datagrams := pair(unix.SOCK_DGRAM)
	for want, f := range map[string]*os.File{
		"a socket that listens":                              socket(unix.SOCK_STREAM, true),
		"a socket of datagrams, or one that isn't connected": socket(unix.SOCK_STREAM, false),
		"a socket of datagrams":                              datagrams,
	} {
		_, err := c.Exec(t.Context(), hull.ExecOptions{Process: c.ProcessSpec(), Stdio: hull.Stdio{In: f}})
		refused(t, err, hull.ErrUnsupported, "exec box", "standard stream 0: not possible in sandbox isolation: "+want)
		_, err = newRuntime(t).Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t), Stdio: hull.Stdio{Err: f}})
		refused(t, err, hull.ErrUnsupported, "create box", "standard stream 2: not possible in sandbox isolation: "+want)
	}
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		ours, theirs := pair(kind)
		p := c.ProcessSpec()
		p.Args = hulltest.Args("echo", "connected")
		e, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Stdio: hull.Stdio{Out: theirs}})
		if err != nil {
			t.Fatal(errorText(err))
		}
		expect(t, "0", wait(t, e))
		b := make([]byte, 64)
		n, err := ours.Read(b)
		expect(t, "connected\n", string(b[:n]))
		if err != nil {
			t.Error(err)
		}
	}
}

// A directory as a standard stream would be a way to all files of the host.
func TestSandboxDirectoryAsStream(t *testing.T) {
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c := running(t)
	_, err = c.Exec(t.Context(), hull.ExecOptions{Process: c.ProcessSpec(), Stdio: hull.Stdio{In: dir}})
	refused(t, err, hull.ErrUnsupported, "standard stream 0: not possible in sandbox isolation: a directory of the host")
	_, err = newRuntime(t).Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t), Stdio: hull.Stdio{Out: dir}})
	refused(t, err, hull.ErrUnsupported, "standard stream 1: not possible in sandbox isolation: a directory of the host")
}

// hull-sandbox of another release than hull says so, in its report, too; called by people it says who calls it.
func TestSandboxOfAnotherRelease(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	boot := []string{"boot", "--bundle", "/", "--spec-fd", "4", "--controller-fd", "5", "--report-fd", "3", "--log-fd", "6", "--io-fds", "7"}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"other release": {append(boot[:len(boot):len(boot)], "--release", "0.0 1"), "hull of 0.0 1"},
		"none":          {boot, "hull-sandbox is of release"},
		"no command":    {nil, "the command is boot"},
		"no bundle":     {[]string{"boot", "--spec-fd", "4", "--controller-fd", "5", "--report-fd", "3", "--log-fd", "6"}, "--bundle is missing"},
		"no controller": {[]string{"boot", "--bundle", "/", "--spec-fd", "4", "--report-fd", "3", "--log-fd", "6"}, "--controller-fd"},
		"arguments":     {append(boot[:len(boot):len(boot)], "more"), `unexpected argument "more"`},
	} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd := exec.Command(hulltest.SandboxBinary(t), test.args...)
			cmd.ExtraFiles = []*os.File{w, null, null, null, null}
			out, err := cmd.CombinedOutput()
			w.Close()
			if exitStatus(err) != 2 || !strings.Contains(string(out), test.want) || !strings.Contains(string(out), "is started by hull") {
				t.Errorf("%v, %q; want 2 and %q", err, out, test.want)
			}
			report, err := io.ReadAll(r)
			if err != nil || (len(report) > 0) != strings.Contains(test.want, "hull") {
				t.Errorf("its report: %q, %v", report, err)
			}
		})
	}
}
