package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/linux"
)

// idleAfter is when hull gives back memory: most programs that run longer than this run much longer, and hull is one of
// many that wait.
const idleAfter = 200 * time.Millisecond

// wait stays with a process to its end, passes signals on, and returns its exit status.
func (e *Env) wait(p *hull.Process, a *attachment, s *signals) (status int, err error) {
	// On a panic, too, or the user is left with a terminal that shows nothing.
	defer a.close()
	if a.session == nil {
		s.catchJobControl()
	}
	s.forward(func(sig unix.Signal) { e.deliver(p, a, sig) })
	idle := time.AfterFunc(idleAfter, func() { _ = linux.ReleaseMemory() })
	ws, err := p.Wait()
	idle.Stop()
	if err != nil {
		return 0, errors.Join(err, p.Signal(unix.SIGKILL))
	}
	return waitStatus(ws), nil
}

func (e *Env) deliver(p *hull.Process, a *attachment, sig unix.Signal) {
	if a.session != nil {
		switch sig {
		case unix.SIGWINCH:
			a.session.Resize() // which sends the program a SIGWINCH of its own
			return
		case unix.SIGPIPE:
			return // hull's own output has nobody left who reads it
		}
	}
	if e.globals.debug {
		to := "the process in the sandbox"
		if p.Pid != 0 {
			to = fmt.Sprintf("process %d", p.Pid)
		}
		e.log.debug(fmt.Sprintf("forward %s to %s", signalName(sig), to))
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		e.log.warn(fmt.Sprintf("forward %s: %v", signalName(sig), err))
	}
}

// waitStatus returns the exit status that stands for how a process ended.
func waitStatus(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return exitSignal + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// reap takes away the children that have ended, up to the one called init: waitid(2) names the first one only.
func reap(init int) {
	for {
		pid, err := linux.EndedChild()
		if err != nil || pid == 0 || pid == init {
			return
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}
