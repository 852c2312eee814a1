package platform

import (
	"testing"
	_ "unsafe" // for linkname
)

// median is what systrap makes of its samples, in ticks.
//
//go:linkname median gvisor.dev/gvisor/pkg/sentry/platform/systrap.(*latencyBuckets).getMedian
func median(*latencies) uint64

// TestBaselines finds out whether the state of gVisor's package systrap still begins with what it compares with.
func TestBaselines(t *testing.T) {
	if !layout() {
		t.Fatal("the state of systrap has changed: it would not be told what a wake-up takes")
	}
	for _, l := range []*latencies{&baselines.toProgram, &baselines.toKernel} {
		if m := median(l); m != 0 {
			t.Errorf("the median is %d ticks before there are samples", m)
		}
		l[79].Add(1)
		if layout() {
			t.Error("samples of somebody's are taken for none")
		}
		l[79].Store(0)
	}
	expectWakeups()
	for _, l := range []*latencies{&baselines.toProgram, &baselines.toKernel} {
		l[0].Add(1e9) // three hours of samples
		in(t, l, wakeup)
	}
}

// What is measured counts where it is longer than what was expected.
func TestWakeupsMeasured(t *testing.T) {
	l := new(latencies)
	e := expect(l)
	l[60].Add(enough - 1)
	e.follow()
	in(t, l, wakeup)
	l[60].Add(1)
	e.follow()
	in(t, l, 60)
	e.follow()
	in(t, l, 60)
	l[79].Add(1e6) // it is overloaded
	e.follow()
	in(t, l, 79)
	l[40].Add(2e6)
	e.follow()
	in(t, l, 40)
	l[3].Add(1e7)
	e.follow()
	in(t, l, wakeup)
	total := uint64(0)
	for i := range l {
		total += l[i].Load()
	}
	if want := uint64(samples + enough + 1e6 + 2e6 + 1e7); total != want {
		t.Errorf("there are %d samples, want %d", total, want)
	}
}

// in expects that systrap takes a bucket for the median one.
func in(t *testing.T, l *latencies, bucket uint64) {
	t.Helper()
	if m := median(l); m < bucket*2048 || m > (bucket+2)*2048 {
		t.Errorf("the median is %d ticks, want that of bucket %d", m, bucket)
	}
}
