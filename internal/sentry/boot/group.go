package boot

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/errno"
)

// group is one of groups, which is all that its container sees of cgroups, with the container's limits in its files. Of these the
// kernel itself holds that of pids. Those of memory and of processor time the host's cgroup holds for the first container, which
// is the sandbox's, and a watch for each other one.
type group struct {
	c     *container
	name  string
	place vfs.VirtualDentry
	node  kernel.Cgroup2
	ns    *kernel.CgroupNamespace // its root is the cgroup

	mu     sync.Mutex
	limits limits // with mu: what hull has set, whatever a program that may write to cgroups has written to the files

	changed func(limits) // is called with mu locked when limits were set
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

// enterGroup gives the container a cgroup, which has no limits yet.
func (c *container) enterGroup(changed func(limits)) error {
	g, err := c.cgroups.make(c)
	if err != nil {
		return &fault.Error{Field: "linux.resources", Step: "cgroup of the container's kernel", Err: errno.Of(err)}
	}
	c.group, g.changed = g, changed
	for file, most := range below {
		if err := g.write(file, most); err != nil {
			return &fault.Error{Field: "linux.resources", Step: "write " + file + " of the container's kernel", Err: errno.Of(err)}
		}
	}
	return nil
}

// set sets limits, as hull sends them.
func (g *group) set(files map[string]string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() { g.changed(g.limits) }() // also where only some could be set
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := g.setOne(file, files[file]); err != nil {
			return err
		}
	}
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
		return fmt.Errorf("%q: no limit of a cgroup of the sandbox's kernel", file)
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

// remove removes the cgroup, whose processes have ended, and those that they have left below.
func (g *group) remove() {
	ctx := g.c.kernel.SupervisorContext()
	g.ns.DecRef(ctx)
	g.place.DecRef(ctx)
	if err := g.c.cgroups.remove(g.c.kernel, g.name); err != nil {
		log.Warningf("%s: cgroup %s: %v", g.c.ID, g.name, err)
	}
}

// read returns what a file of the cgroup says. There may be none: the cgroup is removed while somebody asks for what the
// container uses.
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

// memory returns how much memory the container's processes have, with what is kept of files for them.
func (g *group) memory() (uint64, error) { return g.number("memory.current") }

// usage returns what the container's processes use, and have used.
func (g *group) usage(memory func() (uint64, error)) (*wire.Usage, error) {
	bytes, err := memory()
	pids, perr := g.number("pids.current")
	user, uerr := g.stat("user_usec")
	system, serr := g.stat("system_usec")
	if err := cmp.Or(err, perr, uerr, serr); err != nil {
		if g.node.Deleted() {
			err = errStopped()
		}
		return nil, err
	}
	u := &wire.Usage{Memory: bytes, Pids: pids}
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
