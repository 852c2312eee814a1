package cli

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"hull/internal/sigaction"
)

// signals are those sent to hull while it works for a container.
//
// Until the container's program runs, a signal that would end hull cancels what it is doing, so that it is taken back;
// others wait. From forward on all signals are the program's.
type signals struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	pending []unix.Signal // came before forward
	deliver func(unix.Signal)
	reap    func() // what is done for a SIGCHLD, or nil
}

// interrupted is the cause of a context that a signal has cancelled.
type interrupted struct{ signal unix.Signal }

func (i interrupted) Error() string { return "interrupted by " + signalName(i.signal) }

// catchSignals begins to catch the signals with which users and service managers end a program. The context is done when
// one comes; and if they can't be caught, at once: nothing is begun that could not be taken back. A program calls it once.
func catchSignals() (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &signals{cancel: cancel}
	caught, err := sigaction.Open()
	if err != nil {
		cancel(err)
		return ctx, s
	}
	for sig := unix.Signal(1); sig <= unix.SIGTERM; sig++ {
		if ends(sig) {
			s.catch(sig)
		}
	}
	go s.loop(caught)
	return ctx, s
}

// ends tells whether the signal asks a program to end.
func ends(sig unix.Signal) bool {
	switch sig {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM:
		return true
	}
	return false
}

// catchAll catches all other signals, too, for a program that hull stays with. It is called well before the program can
// run: whoever has heard of that may send a signal, and must not stop or end hull.
//
// Left alone are SIGCHLD and SIGURG, which the kernel and Go's scheduler send to hull; and those of catchJobControl.
func (s *signals) catchAll() {
	for sig := unix.Signal(1); sig <= 64; sig++ {
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU:
			continue
		}
		s.catch(sig)
	}
}

// catchJobControl catches the signals that stop a job in the background which uses its terminal: hull itself, if it has
// connected the terminal with the program's. It is known late that there is none; but the kernel would let a read that is
// answered by a handler begin again for ever.
func (s *signals) catchJobControl() {
	s.catch(unix.SIGTTIN)
	s.catch(unix.SIGTTOU)
}

// catch leaves a signal alone that hull was started to ignore, as by nohup(1).
func (s *signals) catch(sig unix.Signal) {
	if err := sigaction.Catch(sig); err != nil {
		s.cancel(err)
	}
}

// adoptOrphans makes hull the parent of the processes whose own parent, in the container, has ended, and reaps all but
// the one called init, whose status somebody waits for. With a pid namespace there are none. It lasts until stop is
// called.
func (s *signals) adoptOrphans(init int) (stop func()) {
	set := func(f func()) {
		s.mu.Lock()
		s.reap = f
		s.mu.Unlock()
	}
	set(func() { reap(init) })
	s.catch(unix.SIGCHLD)
	return func() { set(nil) }
}

func (s *signals) loop(caught *os.File) {
	var numbers [64]byte
	for {
		n, err := caught.Read(numbers[:])
		for _, sig := range numbers[:n] {
			s.take(unix.Signal(sig))
		}
		if err != nil {
			return
		}
	}
}

func (s *signals) take(sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sig == unix.SIGCHLD {
		if s.reap != nil {
			s.reap()
		}
		return
	}
	if s.deliver != nil {
		s.deliver(sig)
		return
	}
	s.pending = append(s.pending, sig)
	if ends(sig) {
		s.cancel(interrupted{sig})
	}
}

// forward has the signals delivered from now on, beginning with those that came too late to keep the program from
// starting.
func (s *signals) forward(deliver func(unix.Signal)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliver = deliver
	for _, sig := range s.pending {
		deliver(sig)
	}
	s.pending = nil
}

// cause returns err, or if a signal came that it did: what was under way says no more than that it was cancelled.
func (s *signals) cause(ctx context.Context, err error) error {
	if i, ok := context.Cause(ctx).(interrupted); ok && err != nil {
		return i
	}
	return err
}

// explain is cause for an operation on a container, with the exit status of a program that the signal has ended.
func (s *signals) explain(ctx context.Context, op, id string, err error) error {
	if i, ok := s.cause(ctx, err).(interrupted); ok {
		return statusError{exitSignal + int(i.signal), inOp(op, id, i)}
	}
	return err
}

func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(sig))
}
