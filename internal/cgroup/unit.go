package cgroup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"hull/internal/cgroup/device"
	"hull/internal/cgroup/systemd"
	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// property is a property of a systemd unit.
type property = systemd.Property

var errUserManagerV1 = errors.New("a user's manager has no cgroups to give on cgroup v1")

// annotationPrefix begins the annotations that are properties of the container's unit.
const annotationPrefix = "org.systemd.property."

// annotated returns the properties among annotations.
func annotated(annotations map[string]string) ([]property, error) {
	var props []property
	var errs []error
	for _, key := range sortedKeys(annotations) {
		name, ok := strings.CutPrefix(key, annotationPrefix)
		if !ok {
			continue
		}
		p, err := systemd.ParseProperty(name, annotations[key])
		if err != nil {
			errs = append(errs, fault.Spec("annotations["+quote(key)+"]", err.Error()))
			continue
		}
		props = append(props, p)
	}
	return props, errors.Join(errs...)
}

// manager runs f with a connection to the manager of g's unit.
func (g *Group) manager(ctx context.Context, step string, f func(*systemd.Conn) error) error {
	c, err := systemd.Dial(ctx, g.rootless)
	if err != nil {
		e := &fault.Error{Step: "connect to systemd", Err: err}
		if g.rootless {
			e.Hint = "the systemd driver needs a session bus: set XDG_RUNTIME_DIR, and see that the user's manager runs"
		}
		return e
	}
	defer c.Close()
	if err := f(c); err != nil {
		return &fault.Error{Step: step + " " + g.unit.name, Err: err}
	}
	return nil
}

// userManagerCgroup returns the cgroup of the caller's own manager, "/user.slice/user-1000.slice/user@1000.service".
func userManagerCgroup() (path string, err error) {
	ctx := context.Background()
	c, err := systemd.Dial(ctx, true)
	if err != nil {
		return "", &fault.Error{Step: "connect to systemd", Err: err}
	}
	defer c.Close()
	if path, err = c.ManagerProperty(ctx, "ControlGroup"); err != nil {
		return "", &fault.Error{Step: "ask systemd for its cgroup", Err: err}
	}
	return path, nil
}

// The first versions of systemd with certain properties.
const (
	haveQuotaPeriod = 242 // CPUQuotaPeriodUSec
	haveAllowedCPUs = 244 // AllowedCPUs, AllowedMemoryNodes
	haveIdleWeight  = 252 // CPUWeight=idle
	haveOOMPolicy   = 253 // OOMPolicy of scopes
)

// startUnit starts g's unit with pid in it.
func (g *Group) startUnit(ctx context.Context, pid int) error {
	return g.manager(ctx, "start the unit", func(c *systemd.Conn) error {
		props := g.startProperties(pid)
		if g.res != nil && g.res.Unified["memory.oom.group"] != "" {
			// Of this one systemd wants to know before it starts.
			version, err := c.Version(ctx)
			if err != nil {
				return err
			}
			if version >= haveOOMPolicy {
				props = append(props, oomPolicy(g.res.Unified["memory.oom.group"])...)
			}
		}
		return c.Start(ctx, g.unit.name, props)
	})
}

func oomPolicy(group string) []property {
	switch strings.TrimSpace(group) {
	case "0":
		return []property{{Name: "OOMPolicy", Value: "continue"}}
	case "1":
		return []property{{Name: "OOMPolicy", Value: "kill"}}
	}
	return nil
}

// startProperties returns the properties that a unit has from the start. Those of annotations come last, to win.
func (g *Group) startProperties(pid int) []property {
	props := []property{{Name: "Description", Value: "hull container " + g.unit.name}}
	if g.unit.isSlice() {
		props = append(props, property{Name: "Wants", Value: []string{g.unit.slice}})
	} else {
		props = append(props,
			property{Name: "Slice", Value: g.unit.slice},
			property{Name: "Delegate", Value: true}) // below it, the cgroups are ours
	}
	if !g.unit.isSlice() {
		props = append(props, property{Name: "PIDs", Value: []uint32{uint32(pid)}})
	}
	io := "IOAccounting"
	if g.mode != V2 {
		io = "BlockIOAccounting"
	}
	// Accounting makes the controllers be there from the start: on v1 memory isn't charged to a cgroup afterwards.
	for _, name := range []string{"MemoryAccounting", "CPUAccounting", io, "TasksAccounting"} {
		props = append(props, property{Name: name, Value: true})
	}
	props = append(props, property{Name: "DefaultDependencies", Value: false})
	return append(props, g.props...)
}

