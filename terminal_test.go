package hull_test

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func withTerminal(s *specs.Spec) {
	s.Process.Terminal = true
	s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
}

// console is a hull.Console that keeps the master.
type console struct{ *os.File }

func (c *console) take(master *os.File) error {
	c.File = master
	return nil
}

// typed reads what a terminal shows until its process ends; a terminal ends lines with CR LF.
func typed(t testing.TB, console *os.File) string {
	t.Helper()
	defer console.Close()
	var all strings.Builder
	console.SetReadDeadline(time.Now().Add(20 * time.Second))
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		all.WriteString(strings.TrimSuffix(lines.Text(), "\r") + "\n")
	}
	return all.String() // the end of a terminal is EIO
}

const seesTerminal = "0 33x77 /dev/pts/0\n1 33x77 /dev/pts/0\n2 33x77 /dev/pts/0\n"

func TestTerminal(t *testing.T) {
	r := newRuntime(t)
	var master console
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, args("tty"), withTerminal), Console: master.take})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, seesTerminal, typed(t, master.File))
	expect(t, "0", wait(t, c.Init()))
}

func TestTerminalOfCreate(t *testing.T) {
	var master console
	c := create(t, newRuntime(t), hull.CreateOptions{Console: master.take},
		args("do", "tty", ",", "stat", "/dev/console", "/dev/ptmx"), withTerminal)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	said := typed(t, master.File)
	if !strings.HasPrefix(said, seesTerminal) || !strings.Contains(said, "/dev/console char 0620 0 5 0 136 0\n") ||
		!strings.Contains(said, "/dev/ptmx link ") {
		t.Errorf("it says\n%s", said)
	}
	expect(t, "0", wait(t, c.Init()))
}

func TestTerminalOfExec(t *testing.T) {
	c := running(t)
	p := c.ProcessSpec()
	p.Args, p.Terminal, p.ConsoleSize = hulltest.Args("tty"), true, &specs.Box{Height: 33, Width: 77}
	var master console
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Console: master.take})
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, seesTerminal, typed(t, master.File))
	expect(t, "0", wait(t, proc))
}

// A terminal is the controlling one: what is typed becomes signals, and is shown as such.
func TestTerminalControls(t *testing.T) {
	r := newRuntime(t)
	var console console
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, args("trap", "INT"), withTerminal), Console: console.take})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	defer console.Close()
	console.SetReadDeadline(time.Now().Add(20 * time.Second))
	lines := bufio.NewScanner(console)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("it says %q, %v", lines.Text(), lines.Err())
	}
	if _, err := console.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "^C") || !strings.Contains(lines.Text(), "SIGINT") {
		t.Errorf("after Ctrl-C it says %q, %v", lines.Text(), lines.Err())
	}
	expect(t, "0", wait(t, c.Init()))
}

// The terminal belongs to the user of the process, who may open it again.
func TestTerminalOfUser(t *testing.T) {
	r := newRuntime(t)
	var master console
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Console: master.take, Bundle: hulltest.Bundle(t, withTerminal,
		args("do", "stat", "/dev/pts/0", ",", "write", "/dev/pts/0", "again"),
		func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1000} })})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, "/dev/pts/0 char 0620 1000 5 0 136 0\nagain\n", typed(t, master.File))
}

func TestConsoleSocket(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accept := func() <-chan *os.File {
		received := make(chan *os.File, 1)
		go func() {
			defer close(received)
			if conn, err := l.AcceptUnix(); err == nil {
				defer conn.Close()
				received <- receiveFile(conn)
			}
		}()
		return received
	}
	received := accept()
	c := create(t, newRuntime(t), hull.CreateOptions{ConsoleSocket: path}, args("do", "tty", ",", "sleep", "3600"), withTerminal)
	console := <-received
	if console == nil {
		t.Fatal("no terminal was sent")
	}
	defer console.Close()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(console)
	if !lines.Scan() || lines.Text() != "0 33x77 /dev/pts/0" {
		t.Errorf("it says %q, %v", lines.Text(), lines.Err())
	}

	received = accept()
	p := c.ProcessSpec()
	p.Args = hulltest.Args("tty")
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, ConsoleSocket: path})
	if err != nil {
		t.Fatal(errorText(err))
	}
	second := <-received
	if second == nil {
		t.Fatal("no terminal of exec was sent")
	}
	expect(t, strings.ReplaceAll(seesTerminal, "pts/0", "pts/1"), typed(t, second))
	expect(t, "0", wait(t, proc))
}

func TestConsoleSocketThatCannotBe(t *testing.T) {
	_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{
		Bundle: hulltest.Bundle(t, withTerminal), ConsoleSocket: "/nonexistent/socket",
	})
	refused(t, err, unix.ENOENT, "run box", "console socket")
}

