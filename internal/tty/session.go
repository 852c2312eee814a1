// Package tty connects the terminal of a process in a container with the terminal that hull was called from.
//
// A Session lasts from the start of the process to its end:
//
//	caller's stdin  ──────────> console (master) ══ pts of the container ══ process
//	caller's stdout <──────────
//	caller's terminal: raw mode, size
//
// The caller's streams belong to others, too (a shell, the rest of a pipeline): their file status flags are never
// changed, so that no other program finds its standard input in non-blocking mode.
package tty

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Session is a process's terminal in the foreground.
type Session struct {
	console *os.File
	host    *Host // nil if the caller has no terminal
	relay   *relay

	mu       sync.Mutex // for Suspend and Resume
	finished bool
}

// Attach shows the process's terminal, whose master is console, to the caller: what comes from stdin is typed there, what
// the process writes goes to stdout, and the caller's terminal, which is looked for among the three streams, becomes raw
// and gives its size. Without a terminal, say in a pipeline, the streams alone are connected. The session owns console
// if there is no error.
func Attach(console, stdin, stdout, stderr *os.File) (*Session, error) {
	s := &Session{console: console}
	host, err := Open(stderr, stdout, stdin)
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	s.host = host
	if err := s.begin(stdin, stdout); err != nil {
		return nil, errors.Join(err, s.restore())
	}
	return s, nil
}

func (s *Session) begin(stdin, stdout *os.File) error {
	if err := keepNewlines(s.console); err != nil {
		return err
	}
	if s.host != nil {
		// The size is a courtesy: a terminal without one is a terminal all the same.
		_ = s.host.copySize(s.console)
		if err := s.host.MakeRaw(); err != nil {
			return err
		}
	}
	var err error
	s.relay, err = newRelay(s.console, stdin, stdout, func() { _ = s.restore() })
	return err
}

// Resize gives the process's terminal the size of the caller's, after SIGWINCH.
func (s *Session) Resize() {
	if s.host != nil {
		_ = s.host.copySize(s.console)
	}
}

// Suspend shows what the process has written, and gives the caller its terminal for the time in which this process is
// stopped. Resume takes it again.
func (s *Session) Suspend() {
	s.relay.drain(make([]byte, 4096))
	if s.host != nil {
		_ = s.host.cook()
	}
}

// Resume is called when this process has been stopped and goes on, by whomever. In the background it stops it again, as
// the terminal does with whoever wants to change it there (SIGTTOU, termios(3)).
func (s *Session) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.host != nil && !s.finished {
		_ = s.host.MakeRaw()
		s.Resize()
	}
}

// Finish ends the session of a process that has ended: what it wrote last is still shown, the caller's terminal gets its
// mode back, and the console is closed.
func (s *Session) Finish() error {
	s.relay.finish()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	return errors.Join(s.restore(), s.console.Close())
}

func (s *Session) restore() error {
	if s.host == nil {
		return nil
	}
	return s.host.Restore()
}

// keepNewlines has the process's terminal leave newlines alone: the caller's terminal adds its carriage returns, and a
// file the output goes to gets none.
func keepNewlines(console *os.File) error {
	t, err := unix.IoctlGetTermios(descriptor(console), unix.TCGETS)
	if err != nil {
		return os.NewSyscallError("ioctl TCGETS", err)
	}
	t.Oflag &^= unix.ONLCR
	return setTermios(console, t)
}
