package sandbox

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"hull/internal/proc"
)

const (
	// maxPeriods is how many times its timeout a sandbox has at most that goes on making its container.
	maxPeriods = 10
	// idle is the share of a processor that a sandbox has taken that does nothing: Go's monitor takes less, and one that is a
	// hundred others' neighbour has more.
	idle = 0.002
)

// patientReader reads what another process writes. That has the timeout to do so, and as long again if it has worked meanwhile: on a
// host with so much to do that a start takes half a minute, to begin anew would make it worse.
type patientReader struct {
	*os.File
	pid     int
	timeout time.Duration

	used    time.Duration // of the processor, when it was looked at
	periods int
	given   atomic.Bool // giveUp was called
}

// Read implements io.Reader. The error is os.ErrDeadlineExceeded if there is nothing more to wait for.
func (r *patientReader) Read(b []byte) (int, error) {
	for {
		if err := r.SetReadDeadline(time.Now().Add(r.timeout)); err != nil {
			return 0, err
		}
		if r.given.Load() {
			return 0, os.ErrDeadlineExceeded
		}
		n, err := r.File.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !r.works() {
			return n, err
		}
	}
}

// works tells whether the process has done anything since the last call, and may go on.
func (r *patientReader) works() bool {
	st, err := proc.ReadStat(r.pid)
	if err != nil || r.given.Load() {
		return false
	}
	before := r.used
	r.used = st.CPU
	r.periods++
	return r.periods < maxPeriods && r.used-before > time.Duration(idle*float64(r.timeout))
}

// giveUp ends Read, also one that waits.
func (r *patientReader) giveUp() {
	r.given.Store(true)
	_ = r.SetReadDeadline(time.Unix(1, 0))
}

// late is the error of a process that was waited for in vain.
func (r *patientReader) late() error {
	return fmt.Errorf("the sandbox does not answer within %v", time.Duration(max(r.periods, 1))*r.timeout)
}
