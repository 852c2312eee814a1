package cgroup

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// write is a value for a file of a controller.
type write struct {
	field      string // where in config.json it comes from
	controller string
	file       string
	value      string
	// later allows the write to be made after the controller's others, if the kernel answers EINVAL now: of values
	// that bound each other, as limit and limit with swap do, which goes first depends on what was there before.
	later bool
	// optional forgives a file that isn't there.
	optional bool
	// other is written instead if file isn't there: the BFQ scheduler has weights under names of its own.
	otherFile, otherValue string
}

// plan is the writes for a linux.resources, in order.
type plan []write

// String has a line for each write, for --debug and for golden files.
func (p plan) String() string {
	var b strings.Builder
	for _, w := range p {
		fmt.Fprintf(&b, "%s: %s/%s = %s\n", w.field, w.controller, w.file, quote(w.value))
	}
	return b.String()
}

func (p *plan) add(field, controller, file, value string) *write {
	*p = append(*p, write{field: resources + field, controller: controller, file: file, value: value})
	return &(*p)[len(*p)-1]
}

// or names the file and value to write where w's file isn't there.
func (w *write) or(file, value string) { w.otherFile, w.otherValue = file, value }

// number adds a write unless v is 0, which in linux.resources means: not set.
func number[T ~int64 | ~uint64 | ~uint32 | ~uint16](p *plan, field, controller, file string, v *T) *write {
	if v == nil || *v == 0 {
		return &write{}
	}
	return p.add(field, controller, file, fmt.Sprint(*v))
}

// planV1 returns the writes for v1. r has passed check.
func planV1(r *specs.LinuxResources) plan {
	var p plan
	if c := r.CPU; c != nil {
		if c.Cpus != "" {
			p.add("cpu.cpus", "cpuset", "cpuset.cpus", c.Cpus)
		}
		if c.Mems != "" {
			p.add("cpu.mems", "cpuset", "cpuset.mems", c.Mems)
		}
	}
	p.memoryV1(r.Memory)
	p.cpuV1(r.CPU)
	p.pids(r.Pids)
	p.blockIOV1(r.BlockIO)
	p.hugepages(r.HugepageLimits, ".limit_in_bytes")
	if n := r.Network; n != nil {
		number(&p, "network.classID", "net_cls", "net_cls.classid", n.ClassID)
		for i, prio := range n.Priorities {
			p.add(fmt.Sprintf("network.priorities[%d]", i), "net_prio", "net_prio.ifpriomap",
				fmt.Sprintf("%s %d", prio.Name, prio.Priority))
		}
	}
	p.rdma(r.Rdma)
	return p
}

func (p *plan) memoryV1(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	if m.UseHierarchy != nil {
		p.add("memory.useHierarchy", "memory", "memory.use_hierarchy", boolean(*m.UseHierarchy))
	}
	number(p, "memory.limit", "memory", "memory.limit_in_bytes", m.Limit).later = true
	number(p, "memory.swap", "memory", "memory.memsw.limit_in_bytes", m.Swap).later = true
	if value(m.Limit) == -1 && value(m.Swap) == 0 {
		// No limit of memory with the old one of memory and swap together would be none at all.
		p.add("memory.limit", "memory", "memory.memsw.limit_in_bytes", "-1").optional = true
	}
	number(p, "memory.reservation", "memory", "memory.soft_limit_in_bytes", m.Reservation)
	if value(m.DisableOOMKiller) {
		p.add("memory.disableOOMKiller", "memory", "memory.oom_control", "1")
	}
	if s := m.Swappiness; s != nil && *s != math.MaxUint64 {
		p.add("memory.swappiness", "memory", "memory.swappiness", strconv.FormatUint(*s, 10))
	}
}

