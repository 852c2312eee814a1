package boot

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/errno"
)

// groups are the cgroups that containers which have joined the first have in this kernel: the host's, in which there is nothing
// of theirs, can't bound them.
type groups struct {
	mu    sync.Mutex
	mount *vfs.Mount // of the whole tree, once there is one; or nil
	made  int
}

// group is one of them, which is all that its container sees of cgroups. Of the limits the kernel itself holds that of pids. It
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

	together atomic.Bool // memory.oom.group: all of the container is killed at once
	killed   atomic.Bool // the container's first process was, for want of memory

	changed chan struct{}
	closing sync.Once
	over    chan struct{} // closed to end watch
	done    chan struct{} // closed when it has
}

// Of limits, as hull sends them: names of files of cgroups (version 2), and what is written there.
const (
	memoryMax = "memory.max"
	cpuMax    = "cpu.max"
	oomGroup  = "memory.oom.group"
)

// enterGroup gives the container a cgroup with these limits.
func (c *container) enterGroup(limits map[string]string) error {
	g, err := c.newGroup()
	if err != nil {
		return &fault.Error{Field: "linux.resources", Step: "cgroup of the container's kernel", Err: errno.Of(err)}
	}
	c.group = g
	go g.watch()
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
		if err := c.cgroups.write(k, "cgroup.subtree_control", "+cpu +memory +pids"); err != nil {
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

func (l *groups) at(path string) *vfs.PathOperation {
	root := vfs.MakeVirtualDentry(l.mount, l.mount.Root())
	return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(path)}
}

// write writes to a file of the tree. kernel.Cgroup2's WriteControl doesn't do where namespaces are boundaries: it takes for granted
// that there is an open file.
func (l *groups) write(k *kernel.Kernel, path, value string) error {
	ctx := k.SupervisorContext()
	f, err := k.VFS().OpenAt(ctx, auth.NewRootCredentials(k.RootUserNamespace()), l.at(path), &vfs.OpenOptions{Flags: linux.O_WRONLY})
	if err != nil {
		return err
	}
	defer f.DecRef(ctx)
	_, err = f.Write(ctx, usermem.BytesIOSequence([]byte(value)), vfs.WriteOptions{})
	return err
}

// set sets limits.
func (g *group) set(limits map[string]string) error {
	for _, file := range slices.Sorted(maps.Keys(limits)) {
		if file == oomGroup {
			g.together.Store(limits[file] == "1")
			continue
		}
		value := limits[file]
		if file == cpuMax && strings.HasPrefix(value, " ") { // a period alone
			quota, _, _ := strings.Cut(g.read(cpuMax), " ")
			value = quota + value
		}
		if err := g.c.cgroups.write(g.c.kernel, g.name+"/"+file, value); err != nil {
			return &fault.Error{Field: "linux.resources", Step: fmt.Sprintf("write %q to %s of the sandbox's kernel", value, file), Err: errno.Of(err)}
		}
	}
	select {
	case g.changed <- struct{}{}:
	default:
	}
	return nil
}

// close ends watch. Nothing of the container is held up any more.
func (g *group) close() {
	g.closing.Do(func() { close(g.over) })
	<-g.done
}

// remove removes the cgroup, whose processes have ended.
func (g *group) remove() {
	g.close()
	ctx := g.c.kernel.SupervisorContext()
	g.ns.DecRef(ctx)
	g.place.DecRef(ctx)
	if err := g.c.kernel.VFS().RmdirAt(ctx, auth.NewRootCredentials(g.c.kernel.RootUserNamespace()), g.c.cgroups.at(g.name)); err != nil {
		log.Warningf("%s: cgroup %s: %v", g.c.ID, g.name, err)
	}
}

// read returns what a file of the cgroup says.
func (g *group) read(file string) string {
	text, err := g.node.ReadControl(g.c.kernel.SupervisorContext(), file)
	if err != nil {
		panic(fmt.Sprintf("bug: cgroup of the kernel: %s: %v", file, err))
	}
	return strings.TrimSpace(text)
}

func (g *group) number(file string) uint64 {
	n, _ := strconv.ParseUint(g.read(file), 10, 64)
	return n
}

// usage returns what the container's processes use, and have used.
func (g *group) usage() *wire.Usage {
	u := &wire.Usage{Memory: g.number("memory.current"), Pids: g.number("pids.current")}
	u.CPU.User, u.CPU.Kernel = uint64(g.stat("user_usec")), uint64(g.stat("system_usec"))
	return u
}

// stat returns a time of cpu.stat.
func (g *group) stat(key string) time.Duration {
	for line := range strings.Lines(g.read("cpu.stat")) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(n) * time.Microsecond
		}
	}
	return 0
}

