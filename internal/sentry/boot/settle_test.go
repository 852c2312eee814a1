package boot

import (
	"runtime"
	"testing"

	"gvisor.dev/gvisor/pkg/gomaxprocs"
)

// With more threads than processors, what programs get done was up to a third less.
func TestSettleRunsAsManyThreadsAsProcessors(t *testing.T) {
	cpus := runtime.NumCPU()
	gomaxprocs.SetBase(cpus + spare)
	settle()
	if got := runtime.GOMAXPROCS(0); got != cpus {
		t.Errorf("when the start is over, %d threads run Go on %d processors", got, cpus)
	}
}
