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
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, args("tty"), withTerminal)})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, seesTerminal, typed(t, c.Init().Console))
	expect(t, "0", wait(t, c.Init()))
}

func TestTerminalOfCreate(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{}, args("do", "tty", ",", "stat", "/dev/console", "/dev/ptmx"), withTerminal)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	said := typed(t, c.Init().Console)
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
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, seesTerminal, typed(t, proc.Console))
	expect(t, "0", wait(t, proc))
}

// A terminal is the controlling one: what is typed becomes signals.
func TestTerminalControls(t *testing.T) {
	r := newRuntime(t)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, args("trap", "INT"), withTerminal)})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	console := c.Init().Console
	defer console.Close()
	console.SetReadDeadline(time.Now().Add(20 * time.Second))
	lines := bufio.NewScanner(console)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("it says %q, %v", lines.Text(), lines.Err())
	}
	if _, err := console.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	if !lines.Scan() || !strings.Contains(lines.Text(), "SIGINT") {
		t.Errorf("after Ctrl-C it says %q, %v", lines.Text(), lines.Err())
	}
	expect(t, "0", wait(t, c.Init()))
}

// The terminal belongs to the user of the process, who may open it again.
func TestTerminalOfUser(t *testing.T) {
	r := newRuntime(t)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, withTerminal,
		args("do", "stat", "/dev/pts/0", ",", "write", "/dev/pts/0", "again"),
		func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1000} })})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, "/dev/pts/0 char 0620 1000 5 0 136 0\nagain\n", typed(t, c.Init().Console))
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
	if c.Init().Console != nil {
		t.Error("the terminal is kept, too")
	}
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
