package containerd

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"hull/internal/cgroup"
)

// Metrics returns what the kernel counts for a container as containerd wants it, which is a message for each version of
// cgroups (containerd/cgroups: cgroup1/stats, cgroup2/stats).
func Metrics(s *cgroup.Stats) Any {
	if cgroup.Detect() == cgroup.V2 {
		return Any{TypeURL: "io.containerd.cgroups.v2.Metrics", Value: Marshal((*metricsV2)(s))}
	}
	return Any{TypeURL: "io.containerd.cgroups.v1.Metrics", Value: Marshal((*metricsV1)(s))}
}

// group is a message that is written here and now.
type group func(w *writer)

func (g group) marshal(w *writer) { g(w) }

// numbers writes numbers one after the other, the first as field n.
func (w *writer) numbers(n protowire.Number, vs ...uint64) {
	for i, v := range vs {
		w.uint(n+protowire.Number(i), v)
	}
}

// raw writes figures of memory.stat one after the other, the first as field n. Those that the kernel hasn't are left out.
func (w *writer) raw(n protowire.Number, stat map[string]uint64, names ...string) {
	for i, name := range names {
		w.uint(n+protowire.Number(i), stat[name])
	}
}

func (w *writer) pids(n protowire.Number, p cgroup.PidsStats) {
	w.message(n, group(func(w *writer) { w.numbers(1, p.Current, p.Limit) }))
}

type metricsV1 cgroup.Stats

func (s *metricsV1) marshal(w *writer) {
	for _, size := range slices.Sorted(maps.Keys(s.Hugetlb)) {
		h := s.Hugetlb[size]
		w.message(1, group(func(w *writer) {
			w.numbers(1, h.Usage, h.Max, h.Failcnt)
			w.str(4, size)
		}))
	}
	w.pids(2, s.Pids)
	w.message(3, group(func(w *writer) {
		w.message(1, group(func(w *writer) {
			w.numbers(1, s.CPU.Usage.Total, s.CPU.Usage.Kernel, s.CPU.Usage.User)
			w.packed(4, s.CPU.Usage.PerCPU)
		}))
		t := s.CPU.Throttling
		w.message(2, group(func(w *writer) { w.numbers(1, t.Periods, t.ThrottledPeriods, t.ThrottledTime) }))
	}))
	w.message(4, group(s.memory))
	w.message(5, group(s.blockIO))
}

func (s *metricsV1) memory(w *writer) {
	w.raw(1, s.Memory.Raw, "cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout", "pgfault", "pgmajfault",
		"inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "hierarchical_memory_limit", "hierarchical_memsw_limit",
		"total_cache", "total_rss", "total_rss_huge", "total_mapped_file", "total_dirty", "total_writeback", "total_pgpgin", "total_pgpgout",
		"total_pgfault", "total_pgmajfault", "total_inactive_anon", "total_active_anon", "total_inactive_file", "total_active_file", "total_unevictable")
	for i, e := range []cgroup.MemoryEntry{s.Memory.Usage, s.Memory.Swap, s.Memory.Kernel, s.Memory.KernelTCP} {
		w.message(33+protowire.Number(i), group(func(w *writer) { w.numbers(1, e.Limit, e.Usage, e.Max, e.Failcnt) }))
	}
}

func (s *metricsV1) blockIO(w *writer) {
	b := s.BlockIO
	for i, list := range [][]cgroup.BlockIOEntry{
		b.IoServiceBytesRecursive, b.IoServicedRecursive, b.IoQueuedRecursive, b.IoServiceTimeRecursive,
		b.IoWaitTimeRecursive, b.IoMergedRecursive, b.IoTimeRecursive, b.SectorsRecursive,
	} {
		for _, e := range list {
			w.message(1+protowire.Number(i), group(func(w *writer) {
				w.str(1, e.Op)
				w.numbers(3, e.Major, e.Minor, e.Value)
			}))
		}
	}
}

type metricsV2 cgroup.Stats

func (s *metricsV2) marshal(w *writer) {
	const usec = 1000 // nanoseconds
	w.pids(1, s.Pids)
	w.message(2, group(func(w *writer) {
		u, t := s.CPU.Usage, s.CPU.Throttling
		w.numbers(1, u.Total/usec, u.User/usec, u.Kernel/usec, t.Periods, t.ThrottledPeriods, t.ThrottledTime/usec)
	}))
	w.message(4, group(s.memory))
	w.message(6, group(s.io))
	for _, size := range slices.Sorted(maps.Keys(s.Hugetlb)) {
		h := s.Hugetlb[size]
		w.message(7, group(func(w *writer) {
			w.numbers(1, h.Usage, h.Max)
			w.str(3, size)
			w.uint(4, h.Failcnt)
		}))
	}
}

func (s *metricsV2) memory(w *writer) {
	w.raw(1, s.Memory.Raw, "anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback", "anon_thp",
		"inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable", "pgfault",
		"pgmajfault", "workingset_refault", "workingset_activate", "workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal", "pgactivate",
		"pgdeactivate", "pglazyfree", "pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc")
	// The figures of memory and swap together are those that runc has made of v2's two.
	swap := func(both, memory uint64) uint64 { return both - min(both, memory) }
	m, ms := s.Memory.Usage, s.Memory.Swap
	w.numbers(32, m.Usage, m.Limit, swap(ms.Usage, m.Usage), swap(ms.Limit, m.Limit), m.Max)
}

// io sums up what v2 counts for each device and runc's form has an entry for.
func (s *metricsV2) io(w *writer) {
	type device struct{ major, minor uint64 }
	counts := make(map[device]*[4]uint64) // rbytes, wbytes, rios, wios
	var order []device
	add := func(list []cgroup.BlockIOEntry, read, write int) {
		for _, e := range list {
			d := device{e.Major, e.Minor}
			if counts[d] == nil {
				counts[d] = new([4]uint64)
				order = append(order, d)
			}
			switch e.Op {
			case "Read":
				counts[d][read] += e.Value
			case "Write":
				counts[d][write] += e.Value
			}
		}
	}
	add(s.BlockIO.IoServiceBytesRecursive, 0, 1)
	add(s.BlockIO.IoServicedRecursive, 2, 3)
	for _, d := range order {
		c := counts[d]
		w.message(1, group(func(w *writer) { w.numbers(1, d.major, d.minor, c[0], c[1], c[2], c[3]) }))
	}
}
