package cli

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// host is where a test's containers have their states.
type host struct {
	t    *testing.T
	root string
}

func newHost(t *testing.T) host {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	h := host{t, filepath.Join(t.TempDir(), "root")}
	t.Cleanup(func() { deleteAll(h.root) })
	return h
}

// hull returns a command that calls hull, with streams that go nowhere.
func (h host) hull(args ...string) *exec.Cmd {
	return exec.Command("hull", append([]string{"--root", h.root}, args...)...)
}

// output returns what hull prints.
func (h host) output(args ...string) string {
	h.t.Helper()
	var stderr bytes.Buffer
	cmd := h.hull(args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("hull %q: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// started is a hull in the background, whose output is read line by line.
type started struct {
	*exec.Cmd
	t     *testing.T
	lines *bufio.Scanner
}

func (h host) start(cmd *exec.Cmd) started {
	h.t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	// A hull that doesn't end leaves the output open to the container's program, too.
	kill := time.AfterFunc(30*time.Second, func() {
		_ = cmd.Process.Kill()
		deleteAll(h.root)
	})
	h.t.Cleanup(func() { kill.Stop() })
	return started{cmd, h.t, bufio.NewScanner(out)}
}

func (s started) expect(want string) {
	s.t.Helper()
	if !s.lines.Scan() || s.lines.Text() != want {
		s.t.Fatalf("got %q, want %q", s.lines.Text(), want)
	}
}

func (s started) expectStatus(want int) {
	s.t.Helper()
	for s.lines.Scan() { // Wait closes the pipe
	}
	_ = s.Wait()
	if got := s.ProcessState.ExitCode(); got != want {
		s.t.Errorf("exit status %d, want %d", got, want)
	}
}

func args(verb string, args ...string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = hulltest.Args(verb, args...) }
}

func TestSignalsAreForwarded(t *testing.T) {
	h := newHost(t)
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1, unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH, unix.SIGPIPE} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			h.t = t
			b := hulltest.Bundle(t, args("trap", unix.SignalName(sig)))
			run := h.start(h.hull("run", "-b", b, "x"))
			run.expect("ready")
			if err := run.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			run.expect(unix.SignalName(sig))
			run.expectStatus(0)
		})
	}
}

func TestSignalThatEndsTheProgram(t *testing.T) {
	h := newHost(t)
	b := hulltest.Bundle(t, args("do", "echo", "up", ",", "sleep", "100"))
	run := h.start(h.hull("run", "-b", b, "x"))
	run.expect("up")
	h.output("kill", "x", "KILL")
	run.expectStatus(128 + 9)
	if _, err := os.Stat(filepath.Join(h.root, "x")); err == nil {
		t.Error("the container is still there")
	}
}

// TestInterruptedCreation: a signal while a hook runs takes everything back.
func TestInterruptedCreation(t *testing.T) {
	h := newHost(t)
	hulltest.Require(t, hulltest.Command("sleep"))
	for _, verb := range []string{"create", "run"} {
		t.Run(verb, func(t *testing.T) {
			h.t = t
			mark := filepath.Join(t.TempDir(), "mark")
			b := hulltest.Bundle(t, func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{
					{Path: "/bin/sh", Args: []string{"sh", "-c", "echo >" + mark + "; exec sleep 60"}, Env: []string{"PATH=/bin:/usr/bin"}},
				}}
			})
			var stderr bytes.Buffer
			cmd := h.hull(verb, "-b", b, "x")
			cmd.Stderr = &stderr
			begin := time.Now()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the hook", func() bool { _, err := os.Stat(mark); return err == nil })
			if err := cmd.Process.Signal(unix.SIGINT); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != 128+2 {
				t.Errorf("exit status %d", got)
			}
			if want := "hull: " + verb + " x: interrupted by SIGINT\n"; stderr.String() != want {
				t.Errorf("got %q, want %q", stderr.String(), want)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			if _, err := os.Stat(filepath.Join(h.root, "x")); err == nil {
				t.Error("the container is still there")
			}
		})
	}
}

func waitFor(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: waited in vain", what)
		}
	}
}

// pipeWith returns the reading end of a pipe with that text.
func pipeWith(t *testing.T, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return r
}

func TestDescriptorsArePassedOn(t *testing.T) {
	h := newHost(t)
	b := hulltest.Bundle(t, args("do", "cat", "/proc/self/fd/3", ",", "cat", "/proc/self/fd/4", ",", "env"))
	cmd := h.hull("run", "--preserve-fds", "2", "-b", b, "x")
	cmd.ExtraFiles = []*os.File{pipeWith(t, "three\n"), pipeWith(t, "four\n")}
	run := h.start(cmd)
	run.expect("three")
	run.expect("four")
	run.expectStatus(0)
}

