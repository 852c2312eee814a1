package cgroup

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
)

// clockTick is a tick of cpuacct.stat in nanoseconds: USER_HZ is 100 on every architecture Go has.
const clockTick = 1e9 / 100

// v1Stats reads the figures of each v1 hierarchy that the container is in.
func (g *Group) v1Stats(r *reader, s *Stats) {
	for _, c := range []struct {
		controller string
		read       func(*reader, *Stats)
	}{
		{"cpu", (*reader).cpuV1},
		{"cpuacct", (*reader).cpuacctV1},
		{"cpuset", (*reader).cpusetV1},
		{"memory", (*reader).memoryV1},
		{"pids", (*reader).pidsStats},
		{"blkio", (*reader).blkioV1},
		{"hugetlb", (*reader).hugetlbV1},
		{"rdma", func(r *reader, s *Stats) { s.RDMA = r.rdmaStats() }},
	} {
		if r.dir = g.paths[c.controller]; r.dir != "" && exists(r.dir) {
			c.read(r, s)
		}
	}
}

func (r *reader) cpuV1(s *Stats) {
	stat := r.keyed("cpu.stat")
	s.CPU.Throttling = Throttling{
		Periods:          stat["nr_periods"],
		ThrottledPeriods: stat["nr_throttled"],
		ThrottledTime:    stat["throttled_time"],
	}
}

func (r *reader) cpuacctV1(s *Stats) {
	u := &s.CPU.Usage
	u.Total = r.number("cpuacct.usage")
	u.PerCPU = r.numbers("cpuacct.usage_percpu")
	stat := r.keyed("cpuacct.stat")
	u.User, u.Kernel = stat["user"]*clockTick, stat["system"]*clockTick
	// cpu user system
	// 0 96238 7638
	all, _ := r.text("cpuacct.usage_all")
	for line := range strings.Lines(all) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] == "cpu" {
			continue
		}
		u.PerCPUUser = append(u.PerCPUUser, r.parse("cpuacct.usage_all", f[1]))
		u.PerCPUKernel = append(u.PerCPUKernel, r.parse("cpuacct.usage_all", f[2]))
	}
}

func (r *reader) cpusetV1(s *Stats) {
	file := func(name string) string { return cpusetFile(r.dir, name) }
	c := &s.CPUSet
	c.CPUs = r.list(file("cpus"))
	c.Mems = r.list(file("mems"))
	c.CPUExclusive = r.number(file("cpu_exclusive"))
	c.MemHardwall = r.number(file("mem_hardwall"))
	c.MemExclusive = r.number(file("mem_exclusive"))
	c.MemoryMigrate = r.number(file("memory_migrate"))
	c.MemorySpreadPage = r.number(file("memory_spread_page"))
	c.MemorySpreadSlab = r.number(file("memory_spread_slab"))
	c.MemoryPressure = r.number(file("memory_pressure"))
	c.SchedLoadBalance = r.number(file("sched_load_balance"))
	if level, ok := r.text(file("sched_relax_domain_level")); ok {
		n, err := strconv.ParseInt(strings.TrimSpace(level), 10, 64)
		if err != nil {
			r.fail(&fs.PathError{Op: "parse", Path: r.dir + "/" + file("sched_relax_domain_level"), Err: err})
		}
		c.SchedRelaxDomainLevel = n
	}
}

func (r *reader) memoryV1(s *Stats) {
	m := &s.Memory
	m.Raw = r.keyed("memory.stat")
	m.Cache = m.Raw["cache"]
	m.Usage = r.memoryEntryV1("memory.")
	m.Swap = r.memoryEntryV1("memory.memsw.")
	m.Kernel = r.memoryEntryV1("memory.kmem.")
	m.KernelTCP = r.memoryEntryV1("memory.kmem.tcp.")
}

func (r *reader) memoryEntryV1(prefix string) MemoryEntry {
	return MemoryEntry{
		Limit:   r.number(prefix + "limit_in_bytes"),
		Usage:   r.number(prefix + "usage_in_bytes"),
		Max:     r.number(prefix + "max_usage_in_bytes"),
		Failcnt: r.number(prefix + "failcnt"),
	}
}

// pidsStats is for both versions.
func (r *reader) pidsStats(s *Stats) {
	s.Pids = PidsStats{Current: r.number("pids.current"), Limit: noLimit(r.number("pids.max"))}
}

// blkioV1 reads the figures of the scheduler that has some: BFQ's own, CFQ's of kernels before 5.0, or the throttle's.
func (r *reader) blkioV1(s *Stats) {
	b := &s.BlockIO
	type figure struct {
		file string
		to   *[]BlockIOEntry
	}
	full := func(prefix string) []figure {
		return []figure{
			{prefix + "sectors_recursive", &b.SectorsRecursive},
			{prefix + "io_service_time_recursive", &b.IoServiceTimeRecursive},
			{prefix + "io_wait_time_recursive", &b.IoWaitTimeRecursive},
			{prefix + "io_merged_recursive", &b.IoMergedRecursive},
			{prefix + "io_queued_recursive", &b.IoQueuedRecursive},
			{prefix + "time_recursive", &b.IoTimeRecursive},
			{prefix + "io_serviced_recursive", &b.IoServicedRecursive},
			{prefix + "io_service_bytes_recursive", &b.IoServiceBytesRecursive},
		}
	}
	pair := func(prefix, suffix string) []figure {
		return []figure{
			{prefix + "io_serviced" + suffix, &b.IoServicedRecursive},
			{prefix + "io_service_bytes" + suffix, &b.IoServiceBytesRecursive},
		}
	}
	for _, figures := range [][]figure{
		full("blkio.bfq."), pair("blkio.bfq.", "_recursive"), full("blkio."),
		pair("blkio.throttle.", "_recursive"), pair("blkio.throttle.", ""),
	} {
		*figures[0].to = r.blkioFile(figures[0].file)
		if *figures[0].to == nil {
			continue
		}
		for _, f := range figures[1:] {
			*f.to = r.blkioFile(f.file)
		}
		return
	}
}

var errMalformed = errors.New("malformed line")

// blkioFile returns a file of lines like "8:0 Read 1282048" or "8:0 6792", with a total at its end.
func (r *reader) blkioFile(file string) []BlockIOEntry {
	s, _ := r.text(file)
	var entries []BlockIOEntry
	for line := range strings.Lines(s) {
		f := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == ':' || c == '\n' })
		if len(f) == 2 && f[0] == "Total" {
			continue
		}
		if len(f) < 3 {
			r.fail(&fs.PathError{Op: "parse", Path: r.dir + "/" + file, Err: errMalformed})
			return entries
		}
		e := BlockIOEntry{Major: r.parse(file, f[0]), Minor: r.parse(file, f[1])}
		if len(f) == 4 {
			e.Op = f[2]
		}
		e.Value = r.parse(file, f[len(f)-1])
		entries = append(entries, e)
	}
	return entries
}

func (r *reader) hugetlbV1(s *Stats) {
	for _, size := range hugepageSizes() {
		prefix := "hugetlb." + size + "."
		if exists(r.dir + "/" + prefix + "rsvd.usage_in_bytes") {
			prefix += "rsvd."
		}
		s.Hugetlb[size] = HugetlbStats{
			Usage:   r.number(prefix + "usage_in_bytes"),
			Max:     r.number(prefix + "max_usage_in_bytes"),
			Failcnt: r.number(prefix + "failcnt"),
		}
	}
}
