package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/linux"
	"hull/internal/tty"
)

// job is a command of do that hull stays with, and stands for towards the shell it was called from: what the terminal
// tells hull it tells the command's process group, and when the command stops it stops, too.
type job struct {
	env      *Env
	cmd      *hull.Cmd
	terminal attachment
}

// connect gives the command a terminal of its own if both its input and its output are one: a command that is part of a
// pipeline must not find one where the pipeline is.
func (j *job) connect() {
	j.cmd.Stopped = j.stopped
	// Of a signal that came when the command ran already: it is the command's, as soon as wait forwards signals.
	j.cmd.Cancel = func() error { return os.ErrProcessDone }
	if tty.Is(j.env.Stdin) && tty.Is(j.env.Stdout) {
		j.cmd.Console = j.terminal.connect
	}
}

// wait stays with the command to its end.
func (j *job) wait(s *signals) error {
	// On a panic, too, or the user is left with a terminal that shows nothing.
	defer j.terminal.close()
	if j.terminal.session == nil {
		s.catchJobControl()
	}
	s.forward(j.deliver)
	idle := time.AfterFunc(idleAfter, func() { _ = linux.ReleaseMemory() })
	defer idle.Stop()
	return j.cmd.Wait()
}

// deliver passes a signal on.
func (j *job) deliver(sig unix.Signal) {
	send := j.cmd.Process.Signal
	switch sig {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH, unix.SIGTTIN, unix.SIGTTOU:
		send = j.cmd.Process.SignalGroup // as a terminal, or the shell that it belongs to, does
	}
	if session := j.terminal.session; session != nil {
		switch sig {
		case unix.SIGWINCH:
			session.Resize() // which sends the command a SIGWINCH of its own
			return
		case unix.SIGPIPE:
			return // hull's own output has nobody left who reads it
		case unix.SIGCONT:
			session.Resume()
		}
	}
	if j.env.globals.debug {
		j.env.log.debug(fmt.Sprintf("forward %s to process %d", signalName(sig), j.cmd.Process.Pid))
	}
	if err := send(sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		j.env.log.warn(fmt.Sprintf("forward %s: %v", signalName(sig), err))
	}
}

// stopped is called when a signal has stopped the command. A shell that waits for hull is to see that, and to let it go
// on. Where there is none, a user at a terminal could not do so, and a command with a time limit must not escape it.
func (j *job) stopped(unix.Signal) {
	session := j.terminal.session
	switch follow := j.cmd.Limits.Time == 0 && tty.InJob(); {
	case follow && session != nil:
		session.Suspend()
		_ = unix.Kill(0, unix.SIGSTOP) // with whatever else is in the pipeline, as ^Z does
	case follow:
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP) // the others have had theirs from the terminal
	case session != nil || j.cmd.Limits.Time > 0:
		_ = j.cmd.Process.SignalGroup(unix.SIGCONT)
	}
}
