package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// screen is a terminal that a test sits at.
type screen struct {
	t     *testing.T
	keys  *os.File // the master
	tty   *os.File
	mu    sync.Mutex
	shown bytes.Buffer
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, keys: keys, tty: tty}
	done := make(chan bool)
	go func() {
		defer close(done)
		p := make([]byte, 4096)
		for {
			n, err := keys.Read(p)
			s.mu.Lock()
			s.shown.Write(p[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		tty.Close()
		<-done // the last who had it open is gone
		keys.Close()
	})
	return s
}

// at runs a program at the terminal, as the leader of its session.
func (s *screen) at(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.tty, s.tty, s.tty
	cmd.Env = append(os.Environ(), "PS1=prompt:", "HISTFILE=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return cmd
}

func (s *screen) start(cmd *exec.Cmd) {
	s.t.Helper()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	kill := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
	s.t.Cleanup(func() {
		kill.Stop()
		_ = cmd.Process.Kill() // or whoever waits for the terminal's end waits for ever
		_ = cmd.Wait()
	})
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// expect waits until the text is shown, and forgets all up to its end.
func (s *screen) expect(want string) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if i := strings.Index(s.text(), want); i >= 0 {
			s.mu.Lock()
			s.shown.Next(i + len(want))
			s.mu.Unlock()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not shown: %q, but %q", want, s.text())
		}
	}
}

func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := s.keys.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

const streamsAre = `for fd in 0 1; do test -t $fd && echo $fd; done; (: </dev/tty) 2>/dev/null && echo controlling; true`

// The command has a terminal if hull has one at both ends; otherwise it has what hull has, and none that controls it.
func TestDoHasTheStreamsOrATerminal(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	run := func(cmd *exec.Cmd) string {
		t.Helper()
		var out bytes.Buffer
		if cmd.Stdout == nil {
			cmd.Stdout = &out
		}
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(out.String(), "\n", " ")
	}
	s := newScreen(t)
	if err := s.at("hull", "do", "sh", "-c", streamsAre+"; echo end").Run(); err != nil {
		t.Fatal(err)
	}
	s.expect("0\r\n1\r\ncontrolling\r\nend\r\n")

	s = newScreen(t)
	cmd := s.at("hull", "do", "sh", "-c", streamsAre)
	cmd.Stdout = nil
	if got := run(cmd); got != "0 " {
		t.Errorf("into a pipe: %q", got)
	}

	s = newScreen(t)
	cmd = s.at("hull", "do", "sh", "-c", streamsAre+"; cat; echo end")
	cmd.Stdin = strings.NewReader("input\n")
	if cmd.SysProcAttr.Ctty = 1; cmd.Run() != nil {
		t.Error("from a pipe")
	}
	s.expect("1\r\ninput\r\nend\r\n")

	cmd = exec.Command("hull", "do", "cat")
	cmd.Stdin = strings.NewReader("no terminal")
	if got := run(cmd); got != "no terminal" {
		t.Errorf("with pipes: %q", got)
	}
}

// ^D ends the command's input, as the end of a pipe does, and the terminal is as it was.
func TestDoReadsToTheEnd(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	s := newScreen(t)
	before, err := unix.IoctlGetTermios(int(s.keys.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.at("hull", "do", "sh", "-c", "echo rea''dy; cat; echo end; exit 4")
	s.start(cmd)
	s.expect("ready")
	s.press("line\n")
	s.expect("line\r\nline\r\n")
	s.press("\x04")
	s.expect("end")
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 4 {
		t.Errorf("exit status %d", got)
	}
	after, err := unix.IoctlGetTermios(int(s.keys.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("terminal %+v, was %+v (%v)", after, before, err)
	}
}

func TestDoFollowsTheSize(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("stty"))
	s := newScreen(t)
	resize := func(rows, columns uint16) {
		if err := unix.IoctlSetWinsize(int(s.keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
			t.Fatal(err)
		}
	}
	resize(33, 44)
	cmd := s.at("hull", "do", "sh", "-c", `trap "stty size; exit 3" WINCH; stty size; while :; do sleep 0.1; done`)
	s.start(cmd)
	s.expect("33 44")
	resize(55, 66)
	s.expect("55 66")
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 3 {
		t.Errorf("exit status %d", got)
	}
}

// ^C, ^Z, fg and bg of a shell do what they do to a command without hull, with a terminal of its own and without. The
// command is bash: dash loses a ^C, and hangs after a ^Z, that comes while it is starting a program (vfork).
func TestDoIsAJob(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("bash"))
	for _, pipe := range []string{"", " | cat"} {
		t.Run("hull"+pipe, func(t *testing.T) {
			s := newScreen(t)
			shell := s.at("bash", "--norc", "--noprofile", "-i")
			s.start(shell)
			s.expect("prompt:")
			s.press("set -o pipefail; stty -echo\n")
			s.expect("prompt:")

			s.press(`hull do bash -c 'echo rea""dy; exec sleep 100'` + pipe + "\n")
			s.expect("ready")
			s.press("\x03")
			s.expect("prompt:")
			s.press("echo status ${PIPESTATUS[*]}.\n")
			s.expect("status " + map[string]string{"": "130", " | cat": "130 130"}[pipe] + ".")
			s.expect("prompt:")

			// The terminal is the shell's meanwhile, and works.
			s.press(`hull do bash -c 'echo rea""dy; read; echo go""ing on; exec sleep 100'` + pipe + "\n")
			s.expect("ready")
			s.press("\x1a")
			s.expect("Stopped")
			s.expect("prompt:")
			s.press("echo shell $((1+1))\n")
			s.expect("shell 2")
			s.expect("prompt:")
			s.press("fg\n\n")
			s.expect("going on")
			s.press("\x03")
			s.expect("prompt:")

			if pipe == "" {
				// A command that stops itself.
				s.press(`hull do sh -c 'echo rea""dy; kill -STOP $$; echo conti""nued'` + "\n")
				s.expect("ready")
				s.expect("Stopped")
				s.expect("prompt:")
				s.press("fg\n")
				s.expect("continued")
				s.expect("prompt:")

				// In the background: one that needs the terminal is stopped until it is in the foreground.
				s.press(`hull do sh -c 'echo rea""dy; exit 7' & sleep 0.3` + "\n")
				s.expect("prompt:")
				s.press("fg\n")
			} else {
				s.press(`hull do sh -c 'echo rea""dy; exit 7'` + pipe + " & wait\n")
			}
			s.expect("ready")
			s.expect("prompt:")
			s.press("wait; stty; exit 0\n")
			s.expect("-echo")
			if err := shell.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// doing starts a command of do that says "ready" before it does something else.
func doing(t *testing.T, script string) started {
	t.Helper()
	h := newHost(t)
	run := h.start(h.hull("do", "sh", "-c", script))
	run.expect("ready")
	return run
}

func TestDoForwardsSignals(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGWINCH} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			run := doing(t, fmt.Sprintf(`exec 2>/dev/null; trap "echo caught" %d; echo ready; while :; do sleep 0.05; done`, int(sig)))
			if err := run.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			run.expect("caught")
			_ = run.Process.Signal(unix.SIGKILL)
			run.expectStatus(-1)
		})
	}
}

// What a terminal sends is for the process group; anything else for the command alone.
func TestDoSignalsTheGroup(t *testing.T) {
	for sig, want := range map[unix.Signal]string{unix.SIGHUP: "child parent", unix.SIGTERM: "parent"} {
		hulltest.Require(t, hulltest.Kernel(6, 9))
		run := doing(t, `exec 2>/dev/null; trap : HUP TERM; (trap "printf 'child '" HUP TERM; echo ready; sleep 0.2; sleep 0.2) & wait; wait; echo parent`)
		if err := run.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		run.expect(want)
		run.expectStatus(0)
	}
}

// What nohup(1) or a shell without job control has hull ignore is not passed on.
func TestDoIgnoresWhatItWasTold(t *testing.T) {
	h := newHost(t)
	run := h.start(exec.Command("sh", "-c", `trap "" HUP INT; exec hull do sh -c 'echo ready; sleep 0.5; echo done'`))
	run.expect("ready")
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT} {
		if err := run.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	run.expect("done")
	run.expectStatus(0)
}

func TestDoEndsWithItsReader(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("bash"))
	out, err := exec.Command("bash", "-c", `hull do yes | head -n 1; echo ${PIPESTATUS[0]}`).Output()
	if err != nil || string(out) != "y\n141\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// Jobs that are left behind end with the command, and have nothing of hull's open any more.
func TestDoLeavesNothingRunning(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	began := time.Now()
	out, err := exec.Command("hull", "do", "sh", "-c", `trap "" HUP TERM; (setsid sleep 100) & nohup sleep 100 2>/dev/null & echo done`).Output()
	if err != nil || string(out) != "done\n" || time.Since(began) > 20*time.Second {
		t.Errorf("%q, %v after %v", out, err, time.Since(began))
	}
}

// Without a shell that could let it go on, hull does not stop: at a terminal the command goes on at once.
func TestDoWithoutAShellDoesNotStop(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	s := newScreen(t)
	cmd := s.at("hull", "do", "sh", "-c", `kill -STOP $$; echo gone on`)
	s.start(cmd)
	s.expect("gone on")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// In a sandbox a ^Z stops no command that nobody could let go on, and one that stops itself ends at a ^C.
func TestDoInASandboxIsNotLeftStopped(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	link := sandboxLink(t)
	if err := os.Symlink(hulltest.SandboxBinary(t), link); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(link)

	s := newScreen(t)
	cmd := s.at("hull", "do", "--isolation", "sandbox", "sh", "-c", "trap 'echo caught' TSTP; echo rea''dy; sleep 0.5; echo e''nd")
	s.start(cmd)
	s.expect("ready")
	s.press("\x1a")
	s.expect("caught")
	s.expect("end")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}

	s = newScreen(t)
	cmd = s.at("hull", "do", "--isolation", "sandbox", "sh", "-c", "echo rea''dy; kill -TSTP $$; echo e''nd; sleep 100")
	s.start(cmd)
	s.expect("ready")
	s.press("\x03")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 128+2 {
		t.Error(err)
	}
}
