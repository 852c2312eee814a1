package hull

import (
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/sandbox"
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

// CPUFeatures returns the features of this machine's processor that sandboxes are shown, as /proc/cpuinfo has them: what a saved
// container was started with must be there where it is restored.
func (r *Runtime) CPUFeatures() ([]string, error) {
	features, err := sandbox.Engine{Program: r.SandboxProgram, Release: Version}.CPUFeatures()
	return features, fault.In("cpu-features", "", err)
}