func TestSocketActivation(t *testing.T) {
	h := newHost(t)
	b := hulltest.Bundle(t, args("do", "cat", "/proc/self/fd/3", ",", "cat", "/proc/self/fd/4", ",", "env"))
	// A service manager knows the pid before it executes; so does a shell's exec.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec hull --root "$0" run --preserve-fds 1 -b "$1" x`, h.root, b)
	cmd.ExtraFiles = []*os.File{pipeWith(t, "socket\n"), pipeWith(t, "preserved\n")}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	if len(lines) < 2 || lines[0] != "socket" || lines[1] != "preserved" {
		t.Errorf("descriptors: got %q", out)
	}
	for _, want := range []string{"LISTEN_FDS=1", "LISTEN_PID=1"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

func TestMissingDescriptor(t *testing.T) {
	h := newHost(t)
	b := hulltest.Bundle(t)
	log := filepath.Join(t.TempDir(), "log") // which will have the number 3
	cmd := exec.Command("hull", "--log", log, "--root", h.root, "run", "--preserve-fds", "1", "-b", b, "x")
	out, err := cmd.CombinedOutput()
	if want := "hull: run x: --preserve-fds 1: descriptor 3: bad file descriptor\n"; err == nil || string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

// consoleSocket returns the path of a socket, and the terminal that is sent there.
func consoleSocket(t *testing.T) (path string, terminal <-chan *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "console")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := make(chan *os.File, 1)
	go func() {
		defer close(c)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		rights := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 100), rights)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(rights[:n])
		if err != nil || len(messages) == 0 {
			return
		}
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil {
			c <- os.NewFile(uintptr(fds[0]), "console")
		}
	}()
	return path, c
}

func TestConsoleSocket(t *testing.T) {
	isolated(t, func(t *testing.T, h host) {
		b := hulltest.Bundle(t, args("sleep", "100"))
		tty := func() string {
			return hulltest.Bundle(t, args("tty"), func(s *specs.Spec) { s.Process.Terminal = true })
		}
		for name, command := range map[string][]string{
			"run":    {"run", "-d", "-b", tty(), "x"},
			"create": {"create", "-b", tty(), "y"},
			"exec":   {"exec", "-d", "-t", "z", hulltest.ProgPath, "tty"},
		} {
			t.Run(name, func(t *testing.T) {
				h.t = t
				if name == "exec" {
					if err := h.hull("run", "-d", "-b", b, "z").Run(); err != nil {
						t.Fatal(err)
					}
				}
				path, terminal := consoleSocket(t)
				h.output(append([]string{command[0], "--console-socket", path}, command[1:]...)...)
				if name == "create" {
					h.output("start", "y")
				}
				console, ok := <-terminal
				if !ok {
					t.Fatal("no terminal was sent")
				}
				defer console.Close()
				line, err := bufio.NewReader(console).ReadString('\n')
				if err != nil || !strings.Contains(line, "/dev/pts/") {
					t.Errorf("the program writes %q, %v", line, err)
				}
			})
		}
	})
}

// TestEventsOfOrphans: a container whose first process has ended while others go on has events as long as they do, as with runc.
func TestEventsOfOrphans(t *testing.T) {
	h := newHost(t)
	b := hulltest.Bundle(t, func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		s.Root.Path = "/"
		s.Root.Readonly = true
		s.Process.Args = []string{"/bin/sh", "-c", "sleep 100 >/dev/null 2>&1 & read line"}
	})
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	run := h.hull("run", "-d", "-b", b, "x")
	run.Stdin = in
	if err := run.Run(); err != nil {
		t.Fatal(err)
	}
	events := h.start(h.hull("events", "--interval", "50ms", "x"))
	if !events.lines.Scan() {
		t.Fatal("no event")
	}
	hold.Close()
	waitFor(t, "the first process to end", func() bool { return strings.Contains(h.output("state", "x"), `"status": "stopped"`) })
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		if !events.lines.Scan() {
			t.Fatal("the events end with the first process")
		}
	}
	h.output("kill", "--all", "x", "9")
	events.expectStatus(0)
}

// TestOrphansAreReaped: without a pid namespace, hull becomes the parent of what the container's processes leave.
func TestOrphansAreReaped(t *testing.T) {
	h := newHost(t)
	b := hulltest.Bundle(t, args("do", "echo", "up", ",", "sleep", "100"), func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		// Made from the host's shell: the root file system has none.
		s.Root.Path = "/"
		s.Root.Readonly = true
		s.Process.Args = []string{"/bin/sh", "-c", "(sleep 0.3 & echo $!); sleep 2"}
	})
	run := h.start(h.hull("run", "-b", b, "x"))
	if !run.lines.Scan() {
		t.Fatal("no output")
	}
	pid, err := strconv.Atoi(run.lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := parentOf(t, pid), run.Process.Pid; got != want {
		t.Errorf("the orphan's parent is %d, want %d", got, want)
	}
	waitFor(t, "the orphan to be reaped", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
	run.expectStatus(0)
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	var parent int
	waitFor(t, "the orphan's parent", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		parent, err = strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(parent) + "/comm")
		return err == nil && string(comm) != "sh\n"
	})
	return parent
}