func (p *plan) cpuV1(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	number(p, "cpu.realtimePeriod", "cpu", "cpu.rt_period_us", c.RealtimePeriod).later = true
	number(p, "cpu.realtimeRuntime", "cpu", "cpu.rt_runtime_us", c.RealtimeRuntime).later = true
	if value(c.Idle) != 1 { // an idle group has a weight of its own, and refuses another
		number(p, "cpu.shares", "cpu", "cpu.shares", c.Shares).later = true
	}
	number(p, "cpu.period", "cpu", "cpu.cfs_period_us", c.Period).later = true
	if c.Burst != nil {
		p.add("cpu.burst", "cpu", "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10)).later = true
	}
	number(p, "cpu.quota", "cpu", "cpu.cfs_quota_us", c.Quota).later = true
	if c.Idle != nil {
		p.add("cpu.idle", "cpu", "cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
}

func (p *plan) pids(l *specs.LinuxPids) {
	if l == nil || l.Limit == nil {
		return
	}
	v := "max"
	if n := *l.Limit; n >= 0 {
		// A limit of none at all stands for one: systemd's TasksMax has no zero either.
		v = strconv.FormatInt(max(n, 1), 10)
	}
	p.add("pids.limit", "pids", "pids.max", v)
}

// throttle is one of blockIO's four lists.
type throttle struct {
	name    string // in linux.resources.blockIO
	v1, v2  string // v1's file, v2's key in io.max
	devices []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func (p *plan) blockIOV1(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	if w := value(b.Weight); w != 0 {
		p.add("blockIO.weight", "blkio", "blkio.weight", fmt.Sprint(w)).or("blkio.bfq.weight", fmt.Sprint(w))
	}
	number(p, "blockIO.leafWeight", "blkio", "blkio.leaf_weight", b.LeafWeight)
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("blockIO.weightDevice[%d].", i)
		if w := value(d.Weight); w != 0 {
			v := fmt.Sprintf("%d:%d %d", d.Major, d.Minor, w)
			p.add(field+"weight", "blkio", "blkio.weight_device", v).or("blkio.bfq.weight_device", v)
		}
		if w := value(d.LeafWeight); w != 0 {
			p.add(field+"leafWeight", "blkio", "blkio.leaf_weight_device",
				fmt.Sprintf("%d:%d %d", d.Major, d.Minor, w))
		}
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			p.add(fmt.Sprintf("blockIO.%s[%d]", t.name, i), "blkio", t.v1,
				fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
		}
	}
}

// hugepages sets the limit on use and, on Linux 5.7 and later, the one on reservations: without that a process is
// killed at the access that goes over the limit instead of being refused at mmap.
func (p *plan) hugepages(limits []specs.LinuxHugepageLimit, suffix string) {
	for i, l := range limits {
		field := fmt.Sprintf("hugepageLimits[%d]", i)
		v := strconv.FormatUint(l.Limit, 10)
		p.add(field, "hugetlb", "hugetlb."+l.Pagesize+suffix, v)
		p.add(field, "hugetlb", "hugetlb."+l.Pagesize+".rsvd"+suffix, v).optional = true
	}
}

func (p *plan) rdma(devices map[string]specs.LinuxRdma) {
	for _, name := range sortedKeys(devices) {
		d, v := devices[name], name
		if d.HcaHandles != nil {
			v += fmt.Sprintf(" hca_handle=%d", *d.HcaHandles)
		}
		if d.HcaObjects != nil {
			v += fmt.Sprintf(" hca_object=%d", *d.HcaObjects)
		}
		p.add("rdma["+quote(name)+"]", "rdma", "rdma.max", v)
	}
}

// planV2 returns the writes for v2. current reads a file of the cgroup as it is: where r sets one half of what v2 has as
// one, the other half stays. r has passed check.
func planV2(r *specs.LinuxResources, current func(file string) (string, error)) (plan, error) {
	var p plan
	p.pids(r.Pids)
	if err := p.memoryV2(r.Memory, current); err != nil {
		return nil, err
	}
	p.blockIOV2(r.BlockIO)
	p.cpuV2(r.CPU, current)
	p.hugepages(r.HugepageLimits, ".max")
	p.rdma(r.Rdma)
	for _, file := range sortedKeys(r.Unified) {
		controller, _, _ := strings.Cut(file, ".")
		for line := range strings.Lines(r.Unified[file]) {
			p.add("unified["+quote(file)+"]", controller, file, strings.TrimSuffix(line, "\n"))
		}
		if r.Unified[file] == "" {
			p.add("unified["+quote(file)+"]", controller, file, "")
		}
	}
	return p, nil
}

func (p *plan) memoryV2(m *specs.LinuxMemory, current func(string) (string, error)) error {
	if m == nil {
		return nil
	}
	swap, err := swapMax(m, current)
	if err != nil {
		return err
	}
	if swap != "" {
		// Without swap in the kernel there is no such file, and no swap is used, which these two allow.
		p.add("memory.swap", "memory", "memory.swap.max", swap).optional = swap == "0" || swap == "max"
	}
	if v := bytesV2(value(m.Limit)); v != "" {
		p.add("memory.limit", "memory", "memory.max", v)
	}
	if v := bytesV2(value(m.Reservation)); v != "" {
		p.add("memory.reservation", "memory", "memory.low", v)
	}
	return nil
}

// bytesV2 returns a number of bytes as v2 takes it, "" for one that isn't set.
func bytesV2(n int64) string {
	switch n {
	case 0:
		return ""
	case -1:
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// swapMax returns the value for memory.swap.max: v2 counts swap alone, linux.resources memory and swap together.
func swapMax(m *specs.LinuxMemory, current func(string) (string, error)) (string, error) {
	limit, swap := value(m.Limit), value(m.Swap)
	switch {
	case swap == 0 && limit == -1:
		return "max", nil // as memory without a limit has it in v1
	case swap == 0:
		return "", nil
	case swap == -1:
		return "max", nil
	}
	if limit == 0 && current != nil {
		if s, err := current("memory.max"); err == nil {
			s = strings.TrimSpace(s)
			if s == "max" {
				limit = -1
			} else if limit, err = strconv.ParseInt(s, 10, 64); err != nil {
				return "", err
			}
		}
	}
	switch {
	case limit == 0:
		return "", fault.Spec(resources+"memory.swap", "needs memory.limit, for it counts both together")
	case limit == -1:
		return strconv.FormatInt(swap, 10), nil
	case swap < limit:
		return "", fault.Spec(resources+"memory.swap", fmt.Sprintf(
			"%d: it counts memory and swap together, so it can't be less than the memory limit, %d", swap, limit))
	}
	return strconv.FormatInt(swap-limit, 10), nil
}

func (p *plan) cpuV2(c *specs.LinuxCPU, current func(string) (string, error)) {
	if c == nil {
		return
	}
	if c.Idle != nil {
		p.add("cpu.idle", "cpu", "cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
	if s := value(c.Shares); s != 0 && value(c.Idle) != 1 {
		p.add("cpu.shares", "cpu", "cpu.weight", strconv.FormatUint(weightOfShares(s), 10))
	}
	if c.Burst != nil {
		p.add("cpu.burst", "cpu", "cpu.max.burst", strconv.FormatUint(*c.Burst, 10)).later = true
	}
	if v, field := cpuMax(c, current); v != "" {
		p.add(field, "cpu", "cpu.max", v).later = true
	}
	if c.Cpus != "" {
		p.add("cpu.cpus", "cpuset", "cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		p.add("cpu.mems", "cpuset", "cpuset.mems", c.Mems)
	}
}

// cpuMax returns the value for cpu.max, "QUOTA PERIOD". A quota alone leaves the period as it is.
func cpuMax(c *specs.LinuxCPU, current func(string) (string, error)) (v, field string) {
	quota, period := value(c.Quota), value(c.Period)
	switch {
	case quota > 0:
		v, field = strconv.FormatInt(quota, 10), "cpu.quota"
	case quota < 0:
		v, field = "max", "cpu.quota"
	case period == 0:
		return "", ""
	default:
		v, field = "max", "cpu.period"
		if current != nil {
			if s, err := current("cpu.max"); err == nil {
				v, _, _ = strings.Cut(strings.TrimSpace(s), " ")
			}
		}
	}
	if period != 0 {
		v += " " + strconv.FormatUint(period, 10)
	}
	return v, field
}

func (p *plan) blockIOV2(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	if w := value(b.Weight); w != 0 {
		p.add("blockIO.weight", "io", "io.bfq.weight", fmt.Sprint(w)).or("io.weight", fmt.Sprint(ioWeight(w)))
	}
	for i, d := range b.WeightDevice {
		if w := value(d.Weight); w != 0 {
			p.add(fmt.Sprintf("blockIO.weightDevice[%d].weight", i), "io", "io.bfq.weight",
				fmt.Sprintf("%d:%d %d", d.Major, d.Minor, w))
		}
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			p.add(fmt.Sprintf("blockIO.%s[%d]", t.name, i), "io", "io.max",
				fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, t.v2, d.Rate))
		}
	}
}

// ioWeight returns v2's io.weight, 1 to 10000, for v1's weight, 10 to 1000, on a line through both ends.
func ioWeight(weight uint16) uint64 {
	return 1 + (uint64(weight)-10)*9999/990
}

// weightOfShares returns v2's cpu.weight for v1's cpu.shares. The curve is the one of runc and systemd's engines: a
// parabola in the exponents through least, default and most of both, 2 to 1, 1024 to 100, 262144 to 10000:
//
//	weight = ceil(10 ^ ((l² + 125 l) / 612 - 7/34)), l = log2(shares)
func weightOfShares(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	case bits.OnesCount64(shares) == 1 && shares == 1024:
		return 100 // exact, whatever the floating point says
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func boolean(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

// firstLimit returns the field of the first limit that r sets, or "". Device rules are none.
func firstLimit(r *specs.LinuxResources) string {
	return firstWrite(r, func(write) bool { return true })
}

// domainLimit is firstLimit for the controllers that threaded cgroups lack.
func domainLimit(r *specs.LinuxResources) string {
	return firstWrite(r, func(w write) bool {
		return w.controller == "memory" || w.controller == "io" || w.controller == "hugetlb"
	})
}

func firstWrite(r *specs.LinuxResources, f func(write) bool) string {
	if r == nil {
		return ""
	}
	p, err := planV2(r, nil)
	if err != nil {
		return resources + "memory.swap"
	}
	for _, w := range p {
		if f(w) {
			return w.field
		}
	}
	return ""
}
