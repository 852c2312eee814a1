package platform

import (
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/atomicbitops"
)

// A program's system call goes from one of systrap's threads, which runs the program, to one of Go's, and back. Either side may
// spin until it is its turn again, or sleep and be woken up. systrap compares every 0.4 ms: how long the ways take while a side
// spins with how long they took, by the median of all times since the sandbox's start, while none did.
//
// Where both threads have come to be on one processor that second time is short, 4 µs, since the other processors have no part in
// it; to spin is the worst to be done there, until the host's kernel, which looks every few milliseconds, moves one of them away.
// systrap has tried it and given up by then, and does not try again for 200 ms, so that what began by chance lasts: each call
// takes three times as long as in another sandbox, or in the same one later.
//
// So systrap is told at the start what a way takes from processor to processor, by so many samples that those to come don't
// count. It then spins unless that makes a call longer than it takes when both are woken up. There are machines where a wake-up
// takes longer than that; where the median of the times that were measured is longer, systrap is told that one instead.
const (
	// wakeup is a bucket of 2,048 ticks of the processor's clock: 11 µs at 4 GHz, 23 at 1.9. On the machine that
	// docs/performance.md is about it took 17.
	wakeup  = 21
	samples = 1 << 32 // a sandbox has at most some 100,000 in a second
	enough  = 1000    // measured ones to go by their median
)

// lastLook is how old a container is when that is looked at for the last time: what the processors and the host are like does not
// change, and a sandbox that does nothing is not to be woken up.
const lastLook = 4 * time.Minute

// latencies is how many of systrap's samples are in each bucket.
type latencies [80]atomicbitops.Uint64

// baselines is what systrap's state begins with: see layout.
//
//go:linkname baselines gvisor.dev/gvisor/pkg/sentry/platform/systrap.fastpath
var baselines struct{ toProgram, toKernel latencies }

// layout tells whether systrap's state still is what it is taken for, before the platform is made: no samples, and behind them
// two numbers that are 2. A later version of the module may have moved them.
func layout() bool {
	for _, l := range []*latencies{&baselines.toProgram, &baselines.toKernel} {
		for i := range l {
			if l[i].Load() != 0 {
				return false
			}
		}
	}
	behind := (*[2]int)(unsafe.Add(unsafe.Pointer(&baselines), unsafe.Sizeof(baselines))) // stubFPBackoff and sentryFPBackoff
	return *behind == [2]int{2, 2}
}

// wakeups are what systrap was told; or nil, if it wasn't.
var wakeups []*expected

// expectWakeups tells systrap what it takes to wake the other side up. It comes before the platform is made.
func expectWakeups() {
	if layout() {
		wakeups = []*expected{expect(&baselines.toProgram), expect(&baselines.toKernel)}
	}
}

// FollowWakeups compares what systrap was told of wake-ups with what is measured, when the container has been there for as long
// as age and whenever it is four times as old.
func FollowWakeups(age time.Duration) {
	for _, e := range wakeups {
		e.follow()
	}
	if wakeups != nil && age < lastLook {
		time.AfterFunc(3*age, func() { FollowWakeups(4 * age) })
	}
}

// expected is the bucket with the samples that nobody has measured.
type expected struct {
	of *latencies
	at int
}

func expect(l *latencies) *expected {
	l[wakeup].Add(samples)
	return &expected{l, wakeup}
}

// follow moves them to the median of those that were measured, but never below wakeup. systrap adds to the buckets meanwhile.
func (e *expected) follow() {
	var measured [len(e.of)]uint64
	total := uint64(0)
	for i := range e.of {
		measured[i] = e.of[i].Load()
		if i == e.at {
			measured[i] -= samples
		}
		total += measured[i]
	}
	if total < enough {
		return
	}
	median, below := 0, measured[0]
	for below < total/2 {
		median++
		below += measured[median]
	}
	if to := max(median, wakeup); to != e.at {
		e.of[to].Add(samples) // first: there are some at any time
		e.of[e.at].Add(^uint64(samples - 1))
		e.at = to
	}
}