// TestTerminalInForeground: the caller's terminal is restored. Its size is the program's, and is set, as the modes are,
// before the program runs.
func TestTerminalInForeground(t *testing.T) {
	h := newHost(t)
	hulltest.Require(t, hulltest.Command("script"), hulltest.Command("stty"))
	b := hulltest.Bundle(t, args("tty"), func(s *specs.Spec) { s.Process.Terminal = true })
	if err := h.hull("run", "-d", "-b", hulltest.Bundle(t, args("sleep", "100")), "y").Run(); err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string]string{
		"run":  "run -b " + b + " x",
		"exec": "exec -t y " + hulltest.ProgPath + " tty",
	} {
		t.Run(name, func(t *testing.T) { testForeground(t, "hull --root "+h.root+" "+command) })
	}
	t.Run("sandbox", func(t *testing.T) {
		hulltest.Require(t, hulltest.MountSetattr)
		link := sandboxLink(t)
		if err := os.Symlink(hulltest.SandboxBinary(t), link); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(link)
		testForeground(t, "hull --isolation sandbox --root "+h.root+" run -b "+b+" x")
	})
}

func testForeground(t *testing.T, command string) {
	cmd := exec.Command("script", "-qec", "stty rows 33 cols 99; stty -g; "+command+"; stty -g", "/dev/null")
	typing, err := cmd.StdinPipe() // script passes on the end of its input as bytes
	if err != nil {
		t.Fatal(err)
	}
	defer typing.Close()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\r\n")
	if first, last := lines[0], lines[len(lines)-1]; first != last {
		t.Errorf("the terminal was %s and is %s", first, last)
	}
	if !strings.HasPrefix(lines[1], "0 33x99 /dev/pts/") {
		t.Errorf("no size 33x99 in\n%s", out)
	}
	for _, line := range lines {
		if strings.HasSuffix(line, "\r") {
			t.Errorf("two terminals end a line: %q", line)
		}
	}
}

// notifier is what runs in the containers of TestNotify.
func notifier() {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err == nil {
		_, err = c.Write([]byte("READY=1\nMAINPID=1\n"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "notifier:", err)
		os.Exit(1)
	}
	time.Sleep(time.Minute)
}

// notifierBundle makes a bundle that runs this test program as a notifier.
func notifierBundle(t *testing.T) string {
	t.Helper()
	b := hulltest.Bundle(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/notifier"} })
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b, "rootfs/bin/notifier"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	return b
}

// static is the need of a test program that runs in a root file system without libraries: one made without cgo.
var static = hulltest.Need{Name: "static", Check: func() error {
	program, err := elf.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer program.Close()
	libraries, err := program.ImportedLibraries()
	if len(libraries) > 0 {
		return fmt.Errorf("the test program needs %v", libraries)
	}
	return err
}}

func TestNotify(t *testing.T) {
	h := newHost(t)
	hulltest.Require(t, static)
	b := notifierBundle(t)
	path := filepath.Join(t.TempDir(), "manager")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	receive := func(t *testing.T) string {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1000)
		n, err := manager.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	pid := func(id string) string {
		return strings.TrimSpace(strings.Trim(h.output("ps", "--format", "json", id), "[]\n"))
	}
	detached := func(t *testing.T, id string, call func()) {
		t.Helper()
		done := make(chan struct{})
		go func() {
			defer close(done)
			call()
		}()
		if got, want := receive(t), "READY=1\nMAINPID="+pid(id)+"\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := receive(t); got != "BARRIER=1" {
			t.Errorf("got %q", got)
		}
		<-done
		h.output("delete", "--force", id)
	}
	t.Setenv("NOTIFY_SOCKET", path)

	t.Run("run detached", func(t *testing.T) {
		h.t = t
		detached(t, "x", func() {
			if err := h.hull("run", "-d", "-b", b, "x").Run(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("create and start", func(t *testing.T) {
		h.t = t
		if err := h.hull("create", "-b", b, "y").Run(); err != nil {
			t.Fatal(err)
		}
		detached(t, "y", func() {
			if err := h.hull("start", "y").Run(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("run", func(t *testing.T) {
		h.t = t
		run := h.start(h.hull("run", "-b", b, "z"))
		if got := receive(t); got != "READY=1\n" {
			t.Errorf("got %q", got)
		}
		h.output("kill", "z", "KILL")
		run.expectStatus(128 + 9)
	})
}
