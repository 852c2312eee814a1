package cgroup

import (
	"math"
	"strings"
)

// unifiedStats reads the figures of a v2 cgroup.
func (r *reader) unifiedStats(s *Stats) {
	r.cpuV2(s)
	r.memoryV2(s)
	r.pidsV2(s)
	r.ioV2(s)
	r.hugetlbV2(s)
	s.RDMA = r.rdmaStats()
}

// cpuV2 is there even where the controller isn't enabled.
func (r *reader) cpuV2(s *Stats) {
	const microsecond = 1000
	stat := r.keyed("cpu.stat")
	s.CPU.Usage = CPUUsage{
		Total:  stat["usage_usec"] * microsecond,
		User:   stat["user_usec"] * microsecond,
		Kernel: stat["system_usec"] * microsecond,
	}
	s.CPU.Throttling = Throttling{
		Periods:          stat["nr_periods"],
		ThrottledPeriods: stat["nr_throttled"],
		ThrottledTime:    stat["throttled_usec"] * microsecond,
	}
	s.CPU.PSI = r.psi("cpu.pressure")
}

func (r *reader) memoryV2(s *Stats) {
	m := &s.Memory
	m.Raw = r.keyed("memory.stat")
	m.Cache = m.Raw["file"]
	m.Usage = r.memoryEntryV2("memory.")
	m.PSI = r.psi("memory.pressure")
	// v2 counts swap alone; the sum, which v1 has, is what readers of this expect. A highest sum isn't known.
	m.Swap = r.memoryEntryV2("memory.swap.")
	m.Swap.Max = 0
	if !exists(r.dir + "/memory.swap.current") {
		return
	}
	m.Swap.Usage += m.Usage.Usage
	if m.Swap.Limit != math.MaxUint64 {
		m.Swap.Limit += m.Usage.Limit
	}
}

func (r *reader) memoryEntryV2(prefix string) MemoryEntry {
	return MemoryEntry{
		Limit: r.number(prefix + "max"),
		Usage: r.number(prefix + "current"),
		Max:   r.number(prefix + "peak"), // Linux 5.19
	}
}

// pidsV2 counts for itself where the controller isn't enabled.
func (r *reader) pidsV2(s *Stats) {
	if exists(r.dir + "/pids.current") {
		r.pidsStats(s)
		return
	}
	pids, err := readPids(r.dir)
	if err != nil {
		r.fail(err)
	}
	s.Pids.Current = uint64(len(pids))
}

// ioV2 has v1's names for the figures that both have. A line is like "8:0 rbytes=4096 wbytes=0 rios=1 wios=0".
func (r *reader) ioV2(s *Stats) {
	b := &s.BlockIO
	b.PSI = r.psi("io.pressure")
	const file = "io.stat"
	text, _ := r.text(file)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		dev := BlockIOEntry{Major: r.parse(file, major), Minor: r.parse(file, minor)}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			to := &b.IoServicedRecursive
			switch k {
			case "rbytes", "wbytes":
				to = &b.IoServiceBytesRecursive
			case "rios", "wios":
			default:
				continue // discards, and the figures of cost models
			}
			e := dev
			e.Op, e.Value = "Read", r.parse(file, v)
			if k[0] == 'w' {
				e.Op = "Write"
			}
			*to = append(*to, e)
		}
	}
}

func (r *reader) hugetlbV2(s *Stats) {
	for _, size := range hugepageSizes() {
		prefix := "hugetlb." + size + "."
		if !exists(r.dir + "/" + prefix + "current") {
			continue
		}
		events := r.keyed(prefix + "events")
		current := prefix + "current"
		if exists(r.dir + "/" + prefix + "rsvd.current") {
			current = prefix + "rsvd.current"
		}
		s.Hugetlb[size] = HugetlbStats{Usage: r.number(current), Failcnt: events["max"]}
	}
}
