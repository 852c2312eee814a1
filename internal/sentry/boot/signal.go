package boot

import (
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"

	"hull/internal/sigaction"
)

// kept are the signals that mean this process: of Go's scheduler and its profiles, of children, of pipes that nobody reads.
var kept = []unix.Signal{unix.SIGURG, unix.SIGPROF, unix.SIGPIPE, unix.SIGCHLD}

// faults are signals that have a handler of the kernel's, or of Go's runtime; os/signal knows those that somebody has sent.
var faults = []os.Signal{unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS}

// forwardSignals has handle called with each signal that is sent to this process, one after the other. os/signal needs two
// switches between threads for each one that is caught, which took a millisecond for all.
func forwardSignals(handle func(linux.Signal)) error {
	caught, err := sigaction.Open()
	if err != nil {
		return err
	}
	for sig := unix.Signal(1); sig <= linux.SignalMaximum; sig++ {
		switch {
		case sig == unix.SIGKILL, sig == unix.SIGSTOP, slices.Contains(kept, sig), slices.Contains(faults, os.Signal(sig)):
			continue
		}
		if err := sigaction.Catch(sig); err != nil {
			return err
		}
	}
	sent := make(chan os.Signal, len(faults))
	signal.Notify(sent, faults...)
	signals := make(chan linux.Signal)
	go func() {
		for {
			var b [1]byte
			if _, err := caught.Read(b[:]); err != nil {
				panic("bug: read signals: " + err.Error())
			}
			signals <- linux.Signal(b[0])
		}
	}()
	go func() {
		for {
			select {
			case sig := <-signals:
				handle(sig)
			case sig := <-sent:
				handle(linux.Signal(sig.(unix.Signal)))
			}
		}
	}()
	return nil
}
