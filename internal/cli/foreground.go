package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/linux"
	"hull/internal/tty"
)

// attachment connects the terminal of a process, if it has one, with the one hull was called from. A nil one is none.
type attachment struct {
	session *tty.Session
	log     *logger
}

// attach connects the terminal of p, if it has one.
func (e *Env) attach(p *hull.Process) (*attachment, error) {
	if p.Console == nil {
		return nil, nil
	}
	session, err := tty.Attach(p.Console, e.Stdin, e.Stdout, e.Stderr)
	if err != nil {
		return nil, &hull.Error{Step: "terminal", Err: errors.Join(err, p.Console.Close())}
	}
	return &attachment{session, e.log}, nil
}

// close gives the caller its terminal back, when the process has written its last.
func (a *attachment) close() {
	if a == nil {
		return
	}
	if err := a.session.Finish(); err != nil {
		a.log.warn("terminal: " + err.Error())
	}
}

// wait stays with a process to its end, passes signals on, and returns its exit status.
func (e *Env) wait(p *hull.Process, a *attachment, s *signals) (status int, err error) {
	// On a panic, too, or the user is left with a terminal that shows nothing.
	defer a.close()
	s.forward(func(sig unix.Signal) { e.deliver(p, a, sig) })
	ws, err := p.Wait()
	if err != nil {
		return 0, errors.Join(err, p.Signal(unix.SIGKILL))
	}
	return waitStatus(ws), nil
}

func (e *Env) deliver(p *hull.Process, a *attachment, sig unix.Signal) {
	if sig == unix.SIGWINCH && a != nil {
		a.session.Resize() // which sends the program a SIGWINCH of its own
		return
	}
	if e.globals.debug {
		e.log.debug(fmt.Sprintf("forward %s to process %d", signalName(sig), p.Pid))
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		e.log.warn(fmt.Sprintf("forward %s: %v", signalName(sig), err))
	}
}

// end kills a process that hull can't stay with.
func (e *Env) end(p *hull.Process) error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	_, err := p.Wait()
	return err
}

// waitStatus returns the exit status that stands for how a process ended.
func waitStatus(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return exitSignal + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// adoptOrphans makes hull the parent of the processes whose own parent, in the container, has ended, and reaps all but
// the one called init, whose status somebody waits for. With a pid namespace there are none. It lasts until stop is
// called.
func adoptOrphans(init int) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range c {
			reap(init)
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
		<-done
	}
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