// What Console does comes before the program: it finds the size and modes that were set.
func TestConsoleComesFirst(t *testing.T) {
	r := newRuntime(t)
	var master console
	resize := func(f *os.File) error {
		master.File = f
		return unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 11, Col: 22})
	}
	want := strings.ReplaceAll(seesTerminal, "33x77", "11x22")

	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, args("tty"), withTerminal), Console: resize})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, want, typed(t, master.File))
	expect(t, "0", wait(t, c.Init()))

	c = running(t)
	p := c.ProcessSpec()
	p.Args, p.Terminal = hulltest.Args("tty"), true
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Console: resize})
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, want, typed(t, master.File))
	expect(t, "0", wait(t, proc))
}

func TestConsoleThatRefuses(t *testing.T) {
	var master console
	refuse := func(f *os.File) error {
		master.File = f
		return unix.ENOTTY
	}
	_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: hulltest.Bundle(t, withTerminal), Console: refuse})
	refused(t, err, unix.ENOTTY, "run box", "terminal")
	master.Close()
}

// A terminal that nobody takes is refused before anything is made; so is a socket that would wait for one in vain.
func TestTerminalThatNobodyTakes(t *testing.T) {
	_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: hulltest.Bundle(t, withTerminal)})
	refused(t, err, hull.ErrBadUsage, "run box", "process.terminal", "console socket")
	_, err = tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: hulltest.Bundle(t), ConsoleSocket: "/nonexistent/socket"})
	refused(t, err, hull.ErrBadUsage, "run box", "console socket")

	c := running(t)
	p := c.ProcessSpec()
	p.Args, p.Terminal = hulltest.Args("tty"), true
	_, err = c.Exec(t.Context(), hull.ExecOptions{Process: p})
	refused(t, err, hull.ErrBadUsage, "exec box", "process.terminal")
}

// shows reads what a terminal shows up to the text.
func shows(t testing.TB, console *os.File, text string) {
	t.Helper()
	console.SetReadDeadline(time.Now().Add(20 * time.Second))
	var all strings.Builder
	for b := make([]byte, 4096); !strings.HasSuffix(all.String(), text); {
		n, err := console.Read(b)
		all.Write(b[:n])
		if err != nil {
			t.Fatalf("it shows %q, then %v; want %q", all.String(), err, text)
		}
	}
	if all.String() != text {
		t.Errorf("it shows %q, want %q", all.String(), text)
	}
}

// onTerminal execs a process at a terminal, whose master is returned.
func onTerminal(t *testing.T, c *hull.Container, verb string, more ...string) (*hull.Process, *os.File) {
	t.Helper()
	p := c.ProcessSpec()
	p.Args, p.Terminal = hulltest.Args(verb, more...), true
	var master console
	nonblocking := func(f *os.File) error {
		defer f.Close()
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = unix.SetNonblock(fd, true)
			master.File = os.NewFile(uintptr(fd), "master")
		}
		return err
	}
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Console: nonblocking})
	if err != nil {
		t.Fatal(errorText(err))
	}
	t.Cleanup(func() { master.Close() })
	return proc, master.File
}

// A terminal that changes its size tells who is in its foreground.
func TestTerminalResized(t *testing.T) {
	proc, master := onTerminal(t, running(t), "do", "trap", "WINCH", ",", "tty")
	shows(t, master, "ready\r\n")
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 55}); err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(int(master.Fd()), true)
	shows(t, master, strings.ReplaceAll("SIGWINCH\n"+strings.ReplaceAll(seesTerminal, "33x77", "44x55"), "\n", "\r\n"))
	expect(t, "0", wait(t, proc))
}

// Lines are edited, shown once, and ended as its modes say, which are those that its other end sets.
func TestTerminalModes(t *testing.T) {
	proc, master := onTerminal(t, running(t), "cat")
	write := func(text string) {
		t.Helper()
		if _, err := master.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write("onf\x7fe\n")
	shows(t, master, "onf\b \be\r\none\r\n")
	conn, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	conn.Control(func(fd uintptr) {
		modes, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil || modes.Lflag&unix.ECHO == 0 || modes.Lflag&unix.ICANON == 0 {
			t.Fatalf("modes %+v, %v", modes, err)
		}
		modes.Lflag &^= unix.ECHO
		if err := unix.IoctlSetTermios(int(fd), unix.TCSETS, modes); err != nil {
			t.Fatal(err)
		}
	})
	write("two\n")
	shows(t, master, "two\r\n")
	write("\x04")
	expect(t, "0", wait(t, proc))
}

// What a process has written is there when it has ended, all of it.
func TestTerminalShowsAll(t *testing.T) {
	long := strings.Repeat("0123456789", 9000)
	proc, master := onTerminal(t, running(t), "do", "echo", long, ",", "echo", "end")
	time.Sleep(50 * time.Millisecond)
	shows(t, master, long+"\r\nend\r\n")
	expect(t, "0", wait(t, proc))
}

// Who closes a terminal ends what runs there.
func TestTerminalHangup(t *testing.T) {
	proc, master := onTerminal(t, running(t), "sleep", "3600")
	master.Close()
	expect(t, "signal SIGHUP", wait(t, proc))
}
