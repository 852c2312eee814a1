package hull

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// TimeoutError is the error of a program that has run for longer than Limits.Time.
type TimeoutError struct {
	After time.Duration
	// Killed says that it did not end by itself when it was asked to, or that processes of its were left.
	Killed bool
}

func (e *TimeoutError) Error() string {
	if e.Killed {
		return fmt.Sprintf("timed out after %v, and was killed", e.After)
	}
	return fmt.Sprintf("timed out after %v", e.After)
}

// Timeout is true; package net has the convention.
func (e *TimeoutError) Timeout() bool { return true }

// Is makes the error an os.ErrDeadlineExceeded.
func (e *TimeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// deadline ends a program in two steps.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer // to the next step; nil: there is no deadline
	passed bool        // the program was asked to end
	killed bool
	over   bool // it has ended
}

// set begins to wait for the end of the program's time.
func (d *deadline) set(l *Limits, p *Process, kill func() error) {
	grace := l.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = time.AfterFunc(l.Time, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.over || p.SignalGroup(unix.SIGTERM) != nil {
			return
		}
		_ = p.SignalGroup(unix.SIGCONT) // a stopped process doesn't end
		d.passed = true
		d.timer = time.AfterFunc(grace, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if !d.over && kill() == nil {
				d.killed = true
			}
		})
	})
}

// stop is called when the program has ended. It tells whether its time was over.
func (d *deadline) stop() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	if d.timer != nil {
		d.timer.Stop()
	}
	return d.passed
}

var _ error = (*TimeoutError)(nil)
