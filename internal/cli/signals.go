package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// signals are those sent to hull while it works for a container.
//
// Until the container's program runs, a signal that would end hull cancels what it is doing, so that it is taken back;
// others wait. From forward on all signals are the program's.
type signals struct {
	c      chan os.Signal
	cancel context.CancelCauseFunc
	// To catch a signal takes the Go runtime some 10 µs, in which its threads wait for each other. So it is done beside
	// the work for the container, which takes far longer to get to anything that would have to be taken back.
	catching sync.WaitGroup

	mu      sync.Mutex
	pending []unix.Signal // came before forward
	deliver func(unix.Signal)
}

// interrupted is the cause of a context that a signal has cancelled.
type interrupted struct{ signal unix.Signal }

func (i interrupted) Error() string { return "interrupted by " + signalName(i.signal) }

// catchSignals begins to catch the signals with which users and service managers end a program. The context is done when
// one comes.
func catchSignals() (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &signals{c: make(chan os.Signal, 64), cancel: cancel}
	s.catching.Go(func() {
		for sig := unix.Signal(1); sig <= unix.SIGTERM; sig++ {
			if ends(sig) {
				s.catch(sig)
			}
		}
	})
	go s.loop()
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
	s.catching.Go(func() {
		for sig := unix.Signal(1); sig <= 64; sig++ {
			switch sig {
			case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU:
				continue
			}
			s.catch(sig)
		}
	})
}

// catchJobControl catches the signals that stop a job in the background which uses its terminal: hull itself, if it has
// connected the terminal with the program's. It is known late that there is none; but os/signal can't give a signal back
// whose default is to stop, and the kernel would let a read that is answered by a handler begin again for ever.
func (s *signals) catchJobControl() {
	s.catching.Go(func() {
		s.catch(unix.SIGTTIN)
		s.catch(unix.SIGTTOU)
	})
}

// catch leaves a signal alone that hull was started to ignore, as by nohup(1).
func (s *signals) catch(sig unix.Signal) {
	if !signal.Ignored(sig) {
		signal.Notify(s.c, sig)
	}
}

func (s *signals) loop() {
	for sig := range s.c {
		s.take(sig.(unix.Signal))
	}
}

func (s *signals) take(sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	s.catching.Wait()
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
