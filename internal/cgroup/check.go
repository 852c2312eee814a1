package cgroup

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"hull/internal/cgroup/device"
	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const resources = "linux.resources."

// checker collects the mistakes of a linux.resources.
type checker struct {
	mode Mode
	errs []error
}

// check returns what is wrong with r, every mistake with its field. It is pure: whether the kernel has a controller is
// known later, by require.
func check(m Mode, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	c := &checker{mode: m}
	c.memory(r.Memory)
	c.cpu(r.CPU)
	c.blockIO(r.BlockIO)
	c.hugepages(r.HugepageLimits)
	c.network(r.Network)
	c.rdma(r.Rdma)
	c.unified(r.Unified)
	c.devices(r.Devices)
	return errors.Join(c.errs...)
}

func (c *checker) bad(field, format string, args ...any) {
	c.errs = append(c.errs, fault.Spec(resources+field, fmt.Sprintf(format, args...)))
}

// unsupported refuses what this version of cgroups doesn't have.
func (c *checker) unsupported(field string) {
	c.errs = append(c.errs, &fault.Error{Field: resources + field, Kind: fault.Unsupported,
		Err: errorf("cgroup %v has nothing like it", c.mode)})
}

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

func (c *checker) memory(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	for _, f := range []struct {
		name  string
		value *int64
	}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}} {
		if f.value != nil && *f.value < -1 {
			c.bad("memory."+f.name, "%d: want -1, for no limit, or a number of bytes", *f.value)
		}
	}
	if limit, swap := value(m.Limit), value(m.Swap); swap > 0 && (limit == -1 && c.mode != V2 || swap < limit) {
		c.bad("memory.swap", "%d: it counts memory and swap together, so it can't be less than memory.limit, %d",
			swap, limit)
	}
	if s := m.Swappiness; s != nil && *s != math.MaxUint64 { // -1, which engines send, means: as it is
		switch {
		case c.mode == V2:
			c.unsupported("memory.swappiness")
		case *s > 100:
			c.bad("memory.swappiness", "%d: want 0 to 100", *s)
		}
	}
	if c.mode == V2 && m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		c.unsupported("memory.disableOOMKiller")
	}
	if c.mode == V2 && m.UseHierarchy != nil && !*m.UseHierarchy {
		c.unsupported("memory.useHierarchy")
	}
}

// The limits of the kernel's scheduler, in microseconds: min_cfs_quota_period and max_cfs_quota_period in
// kernel/sched/core.c; and of shares, MIN_SHARES and MAX_SHARES.
const (
	minPeriod, maxPeriod = 1000, 1_000_000
	minShares, maxShares = 2, 262144
)

func (c *checker) cpu(p *specs.LinuxCPU) {
	if p == nil {
		return
	}
	if s := value(p.Shares); c.mode != V2 && s != 0 && (s < minShares || s > maxShares) {
		c.bad("cpu.shares", "%d: want %d to %d", s, minShares, maxShares)
	}
	if t := value(p.Period); t != 0 && (t < minPeriod || t > maxPeriod) {
		c.bad("cpu.period", "%d: want %d to %d microseconds", t, minPeriod, maxPeriod)
	}
	if q := value(p.Quota); q > 0 && q < minPeriod {
		c.bad("cpu.quota", "%d: want at least %d microseconds, or -1 for no limit", q, minPeriod)
	}
	if b, q := value(p.Burst), value(p.Quota); q > 0 && b > uint64(q) {
		c.bad("cpu.burst", "%d: more than cpu.quota, %d", b, q)
	}
	if c.mode == V2 && value(p.RealtimePeriod) != 0 {
		c.unsupported("cpu.realtimePeriod")
	}
	if c.mode == V2 && value(p.RealtimeRuntime) != 0 {
		c.unsupported("cpu.realtimeRuntime")
	}
	if i := value(p.Idle); i != 0 && i != 1 {
		c.bad("cpu.idle", "%d: want 0 or 1", i)
	}
	for _, f := range []struct{ name, list string }{{"cpus", p.Cpus}, {"mems", p.Mems}} {
		if err := checkList(f.list); err != nil {
			c.bad("cpu."+f.name, "%q: %v", f.list, err)
		}
	}
}

// checkList checks a list like "0-3,7" (cpuset(7), "List format").
func checkList(list string) error {
	if strings.TrimSpace(list) == "" {
		return nil
	}
	for item := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, isRange := strings.Cut(item, "-")
		last, stride, hasStride := strings.Cut(last, ":")
		lo, err := strconv.ParseUint(first, 10, 32)
		hi := lo
		if err == nil && isRange {
			hi, err = strconv.ParseUint(last, 10, 32)
		}
		if err != nil || hi < lo || hasStride && !isStride(stride) {
			return errors.New("want a list like 0-3,7")
		}
	}
	return nil
}