const (
	soonest = 10 * time.Millisecond  // the tick by which the kernel counts processor time
	latest  = 100 * time.Millisecond // Linux's period of cpu.max, unless another is set
)

// watch holds the limits of memory and of processor time until close.
func (g *group) watch() {
	defer close(g.done)
	held := throttle{group: g}
	defer held.release()
	for {
		memory, cpu := g.read(memoryMax), g.read(cpuMax)
		var wait <-chan time.Time
		if next := min(g.holdMemory(memory), held.hold(cpu)); next != never {
			wait = time.After(next)
		}
		select {
		case <-g.over:
			return
		case <-g.changed:
		case <-wait:
		}
	}
}

// never is when to look again at what is not limited.
const never = time.Duration(1<<63 - 1)

// holdMemory ends processes if the container has more memory than it may, and returns when to look again.
func (g *group) holdMemory(limit string) time.Duration {
	most, err := strconv.ParseUint(limit, 10, 64)
	if err != nil {
		return never // "max"
	}
	used := g.number("memory.current")
	if used > most {
		// What is kept of files is in the way of nobody.
		g.c.kernel.MemoryFile().StartEvictions()
		g.c.kernel.MemoryFile().WaitForEvictions()
		used = g.number("memory.current")
	}
	if used > most {
		g.killForMemory(most, used)
		return soonest
	}
	if most-used < most/4 {
		return soonest
	}
	return latest
}

// killForMemory kills the process that Linux would: the one with the most memory, of those that may be killed, where each
// thousandth of oom_score_adj stands for as much of the limit.
func (g *group) killForMemory(most, used uint64) {
	var worst *kernel.ThreadGroup
	var score int64
	all := g.c.groups()
	for _, tg := range all {
		leader := tg.Leader()
		adj := int64(leader.OOMScoreAdj())
		if adj == -1000 {
			continue
		}
		var n int64
		leader.WithMuLocked(func(t *kernel.Task) {
			if m := t.MemoryManager(); m != nil {
				n = int64(m.ResidentSetSize()) + adj*int64(most)/1000
			}
		})
		if worst == nil || n > score {
			worst, score = tg, n
		}
	}
	if worst == nil {
		return
	}
	victims := []*kernel.ThreadGroup{worst}
	if g.together.Load() {
		victims = all
	}
	log.Warningf("%s: %d bytes of memory, and at most %d are allowed: process %d is killed", g.c.ID, used, most,
		g.c.kernel.RootPIDNamespace().IDOfThreadGroup(worst))
	for _, tg := range victims {
		if g.c.init != nil && tg == g.c.init.group {
			g.killed.Store(true)
		}
		g.c.kill(tg)
	}
	// Nobody else is killed before they are gone, and their memory with them, unless that takes long: they may be paused.
	for began := time.Now(); time.Since(began) < time.Second; {
		if g.number("memory.current") <= most {
			return
		}
		select {
		case <-g.over:
			return
		case <-time.After(soonest):
		}
	}
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
func (t *throttle) hold(limit string) time.Duration {
	quota, period, ok := parseCPUMax(limit)
	if !ok {
		t.release()
		t.limit = limit
		return never
	}
	now, used := time.Now(), t.stat("usage_usec")
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
		return soonest // for those that wake up meanwhile
	}
	t.release()
	return min(max(t.left/time.Duration(runtime.GOMAXPROCS(0)), t.calm, soonest), latest)
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
