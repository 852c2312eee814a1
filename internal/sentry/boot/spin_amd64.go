package boot

import (
	_ "unsafe" // for linkname

	"gvisor.dev/gvisor/pkg/atomicbitops"
)

// A program's system call goes from one of systrap's threads, which runs the program, to one of Go's, and back. Either side may spin until it is its turn
// again, or sleep and be woken up. systrap compares every 0.4 ms: how long the ways take while a side spins with how long they took, by the median of all
// times since the sandbox's start, while none did.
//
// Where both threads have come to be on one processor that second time is short, 4 µs, since the other processors have no part in it; to spin is the worst to
// be done there, until the host's kernel, which looks every few milliseconds, moves one of them away. systrap has tried it and given up by then, and does not
// try again for 200 ms, so that what began by chance lasts: each call takes three times as long as in another sandbox, or in the same one later.
//
// So systrap is told at the start what a way takes from processor to processor, by so many samples that those to come don't count. It then spins
// unless that makes a call longer than it takes when both are woken up.
const (
	wakeup  = 21      // bucket of 2,048 ticks of the processor's clock: 11 µs at 4 GHz, 23 at 1.9; on the machine that docs/performance.md is about it took 17
	samples = 1 << 32 // a sandbox has at most some 100,000 in a second
)

// latencies is how many of systrap's samples are in each bucket.
type latencies [80]atomicbitops.Uint64

// baselines is what systrap's state begins with. TestBaselines finds out when it does not.
//
//go:linkname baselines gvisor.dev/gvisor/pkg/sentry/platform/systrap.fastpath
var baselines struct{ toProgram, toKernel latencies }

// expectWakeups tells systrap what it takes to wake the other side up. It comes before the platform is made.
func expectWakeups() {
	baselines.toProgram[wakeup].Store(samples)
	baselines.toKernel[wakeup].Store(samples)
}
