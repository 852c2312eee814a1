package natd

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// drainTime bounds how long a network goes on after its last process, and drainPause how long it does without anything
	// being taken. A socket says that it takes more only when a third of its buffer is free.
	drainTime  = 30 * time.Second
	drainPause = 3 * time.Second
)

// uploads are the directions of connections that lead out of the container.
type uploads struct {
	open    atomic.Int32
	carried atomic.Int64 // bytes, of the other direction as well
}

func (u *uploads) begin() { u.open.Add(1) }
func (u *uploads) end()   { u.open.Add(-1) }

// drain waits until what the container has sent is on its way, or hull has ended. The container's processes have ended,
// and so its kernel ends all connections, once what was written to them is read.
func (d *daemon) drain(control *os.File) {
	g := d.stack
	progress := func() (busy bool, mark int64) {
		unsent := d.unsent()
		return g.out.open.Load() > 0 || g.link.readable() || unsent > 0, g.out.carried.Load() - unsent
	}
	begin := time.Now()
	last := begin
	busy, carried := progress()
	for ; busy; busy, _ = progress() {
		time.Sleep(time.Millisecond)
		now := time.Now()
		if _, n := progress(); n != carried {
			last, carried = now, n
		}
		if has(int(control.Fd()), unix.POLLHUP) || now.Sub(last) > drainPause || now.Sub(begin) > drainTime {
			return
		}
	}
	if g.flows.Load() > 0 {
		time.Sleep(2 * time.Millisecond) // from the stack to the sockets, which nobody counts
	}
}

// readable tells whether the container has sent something that wasn't looked at.
func (l *link) readable() bool { return !l.ended.Load() && has(l.fd, unix.POLLIN) }

// has tells whether something is the case with a descriptor, as poll(2) has it.
func has(fd int, event int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: event}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&event != 0
}
