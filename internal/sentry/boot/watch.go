package boot

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// watch holds the limits of memory and of processor time of a container that has joined the first, by looking now and then: the
// kernel counts what is used, and the host bounds no more than all containers of the sandbox together.
//
//	goroutine of the member        look
//	newWatch ───────────────────>  starts
//	group.set: writes a limit ──>  looks at once
//	close ──────────────────────>  lets go what it has stopped, ends
//	group.remove: the cgroup is gone
type watch struct {
	*group
	first  atomic.Pointer[kernel.ThreadGroup] // the container's first process, once there is one
	killed atomic.Bool                        // it was, for want of memory

	changed chan struct{}
	closing sync.Once
	over    chan struct{} // closed to end look
	done    chan struct{} // closed when it has
}

const (
	soonest = 10 * time.Millisecond  // the tick by which the kernel counts processor time
	latest  = 100 * time.Millisecond // Linux's period of cpu.max, unless another is set
	rarely  = time.Second            // while no program runs
)

// never is when to look again at what is not limited.
const never = time.Duration(1<<63 - 1)

func newWatch(g *group) *watch {
	w := &watch{group: g, changed: make(chan struct{}, 1), over: make(chan struct{}), done: make(chan struct{})}
	go w.look()
	return w
}

// look holds the limits until close. While no program of the sandbox runs it looks rarely.
func (w *watch) look() {
	defer close(w.done)
	held := throttle{watch: w}
	defer held.release()
	eaters := eaters{watch: w, free: held.release}
	defer eaters.hasten(false)
	said := ""
	for {
		ran := w.c.kernel.CPUClockNow()
		limits := w.now()
		next, err := eaters.hold(limits)
		if err == nil {
			var of time.Duration
			of, err = held.hold(limits.cpu)
			next = min(next, of)
		}
		if err != nil {
			if text := err.Error(); text != said { // not each time
				said = text
				log.Warningf("%s: its limits can't be held: %v", w.c.ID, err)
			}
			next = latest
		}
		// Programs that are stopped for their quota don't run either, and go on only by a look; nor do those that wait for the
		// kernel to fill their memory (io_submit(2)).
		settled := err == nil && eaters.above == 0 && !eaters.grew && held.held == nil
		if w.wait(next) && settled && w.c.kernel.CPUClockNow() == ran {
			rest := time.AfterFunc(rarely, w.wake)
			if w.c.kernel.WaitForTaskActivity(w.changed) {
				w.wait(next) // as after a look: who wakes up often, for a moment, isn't looked at each time
			}
			rest.Stop()
		}
		select {
		case <-w.over:
			return
		default:
		}
	}
}

// wait waits for so long, or until a limit is changed or look has to end: then it returns false.
func (w *watch) wait(long time.Duration) bool {
	var over <-chan time.Time
	if long != never {
		over = time.After(long)
	}
	select {
	case <-w.changed:
		return false
	case <-over:
		return true
	}
}

// wake has look do so at once, or end.
func (w *watch) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// close ends look. Nothing of the container is held up any more.
func (w *watch) close() {
	w.closing.Do(func() { close(w.over) })
	w.wake()
	<-w.done
}
