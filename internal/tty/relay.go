package tty

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hangupPause is how long a terminal that nobody has open is left alone: the program may open it again.
	hangupPause = 100 * time.Millisecond
	// lastWords is how long output of a process that has ended, or of one it left behind, is still copied.
	lastWords = time.Second
	// modePauseMin and modePauseMax are how often is looked, after the end of the input, whether the program has changed
	// how it reads.
	modePauseMin = 20 * time.Millisecond
	modePauseMax = time.Second
)

// relay copies in both directions, each in a goroutine that waits by poll(2). An eventfd that becomes readable, and stays
// so, ends both.
type relay struct {
	console, in, out *os.File
	ended            *os.File // the eventfd
	wg               sync.WaitGroup
	writer           sync.Mutex // held by whoever copies what the process writes
}

// newRelay begins to copy. A panic of its goroutines calls restore first: else the terminal stays raw under the trace.
func newRelay(console, in, out *os.File, restore func()) (*relay, error) {
	// Nobody else has this description: the master came to hull alone.
	if err := unix.SetNonblock(descriptor(console), true); err != nil {
		return nil, os.NewSyscallError("fcntl O_NONBLOCK", err)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	r := &relay{console: console, in: in, out: out, ended: os.NewFile(uintptr(fd), "eventfd")}
	for _, direction := range []func(){r.copyIn, r.copyOut} {
		r.wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					restore()
					panic(p)
				}
			}()
			direction()
		})
	}
	return r, nil
}

// finish returns when the process's last output is written and both goroutines are gone.
func (r *relay) finish() {
	if _, err := r.ended.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		panic("bug: eventfd: " + err.Error()) // it has room for 2^64-2 of them
	}
	r.wg.Wait()
	_ = r.ended.Close()
}

// copyIn types what comes from the caller. End of file is typed, too, as a user would type it, so that
// `echo ls | hull run x` ends; script(1) and ssh -tt do the same.
func (r *relay) copyIn() {
	buf := make([]byte, 4096)
	last := byte('\n')
	for r.wait(r.in, unix.POLLIN) {
		n, err := readRetry(r.in, buf)
		switch {
		case err == unix.EAGAIN:
			continue // the caller's end is non-blocking, and someone else was faster
		case err != nil:
			return // gone, as after a hangup
		case n == 0:
			r.endInput(last)
			return
		}
		if !r.typeAll(buf[:n]) {
			return
		}
		last = buf[n-1]
	}
}

// endInput types the terminal's end-of-file character. In the middle of a line the first one only hands over the line
// (termios(3), VEOF). It does so again when the program goes from reading lines to reading characters, or back: a shell
// that edits its line makes a NUL of what was typed before, and a program that it then starts sees nothing of what was
// typed to the shell.
func (r *relay) endInput(last byte) {
	lines, ok := r.typeEOF(last)
	for wait := modePauseMin; ok && r.pause(wait); wait = min(2*wait, modePauseMax) {
		t, err := unix.IoctlGetTermios(descriptor(r.console), unix.TCGETS)
		if err != nil {
			return
		}
		if readsLines(t) != lines {
			lines, ok = r.typeEOF('\n')
			wait = modePauseMin
		}
	}
}

// typeEOF returns whether the program reads lines.
func (r *relay) typeEOF(last byte) (lines, ok bool) {
	t, err := unix.IoctlGetTermios(descriptor(r.console), unix.TCGETS)
	if err != nil {
		return false, false
	}
	eof := []byte{t.Cc[unix.VEOF]}
	if last != '\n' {
		eof = append(eof, eof[0])
	}
	return readsLines(t), r.typeAll(eof)
}

func readsLines(t *unix.Termios) bool { return t.Lflag&unix.ICANON != 0 }

func (r *relay) typeAll(p []byte) bool {
	for len(p) > 0 {
		n, err := unix.Write(descriptor(r.console), p)
		switch {
		case err == nil:
			p = p[n:]
		case err == unix.EAGAIN:
			if !r.wait(r.console, unix.POLLOUT) {
				return false
			}
		case err != unix.EINTR:
			return false
		}
	}
	return true
}

// copyOut shows what the process writes, and goes on reading when nobody wants to see it: a full terminal would stop
// the process.
func (r *relay) copyOut() {
	buf := make([]byte, 32<<10)
	for r.wait(r.console, unix.POLLIN) {
		// Nothing to read, yet poll was content: no process has the terminal open (POLLHUP, then EIO; pty(7)).
		if !r.copyOnce(buf) && !r.pause(hangupPause) {
			break
		}
	}
	r.drain(buf)
}

// drain copies what the process has written until now.
func (r *relay) drain(buf []byte) {
	for deadline := time.Now().Add(lastWords); r.copyOnce(buf) && time.Now().Before(deadline); {
	}
}

// copyOnce copies what can be had without waiting, and tells whether that was anything.
func (r *relay) copyOnce(buf []byte) bool {
	r.writer.Lock()
	defer r.writer.Unlock()
	n, _ := readRetry(r.console, buf)
	writeAll(r.out, buf[:n])
	return n > 0
}

// wait returns when f is ready, or false if the process has ended first.
func (r *relay) wait(f *os.File, events int16) bool {
	fds := []unix.PollFd{
		{Fd: int32(descriptor(r.ended)), Events: unix.POLLIN},
		{Fd: int32(descriptor(f)), Events: events},
	}
	return poll(fds, -1) && fds[0].Revents == 0
}

// pause waits for that long, or returns false as soon as the process has ended.
func (r *relay) pause(d time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(descriptor(r.ended)), Events: unix.POLLIN}}
	return poll(fds, int(d.Milliseconds())) && fds[0].Revents == 0
}

func poll(fds []unix.PollFd, timeout int) bool {
	for {
		_, err := unix.Poll(fds, timeout)
		if err == nil {
			return true
		}
		if err != unix.EINTR {
			return false
		}
	}
}

func readRetry(f *os.File, buf []byte) (int, error) {
	for {
		n, err := unix.Read(descriptor(f), buf)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// writeAll writes to the caller's stdout, which another program may have made non-blocking. Errors are dropped: there is
// nobody left to tell.
func writeAll(f *os.File, p []byte) {
	for len(p) > 0 {
		n, err := unix.Write(descriptor(f), p)
		switch {
		case err == nil:
			p = p[n:]
		case errors.Is(err, unix.EAGAIN):
			if !poll([]unix.PollFd{{Fd: int32(descriptor(f)), Events: unix.POLLOUT}}, -1) {
				return
			}
		case err != unix.EINTR:
			return
		}
	}
}
