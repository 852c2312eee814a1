package cgroup

import (
	"errors"
	"math"
	"strings"
	"testing"

	"hull/internal/fault"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestCheck(t *testing.T) {
	memory := func(m specs.LinuxMemory) *specs.LinuxResources { return &specs.LinuxResources{Memory: &m} }
	cpu := func(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }
	block := func(b specs.LinuxBlockIO) *specs.LinuxResources { return &specs.LinuxResources{BlockIO: &b} }
	for _, tt := range []struct {
		name   string
		r      *specs.LinuxResources
		v1, v2 string // the message, "" for none; v2's is v1's if it is "="
	}{
		{"nothing", nil, "", "="},
		{"zero values that engines send", &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(int64(0)), DisableOOMKiller: ptr(false),
				Swappiness: ptr(uint64(math.MaxUint64))},
			CPU:     &specs.LinuxCPU{Shares: ptr(uint64(0)), RealtimePeriod: ptr(uint64(0)), RealtimeRuntime: ptr(int64(0))},
			BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(0)), LeafWeight: ptr(uint16(0))},
			Network: &specs.LinuxNetwork{ClassID: ptr(uint32(0))},
		}, "", "="},
		{"limit", memory(specs.LinuxMemory{Limit: ptr(int64(-2))}),
			"linux.resources.memory.limit: -2: want -1, for no limit, or a number of bytes", "="},
		{"swap below limit", memory(specs.LinuxMemory{Limit: ptr(int64(200)), Swap: ptr(int64(100))}),
			"linux.resources.memory.swap: 100: it counts memory and swap together, so it can't be less than memory.limit, 200", "="},
		{"swappiness", memory(specs.LinuxMemory{Swappiness: ptr(uint64(101))}),
			"linux.resources.memory.swappiness: 101: want 0 to 100",
			"linux.resources.memory.swappiness: cgroup v2 has nothing like it"},
		{"OOM killer", memory(specs.LinuxMemory{DisableOOMKiller: ptr(true)}), "",
			"linux.resources.memory.disableOOMKiller: cgroup v2 has nothing like it"},
		{"shares", cpu(specs.LinuxCPU{Shares: ptr(uint64(1))}), "linux.resources.cpu.shares: 1: want 2 to 262144", ""},
		{"period", cpu(specs.LinuxCPU{Period: ptr(uint64(10))}),
			"linux.resources.cpu.period: 10: want 1000 to 1000000 microseconds", "="},
		{"quota", cpu(specs.LinuxCPU{Quota: ptr(int64(10))}),
			"linux.resources.cpu.quota: 10: want at least 1000 microseconds, or -1 for no limit", "="},
		{"burst", cpu(specs.LinuxCPU{Quota: ptr(int64(1000)), Burst: ptr(uint64(1001))}),
			"linux.resources.cpu.burst: 1001: more than cpu.quota, 1000", "="},
		{"idle", cpu(specs.LinuxCPU{Idle: ptr(int64(2))}), "linux.resources.cpu.idle: 2: want 0 or 1", "="},
		{"realtime", cpu(specs.LinuxCPU{RealtimeRuntime: ptr(int64(5))}), "",
			"linux.resources.cpu.realtimeRuntime: cgroup v2 has nothing like it"},
		{"cpus", cpu(specs.LinuxCPU{Cpus: "0-3,,5"}), `linux.resources.cpu.cpus: "0-3,,5": want a list like 0-3,7`, "="},
		{"weight", block(specs.LinuxBlockIO{Weight: ptr(uint16(9))}),
			"linux.resources.blockIO.weight: 9: want 10 to 1000", "="},
		{"leaf weight", block(specs.LinuxBlockIO{LeafWeight: ptr(uint16(10))}), "",
			"linux.resources.blockIO.leafWeight: cgroup v2 has nothing like it"},
		{"throttle", block(specs.LinuxBlockIO{ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{
			{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: -1}}}}),
			"linux.resources.blockIO.throttleReadIOPSDevice[0]: no device is numbered -1:0", "="},
		{"page size", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2mb"}, {Pagesize: "../2MB"}}},
			"linux.resources.hugepageLimits[0].pageSize: \"2mb\": want a size like 2MB\n" +
				"linux.resources.hugepageLimits[1].pageSize: \"../2MB\": want a size like 2MB", "="},
		{"network", &specs.LinuxResources{Network: &specs.LinuxNetwork{
			Priorities: []specs.LinuxInterfacePriority{{Name: "eth0 9"}}}},
			`linux.resources.network.priorities[0].name: "eth0 9": not the name of an interface`,
			"linux.resources.network.priorities: cgroup v2 has nothing like it\n" +
				`linux.resources.network.priorities[0].name: "eth0 9": not the name of an interface`},
		{"rdma", &specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx": {}}},
			`linux.resources.rdma["mlx"]: sets neither hcaHandles nor hcaObjects`, "="},
		{"unified", &specs.LinuxResources{Unified: map[string]string{"../x.y": "", "cgroup.procs": "1", "max": "1"}},
			"linux.resources.unified: it is for cgroup v2, and this host has v1",
			`linux.resources.unified["../x.y"]: want the name of a file, without a slash` + "\n" +
				`linux.resources.unified["cgroup.procs"]: not a resource` + "\n" +
				`linux.resources.unified["max"]: want CONTROLLER.FILE`},
		{"device type", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "p", Access: "r"}}},
			`linux.resources.devices[0]: type "p": want a, b or c`, "="},
		{"device access", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "c"}, {Access: "rx"}}},
			"linux.resources.devices[0]: access \"\": want some of r, w and m\n" +
				"linux.resources.devices[1]: access \"rx\": want some of r, w and m", "="},
		{"hole in a class of devices", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
			{Type: "c", Major: ptr(int64(5)), Allow: true, Access: "rwm"},
			{Type: "c", Major: ptr(int64(5)), Minor: ptr(int64(1)), Access: "w"}}},
			"linux.resources.devices[1]: c 5:1 w can't be taken out of c 5:*, which an earlier rule names as a whole", "="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, m := range []Mode{V1, V2} {
				want := tt.v1
				if m == V2 && tt.v2 != "=" {
					want = tt.v2
				}
				err := check(m, tt.r)
				got := ""
				if err != nil {
					got = err.Error()
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%v: %s", m, diff)
				}
				if err != nil && !errors.Is(err, fault.BadSpec) && !errors.Is(err, fault.Unsupported) {
					t.Errorf("%v: neither BadSpec nor Unsupported: %v", m, err)
				}
			}
		})
	}
}

func FuzzCheckList(f *testing.F) {
	for _, s := range []string{"0", "0-3,7", "0-31:1/2", "3-1", "-", "4294967296"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkList(s) != nil {
			return
		}
		if strings.Trim(strings.TrimSpace(s), "0123456789-,:/") != "" {
			t.Errorf("%q is accepted", s)
		}
		listMask(s)
	})
}