// stopUnit stops g's unit.
func (g *Group) stopUnit(ctx context.Context) error {
	return g.manager(ctx, "stop the unit", func(c *systemd.Conn) error { return c.Stop(ctx, g.unit.name) })
}

// attach moves a process into g's unit by systemd, which on v2 may do what a user without root may not.
func (g *Group) attach(ctx context.Context, sub string, pid int) error {
	return g.manager(ctx, "attach to the unit", func(c *systemd.Conn) error {
		return c.Attach(ctx, g.unit.name, sub, uint32(pid))
	})
}

// setUnit tells systemd of limits that it has properties for: whatever it isn't told, it sets back to what it knows
// when it next writes to the cgroup, at a daemon-reload at the latest. The files are written nevertheless; they take
// what systemd rounds or doesn't know.
func (g *Group) setUnit(ctx context.Context, r *specs.LinuxResources, devices bool) error {
	return g.manager(ctx, "set the properties of", func(c *systemd.Conn) error {
		version, err := c.Version(ctx)
		if err != nil {
			return err
		}
		props, err := g.limitProperties(r, version)
		if err != nil {
			return err
		}
		if devices {
			dev, err := deviceProperties(r.Devices, version)
			if err != nil {
				return err
			}
			props = append(props, dev...)
		}
		if len(props) == 0 {
			return nil
		}
		return g.whileFrozen(ctx, func() error { return c.Set(ctx, g.unit.name, props) })
	})
}

// whileFrozen runs f with the container frozen on v1: systemd writes device rules there by denying all devices first,
// and a process that runs meanwhile fails to open /dev/null.
func (g *Group) whileFrozen(ctx context.Context, f func() error) error {
	if g.mode == V2 {
		return f()
	}
	pids, err := g.Pids(true)
	if err != nil {
		return err
	}
	frozen, err := g.Frozen()
	if err != nil {
		return err
	}
	if len(pids) == 0 || frozen {
		return f()
	}
	if err := g.Freeze(ctx); err != nil {
		return err
	}
	return errors.Join(f(), g.Thaw())
}

// limitProperties returns the properties for r (systemd.resource-control(5)).
func (g *Group) limitProperties(r *specs.LinuxResources, version int) (props []property, err error) {
	add := func(name string, value any) { props = append(props, property{Name: name, Value: value}) }
	if r.Pids != nil && r.Pids.Limit != nil {
		add("TasksMax", tasksMax(*r.Pids.Limit))
	}
	if g.mode == V2 {
		err = g.memoryProperties(r.Memory, add)
	} else if m := r.Memory; m != nil && value(m.Limit) != 0 {
		add("MemoryLimit", uint64(*m.Limit)) // -1 is infinity
	}
	if err != nil {
		return nil, err
	}
	g.cpuProperties(r.CPU, version, add)
	if b := r.BlockIO; b != nil && g.mode != V2 && value(b.Weight) != 0 {
		add("BlockIOWeight", uint64(*b.Weight))
	}
	if c := r.CPU; c != nil && version >= haveAllowedCPUs {
		for _, f := range []struct{ name, list string }{{"AllowedCPUs", c.Cpus}, {"AllowedMemoryNodes", c.Mems}} {
			if f.list != "" {
				add(f.name, listMask(f.list))
			}
		}
	}
	for _, file := range sortedKeys(r.Unified) {
		if err := unifiedProperty(file, strings.TrimSpace(r.Unified[file]), r.Unified, version, add); err != nil {
			return nil, err
		}
	}
	return props, nil
}

func tasksMax(limit int64) uint64 {
	if limit < 0 {
		return math.MaxUint64
	}
	return uint64(max(limit, 1))
}

