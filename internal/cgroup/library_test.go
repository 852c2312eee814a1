package cgroup

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hull/hulltest"
	"hull/internal/cgroup/device"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // without it the library's managers set no device rules
	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// libraryResources is r as runc hands it to the library.
func libraryResources(t *testing.T, r *specs.LinuxResources) *cgroups.Resources {
	t.Helper()
	l := &cgroups.Resources{}
	if m := r.Memory; m != nil {
		l.Memory, l.MemorySwap, l.MemoryReservation = value(m.Limit), value(m.Swap), value(m.Reservation)
		l.MemorySwappiness, l.OomKillDisable = m.Swappiness, value(m.DisableOOMKiller)
	}
	if c := r.CPU; c != nil {
		l.CpuShares, l.CpuWeight = value(c.Shares), cgroups.ConvertCPUSharesToCgroupV2Value(value(c.Shares))
		l.CpuQuota, l.CpuPeriod, l.CpuBurst = value(c.Quota), value(c.Period), c.Burst
		l.CpusetCpus, l.CpusetMems, l.CPUIdle = c.Cpus, c.Mems, c.Idle
		l.CpuRtRuntime, l.CpuRtPeriod = value(c.RealtimeRuntime), value(c.RealtimePeriod)
	}
	if r.Pids != nil {
		l.PidsLimit = r.Pids.Limit
	}
	for _, h := range r.HugepageLimits {
		l.HugetlbLimit = append(l.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	rules := device.Defaults()
	var first []device.Rule
	for _, d := range r.Devices {
		rule, err := device.RuleOf(d)
		if err != nil {
			t.Fatal(err)
		}
		first = append(first, rule)
	}
	for _, d := range append(first, rules...) {
		l.Devices = append(l.Devices, &config.Rule{
			Type: config.Type(d.Kind), Major: d.Major, Minor: d.Minor,
			Permissions: config.Permissions(d.Perm.String()), Allow: d.Allow,
		})
	}
	return l
}

// settings returns the files of a cgroup, without those that change by themselves.
func settings(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.Contains(name, "stat") || strings.Contains(name, "usage") ||
			strings.Contains(name, "pressure") || strings.Contains(name, "current") || strings.Contains(name, "peak") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue // write-only
		}
		if name == "devices.list" { // a set, of which each has an order of its own
			lines := strings.Split(string(data), "\n")
			slices.Sort(lines)
			data = []byte(strings.Join(lines, "\n"))
		}
		files[name] = string(data)
	}
	return files
}

func deviceRules(rules ...specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup { return rules }

// TestLikeLibrary sets the same resources with this package and with the library that runc uses, and compares every
// file of the two cgroups; then again with an update of them.
func TestLikeLibrary(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	denyAll := specs.LinuxDeviceCgroup{Access: "rwm"}
	null := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rw"}
	disk := specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: ptr(int64(8)), Access: "r"}
	for _, tt := range []struct {
		name    string
		needs   []hulltest.Need
		r       specs.LinuxResources
		updates []specs.LinuxResources
	}{
		{"nothing", nil, specs.LinuxResources{}, nil},
		{"devices", nil, specs.LinuxResources{Devices: deviceRules(denyAll, null, disk)}, []specs.LinuxResources{
			{Devices: deviceRules(denyAll, disk)},
			{Devices: deviceRules(denyAll, null)},
			{Devices: deviceRules(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})},
			{Devices: deviceRules(denyAll)},
		}},
		{"memory", []hulltest.Need{controller("memory")}, specs.LinuxResources{Memory: &specs.LinuxMemory{
			Limit: ptr(int64(64 << 20)), Swap: ptr(int64(128 << 20)), Reservation: ptr(int64(32 << 20)),
		}}, []specs.LinuxResources{
			{Memory: &specs.LinuxMemory{Limit: ptr(int64(256 << 20)), Swap: ptr(int64(512 << 20))}}, // both up
			{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}},   // both down
			{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))}},
			{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}},
			{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}},
		}},
		{"cpu", []hulltest.Need{controller("cpu")}, specs.LinuxResources{CPU: &specs.LinuxCPU{
			Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(20000)),
		}}, []specs.LinuxResources{
			{CPU: &specs.LinuxCPU{Quota: ptr(int64(500000)), Period: ptr(uint64(200000)), Burst: ptr(uint64(300000))}},
			{CPU: &specs.LinuxCPU{Quota: ptr(int64(2000)), Period: ptr(uint64(1000)), Burst: ptr(uint64(0))}},
			{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1)), Period: ptr(uint64(100000))}},
			{CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}},
			{CPU: &specs.LinuxCPU{Idle: ptr(int64(0))}}, // the library can't set shares in the same go
			{CPU: &specs.LinuxCPU{Shares: ptr(uint64(2048))}},
		}},
		{"cpuset", []hulltest.Need{controller("cpuset")}, specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}},
			[]specs.LinuxResources{{CPU: &specs.LinuxCPU{Cpus: "0-1"}}}},
		{"pids", []hulltest.Need{controller("pids")}, specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(20))}},
			[]specs.LinuxResources{
				{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, {Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}},
			}},
		{"hugetlb", []hulltest.Need{controller("hugetlb")}, specs.LinuxResources{
			HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}},
			[]specs.LinuxResources{{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 0}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hulltest.Require(t, tt.needs...)
			ours := newGroup(t, newConfig(t, &tt.r))
			if err := ours.Limit(context.Background()); err != nil {
				t.Fatal(err)
			}
			theirs, err := manager.New(&cgroups.Cgroup{
				Path: newConfig(t, nil).Path, Resources: libraryResources(t, &tt.r)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := theirs.Destroy(); err != nil {
					t.Error(err)
				}
			})
			if err := theirs.Apply(-1); err != nil {
				t.Fatal(err)
			}
			if err := theirs.Set(libraryResources(t, &tt.r)); err != nil {
				t.Fatal(err)
			}
			compareGroups(t, "start", ours, theirs)
			for i, r := range tt.updates {
				l := libraryResources(t, &r)
				l.SkipDevices = r.Devices == nil
				if err := theirs.Set(l); err != nil {
					t.Fatalf("update %d: the library: %v", i, err)
				}
				if err := ours.Set(context.Background(), &r); err != nil {
					t.Fatalf("update %d: %v", i, err)
				}
				compareGroups(t, "update", ours, theirs)
			}
		})
	}
}

