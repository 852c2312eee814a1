package hull

import (
	"context"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// MemoryKinds is what a container's memory is used for, in bytes, with the names that runsc's usage gives them.
//
//	System    // the kernel's for the container
//	Anonymous // of its programs
//	PageCache // files on disks
//	Mapped    // files on disks, mapped by its programs
//	Tmpfs     // files in memory
//	Unknown   // neither of these
//	Total
//
// In native isolation the host's kernel says so of the container's cgroup. In a sandbox its kernel does, of all its containers, and
// what the host has given to that kernel itself is not in it: Stats has that.
type MemoryKinds = wire.MemoryKinds

// MemoryUsage returns what the container's memory is used for.
func (c *Container) MemoryUsage() (*MemoryKinds, error) {
	if k, ok := c.engine.(engine.Kernel); ok {
		view := c.engineView()
		m, err := k.Memory(&view)
		return m, fault.In("usage", c.ID(), err)
	}
	if !c.group.Tracks() {
		return nil, fault.In("usage", c.ID(), untracked())
	}
	s, err := c.group.Stats()
	if err != nil {
		return nil, fault.In("usage", c.ID(), err)
	}
	return kindsOf(s), nil
}

// kindsOf sorts the figures of memory.stat, in either version's words (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
func kindsOf(s *Stats) *MemoryKinds {
	raw := s.Memory.Raw
	first := func(names ...string) uint64 {
		for _, name := range names {
			if v, ok := raw[name]; ok {
				return v
			}
		}
		return 0
	}
	_, v2 := raw["anon"]
	m := &MemoryKinds{
		Total: s.Memory.Usage.Usage, Anonymous: first("anon", "rss"), Tmpfs: raw["shmem"], Mapped: first("file_mapped", "mapped_file"),
	}
	if v2 {
		m.System = first("kernel")
		if m.System == 0 { // before Linux 5.18
			m.System = raw["kernel_stack"] + raw["pagetables"] + raw["percpu"] + raw["sock"] + raw["slab"]
		}
	} else {
		m.System = s.Memory.Kernel.Usage
	}
	// What is mapped and what is in memory is among the files, too.
	m.PageCache = less(less(first("file", "cache"), m.Tmpfs), m.Mapped)
	m.Unknown = less(m.Total, m.System+m.Anonymous+m.PageCache+m.Mapped+m.Tmpfs)
	return m
}

// less is a-b, or 0: the figures are not of one moment.
func less(a, b uint64) uint64 { return a - min(a, b) }

// MetricsAddress is where hull-metrics listens unless it is told otherwise.
const MetricsAddress = "127.0.0.1:9464"

// Stats are what the kernel counts for a container, in JSON as runc's events have them.
// CPU, CPUSet, Memory, Pids, BlockIO, Hugetlb, RDMA, IntelRdt and NetworkInterfaces have the JSON names cpu, cpuset, memory,
// pids, blkio, hugetlb, rdma, intel_rdt and network_interfaces. Inside, inside, is what a sandbox's kernel counts for the container
// alone: cpu with user and kernel in nanoseconds, memory in bytes, pids. Of a container that has joined others in a sandbox CPU, Memory
// and Pids are these, too, beside the limits.
type Stats = cgroup.Stats

// Stats returns the resources that the container uses.
func (c *Container) Stats() (*Stats, error) {
	s, err := c.group.Stats()
	if k, ok := c.engine.(engine.Kernel); ok && err == nil {
		err = c.countInside(k, s)
	}
	return s, fault.In("events", c.ID(), err)
}

// countInside adds what the kernel of a sandbox counts, unless somebody has frozen it: it can't answer then.
func (c *Container) countInside(k engine.Kernel, s *Stats) error {
	if frozen, err := c.group.Frozen(); frozen || err != nil {
		return err
	}
	view := c.engineView()
	inside, err := k.Usage(&view)
	if err != nil || inside == nil {
		return err
	}
	s.Inside = inside
	if view.Pod != nil {
		// The cgroup has one process that waits: what the container uses is the rest of its sandbox's.
		s.CPU.Usage = cgroup.CPUUsage{Total: inside.CPU.User + inside.CPU.Kernel, User: inside.CPU.User, Kernel: inside.CPU.Kernel}
		s.Memory.Usage.Usage, s.Memory.Cache, s.Memory.Raw = inside.Memory, 0, nil
		s.Pids.Current = inside.Pids
	}
	return nil
}

// OOMEvents returns a channel that gets a value for each out-of-memory kill, and is closed when the container is gone
// or ctx is done.
func (c *Container) OOMEvents(ctx context.Context) (<-chan struct{}, error) {
	ch, err := c.group.OOM(ctx)
	return ch, fault.In("events", c.ID(), err)
}
