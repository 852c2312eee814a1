package boot

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"hull/internal/fault"
)

// logFD is where the log is, which is what the first container locks.
const logFD = 2

// pause stops the container's tasks or lets them go on, and locks a file or unlocks it, which is where hull sees it. That is a
// lock of an open file description: it ends with this process.
//
// A container that is alone in its sandbox is paused with the whole kernel, which then waits for what runs.
func (c *container) pause(stop bool) error {
	c.pausing.Lock()
	defer c.pausing.Unlock()
	if c.lock < 0 {
		return errStopped()
	}
	whole := c == c.root && (c.paused || c.stopped == nil && c.members.count() == 0)
	if stop == (c.stopped != nil || whole && c.paused) {
		return nil
	}
	if stop {
		c.stop(whole)
	} else {
		defer c.goOn(whole)
	}
	lock := unix.Flock_t{Type: unix.F_UNLCK}
	if stop {
		lock.Type = unix.F_WRLCK
	}
	if err := unix.FcntlFlock(uintptr(c.lock), unix.F_OFD_SETLK, &lock); err != nil {
		if stop {
			c.goOn(whole)
			return os.NewSyscallError("fcntl F_OFD_SETLK", err)
		}
		log.Warningf("unlock: %v", err) // hull sees it paused, though it is not
	}
	return nil
}

// stop stops the container's tasks, or those of the whole kernel. pausing is locked.
func (c *container) stop(whole bool) {
	if whole {
		c.kernel.Pause()
		c.paused = true
		return
	}
	c.stopped = make(map[*kernel.Task]bool)
	// One that makes another in this moment stops only when that is done.
	for wait := time.Millisecond; wait < 20*time.Millisecond; wait *= 2 {
		if c.stopMore() {
			wait = time.Millisecond
		}
		time.Sleep(wait)
	}
}

// stopMore stops the tasks that were not stopped yet, and tells whether there were any.
func (c *container) stopMore() (more bool) {
	for _, t := range c.kernel.RootPIDNamespace().Tasks() {
		if t.ContainerID() == c.ID && !c.stopped[t] {
			t.BeginExternalStop()
			c.stopped[t], more = true, true
		}
	}
	return more
}

// goOn undoes stop. pausing is locked.
func (c *container) goOn(whole bool) {
	if whole {
		c.kernel.Unpause()
		c.paused = false
		return
	}
	for t := range c.stopped {
		t.EndExternalStop()
	}
	c.stopped = nil
}

// stopIfPaused stops a process that was added to a container that is paused.
func (c *container) stopIfPaused() {
	c.pausing.Lock()
	defer c.pausing.Unlock()
	if c.stopped != nil {
		c.stopMore()
	}
}

// notPaused returns an error if the whole kernel is paused: what is made then would be, too, and nobody could say so.
func (s *Sandbox) notPaused() error {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	if s.paused {
		return &fault.Error{Kind: fault.BadState, Err: fmt.Errorf("container %q, in whose sandbox it would be, is paused", s.root.ID)}
	}
	return nil
}