func compareGroups(t *testing.T, when string, ours *Group, theirs cgroups.Manager) {
	t.Helper()
	for controller, dir := range theirs.GetPaths() {
		if ours.Path(controller) == "" {
			t.Errorf("%s: no cgroup of %q", when, controller)
			continue
		}
		if diff := cmp.Diff(settings(t, dir), settings(t, ours.Path(controller))); diff != "" {
			t.Errorf("%s: %q (library, hull): %s", when, controller, diff)
		}
	}
	if len(ours.paths) != len(theirs.GetPaths()) {
		t.Errorf("%s: cgroups in %v, the library has %v", when, ours.paths, theirs.GetPaths())
	}
}

// statsAtRest returns the library's figures and ours, of a time when they didn't change: the kernel gives back the memory
// of what has exited some time later.
func statsAtRest(t *testing.T, m cgroups.Manager, g *Group) (*cgroups.Stats, *Stats) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		before, err := m.GetStats()
		if err != nil {
			t.Fatal(err)
		}
		ours, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		after, err := m.GetStats()
		if err != nil {
			t.Fatal(err)
		}
		if cmp.Equal(before, after) || time.Now().After(deadline) {
			return after, ours
		}
	}
}

// TestStatsLikeLibrary compares the figures of a cgroup in which nothing runs any more.
func TestStatsLikeLibrary(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	g := newGroup(t, newConfig(t, &specs.LinuxResources{}))
	// It begins when it is in the group, not before.
	c := exec.Command("sh", "-c", "read line; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	err = g.Add(t.Context(), c.Process.Pid)
	in.Close()
	c.Wait()
	if err != nil {
		t.Fatal(err)
	}
	m, err := manager.NewWithPaths(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, g.State().Paths)
	if err != nil {
		t.Fatal(err)
	}
	l, s := statsAtRest(t, m, g)
	entry := func(d cgroups.MemoryData) MemoryEntry { return MemoryEntry{d.Limit, d.Usage, d.MaxUsage, d.Failcnt} }
	want := Stats{
		CPU: CPUStats{
			Usage: CPUUsage{
				Total: l.CpuStats.CpuUsage.TotalUsage, PerCPU: l.CpuStats.CpuUsage.PercpuUsage,
				PerCPUKernel: l.CpuStats.CpuUsage.PercpuUsageInKernelmode,
				PerCPUUser:   l.CpuStats.CpuUsage.PercpuUsageInUsermode,
				Kernel:       l.CpuStats.CpuUsage.UsageInKernelmode, User: l.CpuStats.CpuUsage.UsageInUsermode,
			},
			Throttling: Throttling{
				l.CpuStats.ThrottlingData.Periods, l.CpuStats.ThrottlingData.ThrottledPeriods,
				l.CpuStats.ThrottlingData.ThrottledTime,
			},
		},
		CPUSet: CPUSetStats(l.CPUSetStats),
		Memory: MemoryStats{
			Cache: l.MemoryStats.Cache, Usage: entry(l.MemoryStats.Usage), Swap: entry(l.MemoryStats.SwapUsage),
			Kernel: entry(l.MemoryStats.KernelUsage), KernelTCP: entry(l.MemoryStats.KernelTCPUsage),
			Raw: l.MemoryStats.Stats,
		},
		Pids:     PidsStats{l.PidsStats.Current, l.PidsStats.Limit},
		Hugetlb:  map[string]HugetlbStats{},
		IntelRdt: struct{}{},
	}
	for size, h := range l.HugetlbStats {
		want.Hugetlb[size] = HugetlbStats{h.Usage, h.MaxUsage, h.Failcnt}
	}
	for _, b := range []struct {
		to   *[]BlockIOEntry
		from []cgroups.BlkioStatEntry
	}{
		{&want.BlockIO.IoServiceBytesRecursive, l.BlkioStats.IoServiceBytesRecursive},
		{&want.BlockIO.IoServicedRecursive, l.BlkioStats.IoServicedRecursive},
	} {
		for _, e := range b.from {
			*b.to = append(*b.to, BlockIOEntry(e))
		}
	}
	if len(want.Memory.Raw) == 0 {
		want.Memory.Raw = nil
	}
	s.CPU.PSI, s.Memory.PSI, s.BlockIO.PSI = nil, nil, nil // running averages
	if diff := cmp.Diff(&want, s); diff != "" {
		t.Errorf("(library, hull): %s", diff)
	}
	if s.CPU.Usage.Total == 0 {
		t.Error("no CPU time was counted")
	}
}
