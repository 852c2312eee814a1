package boot

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/errno"
)

// group is one of groups, which is all that its container sees of cgroups. Of the limits the kernel itself holds that of pids. It
// counts what memory and processor time are used, and the group holds the limits of these, by looking now and then: watch.
//
//	goroutine of the member        watch
//	newGroup ───────────────────>  starts
//	set: writes a limit ────────>  looks at once
//	close ──────────────────────>  lets go what it has stopped, ends
//	remove: the cgroup is gone
type group struct {
	c     *container
	name  string
	place vfs.VirtualDentry
	node  kernel.Cgroup2
	ns    *kernel.CgroupNamespace // its root is the cgroup

	first  atomic.Pointer[kernel.ThreadGroup] // the container's first process, once there is one
	killed atomic.Bool                        // it was, for want of memory

	mu     sync.Mutex
	limits limits // with mu: what hull has set, whatever a program that may write to cgroups has written to the files

	changed chan struct{}
	closing sync.Once
	over    chan struct{} // closed to end watch
	done    chan struct{} // closed when it has
}

// Of limits, as hull sends them: names of files of cgroups (version 2), and what is written there.
const (
	memoryMax = "memory.max"
	cpuMax    = "cpu.max"
	pidsMax   = "pids.max"
	oomGroup  = "memory.oom.group"
)

// below is what programs may make below their cgroup, where they may write to it. The kernel keeps the whole path of each, so
// that a few thousand, each in the one before, take gigabytes. systemd and engines need less.
var below = map[string]string{"cgroup.max.depth": "32", "cgroup.max.descendants": "1000"}

// limits are those of a group, as its files say them.
type limits struct {
	memory, cpu, pids string
	together          bool // all of the container is killed at once
}

// controllers are those of the kernel that the groups' limits need.
const controllers = "+cpu +memory +pids"

// enterGroup gives the container a cgroup with these limits.
func (c *container) enterGroup(limits map[string]string) error {
	g, err := c.newGroup()
	if err != nil {
		return &fault.Error{Field: "linux.resources", Step: "cgroup of the container's kernel", Err: errno.Of(err)}
	}
	c.group = g
	go g.watch()
	for file, most := range below {
		if err := g.write(file, most); err != nil {
			return &fault.Error{Field: "linux.resources", Step: "write " + file + " of the container's kernel", Err: errno.Of(err)}
		}
	}
	return g.set(limits)
}

func (c *container) newGroup() (*group, error) {
	k, ctx := c.kernel, c.kernel.SupervisorContext()
	creds := auth.NewRootCredentials(k.RootUserNamespace())
	c.cgroups.mu.Lock()
	defer c.cgroups.mu.Unlock()
	// What is the root of a cgroup namespace is bounded from outside (cgroups(7), nsdelegate). The first container can change that,
	// by another mount.
	cgroup2fs.SetNSDelegate(k, true)
	if c.cgroups.mount == nil {
		c.cgroups.mount = cgroup2fs.NewInternalMount(k, k.VFS())
		if err := c.cgroups.write(k, "cgroup.subtree_control", controllers); err != nil {
			return nil, err
		}
	}
	c.cgroups.made++
	g := &group{c: c, name: fmt.Sprintf("container-%d", c.cgroups.made), changed: make(chan struct{}, 1), over: make(chan struct{}), done: make(chan struct{})}
	at := c.cgroups.at(g.name)
	if err := k.VFS().MkdirAt(ctx, creds, at, &vfs.MkdirOptions{Mode: 0o755}); err != nil {
		return nil, err
	}
	var err error
	if g.place, err = k.VFS().GetDentryAt(ctx, creds, at, &vfs.GetDentryOptions{}); err != nil {
		return nil, err
	}
	var ok bool
	if g.node, ok = cgroup2fs.CgroupFromDentry(g.place.Dentry()); !ok {
		panic("bug: a directory of cgroup2fs that is no cgroup")
	}
	g.ns = k.NewCgroupNamespace(ctx, g.node, k.RootUserNamespace())
	return g, nil
}

// set sets limits.
func (g *group) set(files map[string]string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := g.setOne(file, files[file]); err != nil {
			return err
		}
	}
	g.wake()
	return nil
}

// setOne sets one limit. mu is locked.
func (g *group) setOne(file, value string) error {
	var kept *string
	switch file {
	case oomGroup:
		g.limits.together = value == "1"
		return nil
	case memoryMax:
		kept = &g.limits.memory
	case cpuMax:
		kept = &g.limits.cpu
		if strings.HasPrefix(value, " ") { // a period alone
			quota, _, _ := strings.Cut(cmp.Or(g.limits.cpu, "max"), " ")
			value = quota + value
		}
	case pidsMax:
		kept = &g.limits.pids
	default:
		return fmt.Errorf("%q: no limit of a container of several", file)
	}
	err := g.write(file, value)
	if err == nil {
		*kept, err = g.read(file) // the kernel reads sizes with units, and says them without
	}
	if err != nil {
		return &fault.Error{Field: "linux.resources", Step: fmt.Sprintf("write %q to %s of the sandbox's kernel", value, file),
			Err: errno.Of(err)}
	}
	return nil
}

// write writes to a file of the cgroup.
func (g *group) write(file, value string) error {
	return g.c.cgroups.write(g.c.kernel, g.name+"/"+file, value)
}

// now returns the limits that are to be held.
func (g *group) now() limits {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.limits
}