func (g *Group) memoryProperties(m *specs.LinuxMemory, add func(string, any)) error {
	if m == nil {
		return nil
	}
	swap, err := swapMax(m, func(file string) (string, error) { return readFile(g.paths[unified], file) })
	if err != nil {
		return err
	}
	if value(m.Limit) != 0 {
		add("MemoryMax", uint64(*m.Limit))
	}
	if value(m.Reservation) != 0 {
		add("MemoryLow", uint64(*m.Reservation))
	}
	if swap != "" {
		n, err := parseUint(swap)
		if err != nil {
			return err
		}
		add("MemorySwapMax", n)
	}
	return nil
}

func (g *Group) cpuProperties(c *specs.LinuxCPU, version int, add func(string, any)) {
	if c == nil {
		return
	}
	idle := g.mode == V2 && value(c.Idle) == 1 && version >= haveIdleWeight
	switch shares := value(c.Shares); {
	case idle:
		add("CPUWeight", uint64(0)) // which is how idle is written on the bus
	case shares != 0 && g.mode == V2:
		add("CPUWeight", weightOfShares(shares))
	case shares != 0:
		add("CPUShares", shares)
	}
	quota, period := value(c.Quota), value(c.Period)
	if quota == 0 && period == 0 {
		return
	}
	q, p := g.currentQuota()
	if quota == 0 {
		quota = q
	}
	if period == 0 {
		period = p
	}
	quotaProperties(quota, period, version, add)
}

// defaultPeriod is the kernel's, in microseconds.
const defaultPeriod = 100_000

// currentQuota returns the quota, -1 for none, and the period that the cgroup has.
func (g *Group) currentQuota() (quota int64, period uint64) {
	var q, p string
	if g.mode == V2 {
		s, _ := readFile(g.paths[unified], "cpu.max")
		q, p, _ = strings.Cut(strings.TrimSpace(s), " ")
	} else if path := g.paths["cpu"]; path != "" {
		q, _ = readFile(path, "cpu.cfs_quota_us")
		p, _ = readFile(path, "cpu.cfs_period_us")
	}
	quota, err := strconv.ParseInt(strings.TrimSpace(q), 10, 64)
	if err != nil {
		quota = -1
	}
	period, err = strconv.ParseUint(strings.TrimSpace(p), 10, 64)
	if err != nil || period == 0 {
		period = defaultPeriod
	}
	return quota, period
}

// quotaProperties says a quota as time in a second.
func quotaProperties(quota int64, period uint64, version int, add func(string, any)) {
	if version >= haveQuotaPeriod {
		add("CPUQuotaPeriodUSec", period)
	}
	perSecond := uint64(math.MaxUint64)
	if quota > 0 {
		perSecond = quotaPerSecond(quota, period)
	}
	add("CPUQuotaPerSecUSec", perSecond)
}

const second = 1_000_000 // in microseconds

// quotaPerSecond returns a quota as systemd keeps it, in whole percent of a CPU, rounded up: in microseconds a second.
func quotaPerSecond(quota int64, period uint64) uint64 {
	const percent = second / 100
	return (uint64(quota)*second/period + percent - 1) / percent * percent
}

// roundQuota returns r with the quota that systemd makes of r's, so that the file has the same one as systemd.
func (g *Group) roundQuota(r *specs.LinuxResources) *specs.LinuxResources {
	if r.CPU == nil || value(r.CPU.Quota) <= 0 {
		return r
	}
	period := value(r.CPU.Period)
	if period == 0 {
		_, period = g.currentQuota()
	}
	rounded := int64(quotaPerSecond(*r.CPU.Quota, period) * period / second)
	res, cpu := *r, *r.CPU
	cpu.Quota = &rounded
	res.CPU = &cpu
	return &res
}