// isStride tells whether s is the USED/GROUP of a range like 0-31:1/2.
func isStride(s string) bool {
	used, group, ok := strings.Cut(s, "/")
	u, uerr := strconv.ParseUint(used, 10, 32)
	n, nerr := strconv.ParseUint(group, 10, 32)
	return ok && uerr == nil && nerr == nil && u <= n && n > 0
}

func (c *checker) blockIO(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	c.weight("blockIO.weight", b.Weight)
	c.leafWeight("blockIO.leafWeight", b.LeafWeight)
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("blockIO.weightDevice[%d]", i)
		c.device(field, d.Major, d.Minor)
		c.weight(field+".weight", d.Weight)
		c.leafWeight(field+".leafWeight", d.LeafWeight)
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			c.device(fmt.Sprintf("blockIO.%s[%d]", t.name, i), d.Major, d.Minor)
		}
	}
}

func (c *checker) weight(field string, w *uint16) {
	if v := value(w); v != 0 && (v < 10 || v > 1000) {
		c.bad(field, "%d: want 10 to 1000", v)
	}
}

func (c *checker) leafWeight(field string, w *uint16) {
	if c.mode == V2 && value(w) != 0 {
		c.unsupported(field)
		return
	}
	c.weight(field, w)
}

func (c *checker) device(field string, major, minor int64) {
	if major < 0 || minor < 0 || major > math.MaxUint32 || minor > math.MaxUint32 {
		c.bad(field, "no device is numbered %d:%d", major, minor)
	}
}

func (c *checker) hugepages(limits []specs.LinuxHugepageLimit) {
	seen := make([]string, 0, len(limits))
	for i, l := range limits {
		field := fmt.Sprintf("hugepageLimits[%d].pageSize", i)
		if !isPageSize(l.Pagesize) {
			c.bad(field, "%q: want a size like 2MB", l.Pagesize)
		}
		for _, s := range seen {
			if s == l.Pagesize {
				c.bad(field, "%q: given twice", l.Pagesize)
			}
		}
		seen = append(seen, l.Pagesize)
	}
}

// isPageSize tells whether s is a number with KB, MB or GB, as in the names of hugetlb's files.
func isPageSize(s string) bool {
	for _, unit := range []string{"KB", "MB", "GB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			v, err := strconv.ParseUint(n, 10, 32)
			return err == nil && v > 0 && n[0] != '0' && n[0] != '+'
		}
	}
	return false
}

func (c *checker) network(n *specs.LinuxNetwork) {
	if n == nil {
		return
	}
	if value(n.ClassID) != 0 && c.mode == V2 {
		c.unsupported("network.classID")
	}
	if len(n.Priorities) > 0 && c.mode == V2 {
		c.unsupported("network.priorities")
	}
	for i, p := range n.Priorities {
		if p.Name == "" || strings.ContainsAny(p.Name, " \t\n/") {
			c.bad(fmt.Sprintf("network.priorities[%d].name", i), "%q: not the name of an interface", p.Name)
		}
	}
}

func (c *checker) rdma(devices map[string]specs.LinuxRdma) {
	for _, name := range sortedKeys(devices) {
		field := "rdma[" + quote(name) + "]"
		if name == "" || strings.ContainsAny(name, " \t\n") {
			c.bad(field, "not the name of a device")
		}
		if d := devices[name]; d.HcaHandles == nil && d.HcaObjects == nil {
			c.bad(field, "sets neither hcaHandles nor hcaObjects")
		}
	}
}

func (c *checker) unified(files map[string]string) {
	if len(files) > 0 && c.mode != V2 {
		c.errs = append(c.errs, &fault.Error{Field: resources + "unified", Kind: fault.Unsupported,
			Err: errorf("it is for cgroup v2, and this host has %v", c.mode)})
		return
	}
	for _, name := range sortedKeys(files) {
		field := "unified[" + quote(name) + "]"
		controller, file, ok := strings.Cut(name, ".")
		switch {
		case strings.ContainsAny(name, "/\x00"):
			c.bad(field, "want the name of a file, without a slash")
		case !ok || controller == "" || file == "":
			c.bad(field, "want CONTROLLER.FILE")
		case name == procsFile || name == "cgroup.threads" || name == "cgroup.kill":
			c.bad(field, "not a resource")
		}
	}
}

func (c *checker) devices(rules []specs.LinuxDeviceCgroup) {
	for i, r := range rules {
		if _, err := device.RuleOf(r); err != nil {
			c.bad(fmt.Sprintf("devices[%d]", i), "%v", err)
		}
	}
	if len(c.errs) > 0 {
		return
	}
	if _, err := device.New(rules); err != nil {
		c.errs = append(c.errs, err)
	}
}

// value returns *p, or 0 for nil.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
