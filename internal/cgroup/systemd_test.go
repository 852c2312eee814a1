package cgroup

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hull/hulltest"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestSystemd takes a container of the systemd driver through its life, as root with the system's manager, else with
// the user's own.
func TestSystemd(t *testing.T) {
	need, rootless := hulltest.Systemd, os.Geteuid() != 0
	if rootless {
		need = hulltest.SystemdUser
	}
	hulltest.Require(t, need, controller("memory"), controller("pids"), controller("cpu"))
	ctx := context.Background()
	c := Config{
		ID: hulltest.Token(t), Systemd: true, Rootless: rootless,
		Resources: &specs.LinuxResources{
			Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))},
			CPU:     &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50500)), Period: ptr(uint64(100000))},
			Pids:    &specs.LinuxPids{Limit: ptr(int64(20))},
			Devices: deviceRules(specs.LinuxDeviceCgroup{Access: "rwm"}),
		},
		Annotations: map[string]string{"org.systemd.property.TimeoutStopSec": "uint64 7"},
	}
	g := newGroup(t, c)
	startIn(t, g, "sleep", "100")
	if err := g.Limit(ctx); err != nil {
		t.Fatal(err)
	}
	if f, err := g.DirFD(); f != nil || err != nil {
		t.Errorf("DirFD = %v, %v: systemd wants a process before there is a cgroup", f, err)
	}
	show := func(property string) string {
		t.Helper()
		args := []string{"show", "--value", "-p", property, g.unit.name}
		if rootless {
			args = append([]string{"--user"}, args...)
		}
		out, err := exec.Command("systemctl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("systemctl: %v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for property, want := range map[string]string{
		"ActiveState": "active", "TimeoutStopUSec": "7s", "TasksMax": "20", "CPUQuotaPerSecUSec": "510ms", "Delegate": "yes",
	} {
		if got := show(property); got != want {
			t.Errorf("%s is %s, want %s", property, got, want)
		}
	}
	if g.mode == V2 {
		for file, want := range map[string]string{
			"memory.max": strconv.Itoa(64 << 20), "memory.swap.max": "0", "cpu.max": "51000 100000", "cpu.weight": "59",
			"pids.max": "20",
		} {
			if got, err := readFile(g.Path(unified), file); err != nil || strings.TrimSpace(got) != want {
				t.Errorf("%s is %q, %v, want %q", file, got, err, want)
			}
		}
	}

	other, err := Open(g.State())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Set(ctx, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(30))}}); err != nil {
		t.Fatal(err)
	}
	if got := show("TasksMax"); got != "30" {
		t.Errorf("after an update TasksMax is %s, want 30", got)
	}
	more := exec.Command("sleep", "100")
	if err := more.Start(); err != nil {
		t.Fatal(err)
	}
	go more.Wait()
	if _, err := other.Join(ctx, more.Process.Pid, 0); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(true); err != nil || !slices.Contains(pids, more.Process.Pid) {
		t.Errorf("Pids = %v, %v, without %d that joined", pids, err, more.Process.Pid)
	}
	if err := other.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := other.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if got := show("ActiveState"); got != "inactive" {
		t.Errorf("after Destroy the unit is %s", got)
	}
	if err := other.Destroy(ctx); err != nil {
		t.Errorf("Destroy once more: %v", err)
	}
}
