package cgroup

import (
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest/golden"
)

// everything sets all of linux.resources that a plan has.
func everything() *specs.LinuxResources {
	dev := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	throttle := []specs.LinuxThrottleDevice{{LinuxBlockIODevice: dev, Rate: 1048576}}
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{
			Limit: ptr(int64(1 << 30)), Swap: ptr(int64(2 << 30)), Reservation: ptr(int64(1 << 29)),
			Swappiness: ptr(uint64(60)), DisableOOMKiller: ptr(true), UseHierarchy: ptr(true),
		},
		CPU: &specs.LinuxCPU{
			Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(1000)),
			RealtimeRuntime: ptr(int64(950000)), RealtimePeriod: ptr(uint64(1000000)), Cpus: "0-1", Mems: "0",
			Idle: ptr(int64(0)),
		},
		Pids: &specs.LinuxPids{Limit: ptr(int64(100))},
		BlockIO: &specs.LinuxBlockIO{
			Weight: ptr(uint16(500)), LeafWeight: ptr(uint16(300)),
			WeightDevice: []specs.LinuxWeightDevice{
				{LinuxBlockIODevice: dev, Weight: ptr(uint16(400)), LeafWeight: ptr(uint16(200))}},
			ThrottleReadBpsDevice: throttle, ThrottleWriteBpsDevice: throttle,
			ThrottleReadIOPSDevice: throttle, ThrottleWriteIOPSDevice: throttle,
		},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
		Network: &specs.LinuxNetwork{
			ClassID: ptr(uint32(0x100001)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 5}},
		},
		Rdma: map[string]specs.LinuxRdma{
			"mlx4_0": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(10000))},
			"mlx4_1": {HcaObjects: ptr(uint32(5))},
		},
		Unified: map[string]string{"memory.high": "900000000", "io.max": "8:0 rbps=1\n8:16 rbps=2"},
	}
}

func TestPlanGolden(t *testing.T) {
	v2, err := planV2(everything(), nil)
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/plan-v1.txt", planV1(everything()).String())
	golden.Compare(t, "testdata/plan-v2.txt", v2.String())
}

// What r leaves out of a pair that v2 has in one file stays as the cgroup has it.
func TestPlanV2Half(t *testing.T) {
	files := map[string]string{"memory.max": "1000\n", "cpu.max": "20000 100000\n"}
	current := func(file string) (string, error) {
		s, ok := files[file]
		if !ok {
			return "", fs.ErrNotExist
		}
		return s, nil
	}
	for _, tt := range []struct {
		name string
		r    *specs.LinuxResources
		want string
	}{
		{"swap", &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(1500))}},
			"linux.resources.memory.swap: memory/memory.swap.max = \"500\"\n"},
		{"no limit and no swap", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}},
			"linux.resources.memory.swap: memory/memory.swap.max = \"max\"\n" +
				"linux.resources.memory.limit: memory/memory.max = \"max\"\n"},
		{"no swap", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(5)), Swap: ptr(int64(5))}},
			"linux.resources.memory.swap: memory/memory.swap.max = \"0\"\n" +
				"linux.resources.memory.limit: memory/memory.max = \"5\"\n"},
		{"quota", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(30000))}},
			"linux.resources.cpu.quota: cpu/cpu.max = \"30000\"\n"},
		{"period", &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(50000))}},
			"linux.resources.cpu.period: cpu/cpu.max = \"20000 50000\"\n"},
		{"idle", &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(10))}},
			"linux.resources.cpu.idle: cpu/cpu.idle = \"1\"\n"},
		{"pids", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}},
			"linux.resources.pids.limit: pids/pids.max = \"max\"\n"},
		{"no pids at all", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}},
			"linux.resources.pids.limit: pids/pids.max = \"1\"\n"},
	} {
		p, err := planV2(tt.r, current)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, p.String()); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	_, err := planV2(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(1500))}}, nil)
	if err == nil {
		t.Error("swap without a limit is accepted")
	}
}

// The conversions are those of the library that runc and Kubernetes use: a container has the same share everywhere.
func TestConversions(t *testing.T) {
	for shares := range uint64(maxShares + 10) {
		got, want := weightOfShares(shares), cgroups.ConvertCPUSharesToCgroupV2Value(shares)
		if shares > 0 && got != want {
			t.Fatalf("cpu.weight for %d shares: %d, want %d", shares, got, want)
		}
	}
	for w := uint16(10); w <= 1000; w++ {
		if got, want := ioWeight(w), cgroups.ConvertBlkIOToIOWeightValue(w); got != want {
			t.Fatalf("io.weight for %d: %d, want %d", w, got, want)
		}
	}
	for _, limit := range []int64{-1, 1000} {
		for _, swap := range []int64{-1, 0, 1000, 1500} {
			want, err := cgroups.ConvertMemorySwapToCgroupV2Value(swap, limit)
			if err != nil {
				t.Fatal(err)
			}
			got, err := swapMax(&specs.LinuxMemory{Limit: &limit, Swap: &swap}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want == 0 && swap > 0 {
				if got != "0" {
					t.Errorf("swap of limit %d and swap %d: %q, want 0", limit, swap, got)
				}
			} else if got != bytesV2(want) {
				t.Errorf("swap of limit %d and swap %d: %q, want %q", limit, swap, got, bytesV2(want))
			}
		}
	}
}
