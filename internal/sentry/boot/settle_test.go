package boot

import (
	"runtime"
	"runtime/metrics"
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

// Garbage is collected more rarely while somebody is in a hurry, and as usual after the last.
func TestHurry(t *testing.T) {
	defer settle()
	want := func(when string, want uint64) {
		t.Helper()
		percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(percent)
		if got := percent[0].Value.Uint64(); got != want {
			t.Errorf("%s: garbage is collected by %d%%, want %d%%", when, got, want)
		}
	}
	const never = 1<<64 - 1
	putOffCollection()
	hurry(true)
	want("in a hurry, before the start is over", never)
	settle()
	want("after that", hurried)
	hurry(true)
	hurry(false)
	want("one still is in a hurry", hurried)
	hurry(false)
	want("none is", usual)
	putOffCollection()
	want("at the next start", never)
}
