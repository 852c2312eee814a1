package tty

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// newPTY returns a terminal of the test's own.
func newPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func newPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	v, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *v
}

func setSize(t *testing.T, f *os.File, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, f *os.File) (rows, columns uint16) {
	t.Helper()
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		t.Fatal(err)
	}
	return size.Row, size.Col
}

func TestSessionHasTheCallersTerminal(t *testing.T) {
	outside, caller := newPTY(t)
	console, process := newPTY(t)
	before := termios(t, caller)
	setSize(t, outside, 33, 99)

	s, err := Attach(console, caller, caller, caller)
	if err != nil {
		t.Fatal(err)
	}
	raw := termios(t, caller)
	if raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("the caller's terminal isn't raw: lflag %#o", raw.Lflag)
	}
	if raw.Oflag&unix.OPOST == 0 {
		t.Error("the caller's terminal doesn't process output")
	}
	if rows, columns := size(t, process); rows != 33 || columns != 99 {
		t.Errorf("the process's terminal has %d rows, %d columns", rows, columns)
	}
	setSize(t, outside, 10, 20)
	s.Resize()
	if rows, columns := size(t, process); rows != 10 || columns != 20 {
		t.Errorf("after Resize it has %d rows, %d columns", rows, columns)
	}

	// ^C is for the process: it comes through as a byte of this terminal, which the other one makes a signal of.
	if _, err := outside.WriteString("ab\n"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, process, 3); got != "ab\n" {
		t.Errorf("the process reads %q", got)
	}
	if _, err := process.WriteString("xy\n"); err != nil {
		t.Fatal(err)
	}
	// The echo, then the output; newlines become CR LF once.
	if got := read(t, outside, 8); got != "ab\r\nxy\r\n" {
		t.Errorf("the user sees %q", got)
	}
	if err := process.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(); err != nil {
		t.Error(err)
	}
	if after := termios(t, caller); after != before {
		t.Errorf("the caller's terminal was\n%+v\nand is\n%+v", before, after)
	}
	if _, err := console.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Error("the console is still open")
	}
}

// read reads n bytes, or what comes within a while.
func read(t *testing.T, f *os.File, n int) string {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		buf := make([]byte, n)
		m, _ := io.ReadFull(f, buf)
		got <- string(buf[:m])
	}()
	select {
	case s := <-got:
		return s
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no %d bytes", f.Name(), n)
		return ""
	}
}

