package cgroup

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestInside(t *testing.T) {
	p := func(n int64) *int64 { return &n }
	u := func(n uint64) *uint64 { return &n }
	for name, c := range map[string]struct {
		r     specs.LinuxResources
		files map[string]string
		rest  []string
	}{
		"nothing": {specs.LinuxResources{}, map[string]string{}, nil},
		"all that is held": {specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: p(1 << 20), Swap: p(1 << 20)},
			CPU:    &specs.LinuxCPU{Quota: p(5000), Period: u(10000)},
			Pids:   &specs.LinuxPids{Limit: p(7)},
		}, map[string]string{"memory.max": "1048576", "cpu.max": "5000 10000", "pids.max": "7"}, nil},
		"no limits": {specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: p(-1)}, CPU: &specs.LinuxCPU{Quota: p(-1)}, Pids: &specs.LinuxPids{Limit: p(-1)},
		}, map[string]string{"memory.max": "max", "cpu.max": "max", "pids.max": "max"}, nil},
		"a period alone": {specs.LinuxResources{CPU: &specs.LinuxCPU{Period: u(10000)}}, map[string]string{"cpu.max": " 10000"}, nil},
		"as Kubernetes has it": {specs.LinuxResources{
			CPU:            &specs.LinuxCPU{Shares: u(2), Quota: p(0), Period: u(100000)},
			Memory:         &specs.LinuxMemory{Limit: p(0)},
			HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}},
			Unified:        map[string]string{"memory.oom.group": "1", "memory.high": "5"},
		}, map[string]string{"cpu.max": " 100000", "memory.oom.group": "1"},
			[]string{`linux.resources.unified["memory.high"]`, "linux.resources.cpu.shares"}},
		"more swap than none": {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: p(1 << 20), Swap: p(2 << 20), Reservation: p(5)}},
			map[string]string{"memory.max": "1048576"}, []string{"linux.resources.memory.swap", "linux.resources.memory.reservation"}},
		"processors": {specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Idle: p(0), Burst: u(0)}},
			map[string]string{}, []string{"linux.resources.cpu.cpus"}},
	} {
		files, rest := Inside(&c.r)
		if d := cmp.Diff(c.files, files); d != "" {
			t.Errorf("%s: files (-want +got):\n%s", name, d)
		}
		if d := cmp.Diff(c.rest, rest); d != "" {
			t.Errorf("%s: rest (-want +got):\n%s", name, d)
		}
	}
}