// listMask returns a list that checkList knows, as bytes of bits, the lowest number first.
func listMask(list string) []byte {
	var mask []byte
	for item := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, isRange := strings.Cut(item, "-")
		last, _, _ = strings.Cut(last, ":")
		if !isRange {
			last = first
		}
		lo, err := strconv.ParseUint(first, 10, 16)
		hi, herr := strconv.ParseUint(last, 10, 16)
		if err != nil || herr != nil {
			continue
		}
		for n := lo; n <= hi; n++ {
			for uint64(len(mask)) <= n/8 {
				mask = append(mask, 0)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	return mask
}

// unifiedProperty adds the property for a file of v2, if there is one.
func unifiedProperty(file, v string, all map[string]string, version int, add func(string, any)) error {
	number := func(name string) error {
		n, err := parseUint(v)
		if err != nil {
			return fault.Spec(resources+"unified["+quote(file)+"]", quote(v)+": want a number or max")
		}
		add(name, n)
		return nil
	}
	switch file {
	case "memory.max":
		return number("MemoryMax")
	case "memory.high":
		return number("MemoryHigh")
	case "memory.low":
		return number("MemoryLow")
	case "memory.min":
		return number("MemoryMin")
	case "memory.swap.max":
		return number("MemorySwapMax")
	case "pids.max":
		if v == "0" {
			v = "1"
		}
		return number("TasksMax")
	case "cpu.weight":
		if strings.TrimSpace(all["cpu.idle"]) != "1" {
			return number("CPUWeight")
		}
	case "cpu.idle":
		if v == "1" && version >= haveIdleWeight {
			add("CPUWeight", uint64(0))
		}
	case "cpuset.cpus", "cpuset.mems":
		if err := checkList(v); err != nil {
			return fault.Spec(resources+"unified["+quote(file)+"]", quote(v)+": "+err.Error())
		}
		name := "AllowedCPUs"
		if file == "cpuset.mems" {
			name = "AllowedMemoryNodes"
		}
		if version >= haveAllowedCPUs {
			add(name, listMask(v))
		}
	case "cpu.max":
		q, p, _ := strings.Cut(v, " ")
		quota, err := strconv.ParseInt(q, 10, 64)
		if q == "max" {
			quota, err = -1, nil
		}
		period := uint64(defaultPeriod)
		if p != "" && err == nil {
			period, err = strconv.ParseUint(strings.TrimSpace(p), 10, 64)
		}
		if err != nil || period == 0 || quota == 0 {
			return fault.Spec(resources+"unified["+quote(file)+"]", quote(v)+": want QUOTA PERIOD")
		}
		quotaProperties(quota, period, version, add)
	}
	return nil
}

// deviceProperties returns the properties for device rules. systemd has no exceptions from allowing everything: rules
// that come to that are in our own filter alone, below a unit that allows nothing less.
func deviceProperties(rules []specs.LinuxDeviceCgroup, version int) ([]property, error) {
	a, err := device.New(rules)
	if err != nil {
		return nil, err
	}
	clear := property{Name: "DeviceAllow", Value: []systemd.DeviceAllow{}}
	if a.AllowAll {
		return []property{clear, {Name: "DevicePolicy", Value: "auto"}}, nil
	}
	var allow []systemd.DeviceAllow
	for _, r := range a.Exceptions() {
		if name := unitDevice(r.Device, version); name != "" {
			allow = append(allow, systemd.DeviceAllow{Device: name, Access: r.Perm.String()})
		}
	}
	return []property{
		clear, // an assignment adds to what is there
		{Name: "DevicePolicy", Value: "strict"},
		{Name: "DeviceAllow", Value: allow},
	}, nil
}

// unitDevice returns a class of devices as DeviceAllow has it, or "" for one that it has no words for: any major number
// with one minor, and, before version 240, which looks for a file, all of one major number.
func unitDevice(d device.Device, version int) string {
	kind, dir := "char", "/dev/char/"
	if d.Kind == 'b' {
		kind, dir = "block", "/dev/block/"
	}
	switch {
	case d.Major == device.Any && d.Minor == device.Any:
		return kind + "-*"
	case d.Major == device.Any:
		return ""
	case d.Minor == device.Any && version < 240:
		return ""
	case d.Minor == device.Any:
		return fmt.Sprintf("%s-%d", kind, d.Major)
	}
	return fmt.Sprintf("%s%d:%d", dir, d.Major, d.Minor)
}
