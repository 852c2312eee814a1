package stream

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Pumps copy streams of a container that was restored.
type Pumps struct{ output sync.WaitGroup }

// Fit returns what takes the place of a standard stream that was waited for when it was saved: the descriptor, or, where that can't
// be waited for, a pipe that is copied from there, or to there.
func (p *Pumps) Fit(number, fd int) (int, error) {
	if pollable(fd) {
		return fd, nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	r, w := os.NewFile(uintptr(pipe[0]), "pipe"), os.NewFile(uintptr(pipe[1]), "pipe")
	own := os.NewFile(uintptr(fd), "stream")
	inside, from, to := r, own, w
	if number > 0 {
		inside, from, to = w, r, own
		p.output.Add(1)
	}
	fd, err := unix.FcntlInt(inside.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	inside.Close()
	go func() {
		// By read(2) and write(2): the filter has none of the calls that files are copied by.
		_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
		to.Close()
		if number > 0 {
			p.output.Done()
		}
	}()
	return fd, err
}

// Drain waits, when the container's first process has ended, for what it has written to a pipe that is copied; but not for
// processes that it has left behind, which may have it open, too.
func (p *Pumps) Drain() {
	done := make(chan struct{})
	go func() {
		p.output.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}