// repair gives the cgroup its files and limits back: the first container sees the whole tree, and may take controllers away.
func (g *group) repair() {
	if err := g.c.cgroups.write(g.c.kernel, "cgroup.subtree_control", controllers); err != nil {
		log.Warningf("%s: cgroups of the kernel: %v", g.c.ID, err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for file, value := range map[string]string{memoryMax: g.limits.memory, cpuMax: g.limits.cpu, pidsMax: g.limits.pids} {
		if value == "" {
			continue
		}
		if err := g.write(file, value); err != nil {
			log.Warningf("%s: %s of the cgroup: %v", g.c.ID, file, err)
		}
	}
}

// close ends watch. Nothing of the container is held up any more.
func (g *group) close() {
	g.closing.Do(func() { close(g.over) })
	g.wake()
	<-g.done
}

// remove removes the cgroup, whose processes have ended, and those that they have left below.
func (g *group) remove() {
	g.close()
	ctx := g.c.kernel.SupervisorContext()
	g.ns.DecRef(ctx)
	g.place.DecRef(ctx)
	if err := g.c.cgroups.remove(g.c.kernel, g.name); err != nil {
		log.Warningf("%s: cgroup %s: %v", g.c.ID, g.name, err)
	}
}

// read returns what a file of the cgroup says. There may be none: the cgroup is removed while somebody asks for what the
// container uses, or a controller was taken away.
func (g *group) read(file string) (string, error) {
	text, err := g.node.ReadControl(g.c.kernel.SupervisorContext(), file)
	return strings.TrimSpace(text), err
}

func (g *group) number(file string) (uint64, error) {
	text, err := g.read(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}

// usage returns what the container's processes use, and have used.
func (g *group) usage() (*wire.Usage, error) {
	memory, err := g.number("memory.current")
	pids, perr := g.number("pids.current")
	user, uerr := g.stat("user_usec")
	system, serr := g.stat("system_usec")
	if err := cmp.Or(err, perr, uerr, serr); err != nil {
		if g.node.Deleted() {
			err = errStopped()
		}
		return nil, err
	}
	u := &wire.Usage{Memory: memory, Pids: pids}
	u.CPU.User, u.CPU.Kernel = uint64(user), uint64(system)
	return u, nil
}

// stat returns a time of cpu.stat.
func (g *group) stat(key string) (time.Duration, error) {
	text, err := g.read("cpu.stat")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, err
}

const (
	soonest = 10 * time.Millisecond  // the tick by which the kernel counts processor time
	latest  = 100 * time.Millisecond // Linux's period of cpu.max, unless another is set
	rarely  = time.Second            // while no program runs
)

// watch holds the limits of memory and of processor time until close. While no program of the sandbox runs it looks rarely.
func (g *group) watch() {
	defer close(g.done)
	held := throttle{group: g}
	defer held.release()
	eaters := eaters{group: g, free: held.release}
	for {
		ran := g.c.kernel.CPUClockNow()
		limits := g.now()
		next, err := eaters.hold(limits)
		if err == nil {
			var of time.Duration
			of, err = held.hold(limits.cpu)
			next = min(next, of)
		}
		if err != nil {
			g.repair()
			next = soonest
		}
		// Programs that are stopped for their quota don't run either, and go on only by a look; nor do those that wait for the
		// kernel to fill their memory (io_submit(2)).
		settled := err == nil && eaters.above == 0 && !eaters.grew && held.held == nil
		if g.wait(next) && settled && g.c.kernel.CPUClockNow() == ran {
			rest := time.AfterFunc(rarely, g.wake)
			if g.c.kernel.WaitForTaskActivity(g.changed) {
				g.wait(next) // as after a look: who wakes up often, for a moment, isn't looked at each time
			}
			rest.Stop()
		}
		select {
		case <-g.over:
			return
		default:
		}
	}
}

// wait waits for so long, or until a limit is changed or watch has to end: then it returns false.
func (g *group) wait(long time.Duration) bool {
	var over <-chan time.Time
	if long != never {
		over = time.After(long)
	}
	select {
	case <-g.changed:
		return false
	case <-over:
		return true
	}
}

// wake has watch look, or end.
func (g *group) wake() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// never is when to look again at what is not limited.
const never = time.Duration(1<<63 - 1)

// eaters holds a limit of memory by killing processes.
type eaters struct {
	*group
	free  func() // lets programs go that are stopped for their quota
	more  int    // how many are killed at once the next time
	seen  uint64 // what was used at the last look
	grew  bool   // that was more than at the one before
	above uint64 // the same as seen, if it was too much; or 0
	looks int    // how often it was, while memory of files was given back
}

// evictions is for how many looks memory of files may be given back before a process is killed.
const evictions = 10

// hold ends processes if the container has more memory than it may, and returns when to look again.
func (e *eaters) hold(l limits) (time.Duration, error) {
	most, err := strconv.ParseUint(l.memory, 10, 64)
	if err != nil {
		e.above, e.grew = 0, false
		return never, nil // "max", or none
	}
	began := time.Now()
	used, err := e.number("memory.current")
	if err != nil {
		return 0, err
	}
	soonest := max(soonest, time.Since(began)) // to count takes long where much is mapped that is not there
	last := e.above
	e.seen, e.grew, e.above = used, used > e.seen, used
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
		used, err := e.number("memory.current")
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

// throttle holds a limit of processor time by stopping the container's programs until they may go on. They may use what has come
// together in a period, and what they have used beyond that is taken from what comes.
type throttle struct {
	*group
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
