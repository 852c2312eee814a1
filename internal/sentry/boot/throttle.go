package boot

import (
	"runtime"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// throttle holds a limit of processor time by stopping the container's programs until they may go on. They may use what has come
// together in a period, and what they have used beyond that is taken from what comes.
type throttle struct {
	*watch
	limit string
	left  time.Duration // of processor time
	used  time.Duration // when it was looked at last
	at    time.Time
	calm  time.Duration // how long nothing was used
	held  map[*kernel.Task]bool
}

// hold stops the programs, or lets them go on, and returns when to look again.
func (t *throttle) hold(limit string) (time.Duration, error) {
	quota, period, ok := parseCPUMax(limit)
	if !ok {
		t.release()
		t.limit = limit
		return never, nil
	}
	used, err := t.stat("usage_usec")
	if err != nil {
		return 0, err
	}
	now := time.Now()
	if limit != t.limit {
		t.limit, t.left = limit, quota
	} else {
		t.left += time.Duration(float64(now.Sub(t.at))*float64(quota)/float64(period)) - (used - t.used)
		if t.held == nil { // else it is what they could not use, for this was late
			t.left = min(t.left, quota)
		}
		if used != t.used {
			t.calm = 0
		} else {
			t.calm += now.Sub(t.at)
		}
	}
	t.used, t.at = used, now
	if t.left <= 0 {
		t.stop()
		return soonest, nil // for those that wake up meanwhile
	}
	t.release()
	return min(max(t.left/time.Duration(runtime.GOMAXPROCS(0)), t.calm, soonest), latest), nil
}

// parseCPUMax returns the quota and the period of a cpu.max, or false if there is no quota.
func parseCPUMax(text string) (quota, period time.Duration, ok bool) {
	first, second, _ := strings.Cut(text, " ")
	q, err := strconv.ParseInt(first, 10, 64)
	p, perr := strconv.ParseInt(second, 10, 64)
	if err != nil || perr != nil || p <= 0 {
		return 0, 0, false
	}
	return time.Duration(q) * time.Microsecond, time.Duration(p) * time.Microsecond, true
}

// stop stops the programs that it hasn't stopped yet. Those that wait for something use nothing, and some calls that wait would
// be interrupted for them (signal(7), EINTR after a stop).
func (t *throttle) stop() {
	if t.held == nil {
		t.held = make(map[*kernel.Task]bool)
	}
	for _, task := range t.c.kernel.RootPIDNamespace().Tasks() {
		if task.ContainerID() != t.c.ID || t.held[task] {
			continue
		}
		switch task.TaskGoroutineState() {
		case kernel.TaskGoroutineRunningSys, kernel.TaskGoroutineRunningApp:
			task.BeginExternalStop()
			t.held[task] = true
		}
	}
}

func (t *throttle) release() {
	for task := range t.held {
		task.EndExternalStop()
	}
	t.held = nil
}
