package boot

import (
	"testing"
	"unsafe"
)

// median is what systrap makes of its samples, in ticks.
//
//go:linkname median gvisor.dev/gvisor/pkg/sentry/platform/systrap.(*latencyBuckets).getMedian
func median(*latencies) uint64

// TestBaselines finds out whether the state of gVisor's package systrap still begins with what it compares with: behind that there are
// two numbers that are 2 until the platform is made.
func TestBaselines(t *testing.T) {
	behind := (*[2]int)(unsafe.Add(unsafe.Pointer(&baselines), unsafe.Sizeof(baselines)))
	if *behind != [2]int{2, 2} {
		t.Fatalf("behind the baselines there is %d, want stubFPBackoff and sentryFPBackoff, 2 each: the state of systrap has changed", *behind)
	}
	for _, l := range []*latencies{&baselines.toProgram, &baselines.toKernel} {
		if m := median(l); m != 0 {
			t.Errorf("the median is %d ticks before there are samples", m)
		}
	}
	expectWakeups()
	for _, l := range []*latencies{&baselines.toProgram, &baselines.toKernel} {
		l[0].Add(1e9) // three hours of samples
		if m := median(l); m < wakeup*2048 || m > (wakeup+2)*2048 {
			t.Errorf("the median is %d ticks, want that of bucket %d", m, wakeup)
		}
	}
}
