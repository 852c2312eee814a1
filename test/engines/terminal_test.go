package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A session is a command at a terminal of its own.
type session struct {
	master *os.File
	cmd    *exec.Cmd
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex
	screen bytes.Buffer
}

// terminal starts a command at a terminal of 40 rows and 120 columns.
func (c client) terminal(t testing.TB, args ...string) *session {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		t.Fatal(err)
	}
	s := &session{master: os.NewFile(uintptr(dup(t, master)), "terminal"), ended: make(chan error, 1)}
	master.Close()
	s.size(t, 40, 120)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.cancel = cancel
	s.cmd = c.command(ctx, args...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr.Setpgid = false
	s.cmd.SysProcAttr.Setsid, s.cmd.SysProcAttr.Setctty = true, true
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); s.master.Close() })
	go func() {
		p := make([]byte, 4096)
		for {
			n, err := s.master.Read(p)
			s.mu.Lock()
			s.screen.Write(p[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() { s.ended <- s.cmd.Wait() }()
	return s
}

// dup is a descriptor that os.NewFile takes for one that can be polled.
func dup(t testing.TB, f *os.File) int {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func (s *session) size(t testing.TB, rows, columns uint16) {
	t.Helper()
	c, err := s.master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *session) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ReplaceAll(s.screen.String(), "\r", "")
}

// expect waits until the terminal has shown a text.
func (s *session) expect(t testing.TB, want string) {
	t.Helper()
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(s.text(), want) {
			return
		}
	}
	t.Fatalf("%v: no %q in:\n%s", s.cmd.Args, want, s.text())
}

func (s *session) typeIn(t testing.TB, text string) {
	t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// exits waits for the end of the command.
func (s *session) exits(t testing.TB, code int) {
	t.Helper()
	select {
	case err := <-s.ended:
		got := 0
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			got = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if got != code {
			t.Errorf("%v: status %d, want %d; the terminal:\n%s", s.cmd.Args, got, code, s.text())
		}
	case <-time.After(soon):
		t.Fatalf("%v: not ended; the terminal:\n%s", s.cmd.Args, s.text())
	}
}

// shell tries a shell at a terminal: that it is one, its size and what follows when the size changes, and the exit status.
// An engine sets the size when the shell may already have begun. code is what the engine makes of 5.
func (s *session) shell(t testing.TB, code int) {
	t.Helper()
	s.typeIn(t, "test -t 0 && echo terminal:$((1+1))\n")
	s.expect(t, "terminal:2")
	s.shows(t, "40 120")
	s.size(t, 50, 132)
	s.shows(t, "50 132")
	s.typeIn(t, "trap 'echo interrupted:$((1+2))' INT\n")
	// Before it prints it is not certain to be what the terminal interrupts.
	s.typeIn(t, "sh -c 'echo sleeps:$((2+2)); exec sleep 100'\n")
	s.expect(t, "sleeps:4")
	s.typeIn(t, "\x03")
	s.expect(t, "interrupted:3")
	s.typeIn(t, "exit 5\n")
	s.exits(t, code)
}

// shows waits until stty in the terminal says a size.
func (s *session) shows(t testing.TB, size string) {
	t.Helper()
	for end := time.Now().Add(soon); time.Now().Before(end); {
		s.typeIn(t, "stty size\n")
		time.Sleep(200 * time.Millisecond)
		if strings.Contains(s.text(), "\n"+size+"\n") {
			return
		}
	}
	t.Fatalf("%v: no size %q in:\n%s", s.cmd.Args, size, s.text())
}
