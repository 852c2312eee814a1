package platform

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// lastHelper is where the search for systrap's first helper ends: it is among the first processes of the sandbox's pid namespace.
const lastHelper = 256

// withoutPreempting runs f, which starts systrap's first helper, by a thread that takes the processor from no other when it is
// woken up, as that helper doesn't then either. The two hand each other system calls by futexes, and who is done wakes the other
// until there is somebody to wake. On one processor a helper that was woken up took that from the thread which was about to wait,
// and kept it until its time was up: 3 ms of each start.
//
// Afterwards both are scheduled as others are, and so are all later helpers, which are the first one's children. Where that can't
// be done, it is slower.
func withoutPreempting(f func()) {
	runtime.LockOSThread() // which also keeps it from starting other threads, that would be so, too
	defer runtime.UnlockOSThread()
	if !reschedule(0, unix.SCHED_NORMAL, unix.SCHED_BATCH) {
		f()
		return
	}
	defer reschedule(0, unix.SCHED_BATCH, unix.SCHED_NORMAL)
	f()
	self := unix.Gettid()
	for pid := 1; pid <= lastHelper; pid++ {
		if pid != self && reschedule(pid, unix.SCHED_BATCH, unix.SCHED_NORMAL) {
			return
		}
	}
}

// reschedule changes the policy by which a thread is scheduled, 0 being this one, and tells whether it had the one before.
func reschedule(tid int, before, after uint32) bool {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil || attr.Policy != before {
		return false
	}
	attr.Policy = after
	return unix.SchedSetAttr(tid, attr, 0) == nil
}
