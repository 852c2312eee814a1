package boot

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
)

// eaters holds a limit of memory by killing processes.
type eaters struct {
	*watch
	free  func() // lets programs go that are stopped for their quota
	more  int    // how many are killed at once the next time
	seen  uint64 // what was used at the last look
	grew  bool   // that was more than at the one before
	above uint64 // the same as seen, if it was too much; or 0
	looks int    // how often it was, while memory of files was given back
	haste bool   // it is in a hurry
}

// evictions is for how many looks memory of files may be given back before a process is killed.
const evictions = 10

// hold ends processes if the container has more memory than it may, and returns when to look again.
func (e *eaters) hold(l limits) (time.Duration, error) {
	most, err := strconv.ParseUint(l.memory, 10, 64)
	if err != nil {
		e.above, e.grew = 0, false
		e.hasten(false)
		return never, nil // "max", or none
	}
	began := time.Now()
	used, err := e.memory()
	if err != nil {
		return 0, err
	}
	soonest := max(soonest, time.Since(began)) // to count takes long where much is mapped that is not there
	last := e.above
	e.seen, e.grew, e.above = used, used > e.seen, used
	e.hasten(e.grew || used > most) // each look leaves garbage, up to half a megabyte where much is mapped
	switch {
	case used <= most:
		e.above, e.looks, e.more = 0, 0, 1
	case last == 0, used < last && e.looks < evictions:
		// What is kept of files is in the way of nobody, if it goes soon. It is not waited for by WaitForEvictions: that panics
		// where others begin as the last one ends, which programs can bring about.
		e.c.kernel.MemoryFile().StartEvictions()
		e.looks++
		return soonest, nil
	default:
		e.kill(most, used, l.together)
		return soonest, nil
	}
	if most-used < most/4 {
		return soonest, nil
	}
	return max(latest, soonest), nil
}

// hasten puts garbage off while programs may be too fast.
func (e *eaters) hasten(on bool) {
	if on != e.haste {
		e.haste = on
		hurry(on)
	}
}

// kill kills the process that Linux would: the one with the most memory, where each thousandth of oom_score_adj stands for as
// much of the limit. Those that say they may not be killed are the last, since here anybody may say so. If it was not enough it
// kills two the next time, and so on: many that grow, or make others, can't be faster.
func (e *eaters) kill(most, used uint64, together bool) {
	first := e.first.Load()
	if first == nil {
		return // nothing runs yet
	}
	found := e.processes(most)
	if len(found) == 0 {
		return
	}
	victims := found[:min(max(e.more, 1), len(found))]
	if together {
		victims = found
	}
	e.more = 2 * len(victims)
	e.free() // or they would not end
	log.Warningf("%s: %d bytes of memory, and at most %d are allowed: process %d is killed, with %d others", e.c.ID, used, most,
		e.c.kernel.RootPIDNamespace().IDOfThreadGroup(victims[0].ThreadGroup), len(victims)-1)
	for _, v := range victims {
		if v.ThreadGroup == first {
			e.killed.Store(true)
		}
		e.c.kill(v.ThreadGroup)
	}
	e.await(victims, most)
}

// await waits until those that were killed are gone, unless that takes long: they may be paused. Their memory is given back a
// moment later, on a busy host many moments: that is waited for longer, as long as those that are left have no more than they may
// and don't grow: who is not looked at could have taken any amount by then.
func (e *eaters) await(victims []eater, most uint64) {
	began, left := time.Now(), uint64(0) // what is used at the least since they are gone
	for {
		used, err := e.memory()
		if err != nil || used <= most {
			return
		}
		if left == 0 && !slices.ContainsFunc(victims, func(v eater) bool { return memoryOf(v.ThreadGroup) != nil }) {
			began, left = time.Now(), used
		}
		patience := time.Second
		if left > 0 && (used > left+most/16 || e.resident() > most) {
			patience = latest
		}
		if time.Since(began) >= patience {
			return
		}
		left = min(left, used)
		select {
		case <-e.over:
			return
		case <-time.After(soonest):
		}
	}
}

// resident returns what the container's processes have of memory: files that they have mapped are in it, each time, and others
// aren't.
func (e *eaters) resident() (sum uint64) {
	for _, tg := range e.c.groups() {
		if m := memoryOf(tg); m != nil {
			sum += m.ResidentSetSize()
		}
	}
	return sum
}

// eater is a process that has memory.
type eater struct {
	*kernel.ThreadGroup
	never bool // it says that it may not be killed
	score int64
}

// processes returns the container's that have memory, the one that is to be killed first at the front.
func (e *eaters) processes(most uint64) (found []eater) {
	for _, tg := range e.c.groups() {
		m := memoryOf(tg)
		if m == nil {
			continue
		}
		adj := int64(tg.Leader().OOMScoreAdj())
		found = append(found, eater{tg, adj == -1000, int64(m.ResidentSetSize()) + adj*int64(most)/1000})
	}
	slices.SortFunc(found, func(a, b eater) int {
		if a.never != b.never {
			if a.never {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.score, a.score)
	})
	return found
}

// memoryOf returns the memory of a process, or nil if it has ended. Its first thread may have, before the others.
func memoryOf(tg *kernel.ThreadGroup) (m *mm.MemoryManager) {
	tg.ForEachTask(func(t *kernel.Task) bool {
		t.WithMuLocked(func(t *kernel.Task) { m = t.MemoryManager() })
		return m == nil
	})
	return m
}