func TestEndOfFileIsTyped(t *testing.T) {
	for _, input := range []string{"", "one\n", "one\ntwo", strings.Repeat("line\n", 3000)} {
		console, process := newPTY(t)
		in, feed := newPipe(t)
		_, out := newPipe(t)
		s, err := Attach(console, in, out, out)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		go func() {
			// As cat(1): 0 bytes are the end.
			var b bytes.Buffer
			buf := make([]byte, 4096)
			for {
				n, err := unix.Read(int(process.Fd()), buf)
				if n <= 0 || err != nil {
					got <- b.String()
					return
				}
				b.Write(buf[:n])
			}
		}()
		go func() {
			_, _ = feed.WriteString(input)
			feed.Close()
		}()
		select {
		case text := <-got:
			if text != input {
				t.Errorf("of %d bytes the process reads %d: %.40q", len(input), len(text), text)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%.20q: no end of file", input)
		}
		process.Close()
		if err := s.Finish(); err != nil {
			t.Error(err)
		}
	}
}

// A shell that edits its line makes the terminal raw only after the end of the input was typed, which is NUL to it then.
// The program that it starts reads lines again.
func TestEndOfFileIsTypedAgain(t *testing.T) {
	console, process := newPTY(t)
	in, feed := newPipe(t)
	_, out := newPipe(t)
	s, err := Attach(console, in, out, out)
	if err != nil {
		t.Fatal(err)
	}
	feed.Close()
	cooked := termios(t, process)
	raw := cooked
	raw.Lflag &^= unix.ICANON
	read := func(until string) {
		t.Helper()
		got := make(chan error, 1)
		go func() {
			buf := make([]byte, 16)
			for {
				n, err := unix.Read(int(process.Fd()), buf)
				if err != nil || string(bytes.Trim(buf[:n], "\x00")) == until {
					got <- err
					return
				}
			}
		}()
		select {
		case err := <-got:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no %q to read", until)
		}
	}
	time.Sleep(2 * modePauseMin) // typed, but not read
	for _, mode := range []struct {
		termios unix.Termios
		eof     string
	}{{raw, "\x04"}, {cooked, ""}, {raw, "\x04"}} {
		if err := unix.IoctlSetTermios(int(process.Fd()), unix.TCSETSF, &mode.termios); err != nil {
			t.Fatal(err)
		}
		read(mode.eof)
	}
	process.Close()
	if err := s.Finish(); err != nil {
		t.Error(err)
	}
}

func TestFinishShowsLastWords(t *testing.T) {
	console, process := newPTY(t)
	in, _ := newPipe(t)
	shown, out := newPipe(t)
	s, err := Attach(console, in, out, out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process.WriteString("last\nwords\n"); err != nil {
		t.Fatal(err)
	}
	process.Close()
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	text, err := io.ReadAll(shown)
	if err != nil {
		t.Fatal(err)
	}
	// Without carriage returns: it isn't a terminal that it goes to.
	if string(text) != "last\nwords\n" {
		t.Errorf("got %q", text)
	}
}

// TestFinishWithTerminalInUse: a process left behind has the terminal open. That must not keep hull.
func TestFinishWithTerminalInUse(t *testing.T) {
	console, process := newPTY(t)
	in, _ := newPipe(t)
	_, out := newPipe(t)
	s, err := Attach(console, in, out, out)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Finish() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(lastWords + 10*time.Second):
		t.Fatal("Finish waits")
	}
	process.Close()
}

// TestTerminalOpenedAgain: init programs close their terminal and open it later.
func TestTerminalOpenedAgain(t *testing.T) {
	console, process := newPTY(t)
	name := process.Name()
	in, _ := newPipe(t)
	shown, out := newPipe(t)
	s, err := Attach(console, in, out, out)
	if err != nil {
		t.Fatal(err)
	}
	process.Close()
	time.Sleep(2 * hangupPause)
	again, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.WriteString("again\n"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, shown, 6); got != "again\n" {
		t.Errorf("got %q", got)
	}
	again.Close()
	if err := s.Finish(); err != nil {
		t.Error(err)
	}
}

// TestStreamsStayBlocking: they are the shell's, too.
func TestStreamsStayBlocking(t *testing.T) {
	_, caller := newPTY(t)
	console, process := newPTY(t)
	s, err := Attach(console, caller, caller, caller)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(caller.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if flags&unix.O_NONBLOCK != 0 {
		t.Error("the caller's terminal was made non-blocking")
	}
	process.Close()
	if err := s.Finish(); err != nil {
		t.Error(err)
	}
}

func TestRestoreTwice(t *testing.T) {
	_, caller := newPTY(t)
	h, err := Open(caller)
	if err != nil {
		t.Fatal(err)
	}
	before := termios(t, caller)
	for range 2 {
		if err := h.MakeRaw(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := h.Restore(); err != nil {
			t.Fatal(err)
		}
		if after := termios(t, caller); after != before {
			t.Fatalf("was %+v, is %+v", before, after)
		}
	}
}

func TestOpenPrefersEarlierFiles(t *testing.T) {
	_, a := newPTY(t)
	_, b := newPTY(t)
	r, _ := newPipe(t)
	h, err := Open(r, a, b)
	if err != nil {
		t.Fatal(err)
	}
	if h.file != a {
		t.Errorf("got %s, want %s", h.file.Name(), a.Name())
	}
}
