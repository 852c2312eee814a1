package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hull/hulltest/golden"
	"hull/internal/cgroup/systemd"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func render(props []property) string {
	var b strings.Builder
	for _, p := range props {
		fmt.Fprintf(&b, "%s=%v\n", p.Name, p.Value)
	}
	return b.String()
}

func TestStartProperties(t *testing.T) {
	g := &Group{mode: V2, unit: &unit{"hull-c.scope", "system.slice"},
		props: []property{{Name: "TimeoutStopUSec", Value: uint64(5)}}}
	const want = `Description=hull container hull-c.scope
Slice=system.slice
Delegate=true
PIDs=[42]
MemoryAccounting=true
CPUAccounting=true
IOAccounting=true
TasksAccounting=true
DefaultDependencies=false
TimeoutStopUSec=5
`
	if diff := cmp.Diff(want, render(g.startProperties(42))); diff != "" {
		t.Error(diff)
	}
}

// A container can be deleted after systemd has gone; what can't be removed is still told, with why.
func TestDestroyWithoutManager(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	path := filepath.Join(t.TempDir(), "hull-c.scope")
	g := &Group{mode: V2, rootless: true, unit: &unit{"hull-c.scope", "user.slice"}, paths: map[string]string{"": path}}
	for _, made := range []bool{false, true} {
		if made {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Destroy(t.Context()); err != nil || g.Exists() {
			t.Errorf("with a cgroup %t: %v, exists: %t", made, err, g.Exists())
		}
	}
	if err := os.MkdirAll(filepath.Join(path, "busy"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := g.Destroy(t.Context()); !errors.Is(err, systemd.ErrNoManager) || !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a cgroup that can't be removed: %v", err)
	}
}

func TestLimitProperties(t *testing.T) {
	r := everything()
	r.CPU.Idle = nil
	r.Unified = map[string]string{
		"memory.high": "max", "cpu.max": "20000 50000", "cpuset.mems": "0-1", "pids.max": "0", "io.max": "8:0 rbps=1",
	}
	g := &Group{mode: V2, paths: map[string]string{"": "/nowhere"}}
	props, err := g.limitProperties(r, 252)
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/unit-v2.txt", render(props))
	g = &Group{mode: V1}
	r.Unified = nil
	props, err = g.limitProperties(r, 252)
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/unit-v1.txt", render(props))
}

func TestIdleProperty(t *testing.T) {
	g := &Group{mode: V2}
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(1024))}}
	for version, want := range map[int]string{252: "CPUWeight=0\n", 251: "CPUWeight=100\n"} {
		props, err := g.limitProperties(r, version)
		if err != nil || render(props) != want {
			t.Errorf("version %d: %q, %v, want %q", version, render(props), err, want)
		}
	}
}

func TestUnifiedPropertyRefuses(t *testing.T) {
	g := &Group{mode: V2}
	for file, v := range map[string]string{"memory.max": "1G", "cpu.max": "x 1", "cpuset.cpus": "a", "pids.max": "-1x"} {
		if _, err := g.limitProperties(&specs.LinuxResources{Unified: map[string]string{file: v}}, 252); err == nil {
			t.Errorf("%s=%s is accepted", file, v)
		}
	}
}

func TestRoundQuota(t *testing.T) {
	g := &Group{mode: V2, paths: map[string]string{"": "/nowhere"}}
	for _, tt := range []struct {
		quota  int64
		period uint64
		want   int64
	}{{4000, 10000, 4000}, {4041, 10000, 4100}, {50001, 0, 51000}, {-1, 10000, -1}} {
		r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &tt.quota, Period: &tt.period}}
		if got := *g.roundQuota(r).CPU.Quota; got != tt.want {
			t.Errorf("quota %d in %d: %d, want %d", tt.quota, tt.period, got, tt.want)
		}
	}
	if n := quotaPerSecond(math.MaxInt32, 1000); n%10000 != 0 {
		t.Errorf("a large quota: %d", n)
	}
}

func TestListMask(t *testing.T) {
	for list, want := range map[string][]byte{"0": {1}, "0-3,7": {0x8f}, "8-9,0": {1, 3}, "": nil} {
		if diff := cmp.Diff(want, listMask(list)); diff != "" {
			t.Errorf("%q: %s", list, diff)
		}
	}
}

func TestDeviceProperties(t *testing.T) {
	props, err := deviceProperties(deviceRules(specs.LinuxDeviceCgroup{Access: "rwm"},
		specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: ptr(int64(8)), Access: "r"},
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Minor: ptr(int64(9)), Access: "r"}), 252)
	if err != nil {
		t.Fatal(err)
	}
	want := []property{
		{Name: "DeviceAllow", Value: []systemd.DeviceAllow{}},
		{Name: "DevicePolicy", Value: "strict"},
		{Name: "DeviceAllow", Value: []systemd.DeviceAllow{
			{Device: "block-8", Access: "r"}, {Device: "char-*", Access: "m"}, {Device: "block-*", Access: "m"},
			{Device: "/dev/char/1:3", Access: "rwm"}, {Device: "/dev/char/1:8", Access: "rwm"},
			{Device: "/dev/char/1:7", Access: "rwm"}, {Device: "/dev/char/5:0", Access: "rwm"},
			{Device: "/dev/char/1:5", Access: "rwm"}, {Device: "/dev/char/1:9", Access: "rwm"},
			{Device: "char-136", Access: "rwm"}, {Device: "/dev/char/5:2", Access: "rwm"},
			{Device: "/dev/char/10:200", Access: "rwm"},
		}},
	}
	if diff := cmp.Diff(want, props); diff != "" {
		t.Error(diff)
	}
	props, err = deviceProperties(deviceRules(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}), 252)
	if err != nil {
		t.Fatal(err)
	}
	if want := "DeviceAllow=[]\nDevicePolicy=auto\n"; render(props) != want {
		t.Errorf("everything allowed: %q", render(props))
	}
}
