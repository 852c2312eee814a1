package life

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// disk returns the number of the machine's first disk.
func disk(t testing.TB) (major, minor int64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/dev/vda", &st); err != nil {
		t.Skip("needs /dev/vda: ", err)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
}

func TestLimits(t *testing.T) {
	major, minor := disk(t)
	b := running(t, resources(func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{Shares: ptr(uint64(2048)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0", Mems: "0"}
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20)), Swap: ptr(int64(96 << 20))}
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(50))}
		rate := specs.LinuxThrottleDevice{Rate: 1 << 20}
		rate.Major, rate.Minor = major, minor
		r.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{rate}}
		r.Unified = map[string]string{"memory.high": "50331648", "memory.oom.group": "1"}
	}))
	want := map[string]string{
		"cpu.weight":       "174", // of 2048 shares, as runc and crun have it: 100 is 1024
		"cpu.max":          "50000 100000",
		"cpuset.cpus":      "0",
		"cpuset.mems":      "0",
		"memory.max":       "67108864",
		"memory.low":       "33554432",
		"memory.high":      "50331648",
		"memory.swap.max":  "33554432", // on v2 without the memory
		"memory.oom.group": "1",
		"pids.max":         "50",
		"io.max":           fmt.Sprintf("%d:%d rbps=1048576 wbps=max riops=max wiops=max", major, minor),
	}
	b.wantFiles(want)
	if systemd() {
		// systemd writes to the files again what it knows of.
		systemctl(t, "daemon-reload")
		delete(want, "memory.oom.group") // scopes have no property for it before systemd 253
		b.wantFiles(want)
	}
	equal(t, "CPUs that the container may use", b.sh("nproc"), "1")
}

func TestUpdate(t *testing.T) {
	b := running(t)
	for _, tt := range []struct {
		args, file, want string
	}{
		{"--memory 64m", "memory.max", "67108864"},
		{"--memory-reservation 32m", "memory.low", "33554432"},
		{"--memory 32m --memory-swap 48m", "memory.swap.max", "16777216"},
		{"--memory -1 --memory-swap -1", "memory.max", "max"},
		{"--cpu-share 512", "cpu.weight", "59"},
		{"--cpu-quota 20000 --cpu-period 50000", "cpu.max", "20000 50000"},
		{"--cpu-quota -1 --cpu-period 100000", "cpu.max", "max 100000"},
		{"--cpu-idle 1", "cpu.idle", "1"},
		{"--cpuset-cpus 1", "cpuset.cpus", "1"},
		{"--cpuset-mems 0", "cpuset.mems", "0"},
		{"--pids-limit 20", "pids.max", "20"},
		{"--pids-limit -1", "pids.max", "max"},
	} {
		b.ok(append(append([]string{"update"}, strings.Fields(tt.args)...), b.id)...)
		if got := b.read(filepath.Join(b.cgroup(), tt.file)); got != tt.want {
			t.Errorf("update %s: %s is %q, want %q", tt.args, tt.file, got, tt.want)
		}
	}
	file := filepath.Join(b.bundle, "resources")
	if err := os.WriteFile(file, []byte(`{"pids": {"limit": 7}, "unified": {"memory.high": "1073741824"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.ok("update", "--resources", file, b.id)
	want := map[string]string{"pids.max": "7", "memory.high": "1073741824", "cpuset.cpus": "1"}
	b.wantFiles(want)
}

func TestStats(t *testing.T) {
	b := running(t, resources(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(10))}
	}))
	var event struct {
		Type, ID string
		Data     struct {
			CPU    struct{ Usage struct{ Total uint64 } }
			Memory struct{ Usage struct{ Usage, Limit uint64 } }
			Pids   struct{ Current, Limit uint64 }
		}
	}
	if err := json.Unmarshal([]byte(b.ok("events", "--stats", b.id)), &event); err != nil {
		t.Fatal(err)
	}
	d := event.Data
	equal(t, "type and id", event.Type+" "+event.ID, "stats "+b.id)
	equal(t, "pids", fmt.Sprint(d.Pids), "{1 10}")
	equal(t, "memory limit", d.Memory.Usage.Limit, 64<<20)
	if d.Memory.Usage.Usage == 0 || d.Memory.Usage.Usage > 64<<20 || d.CPU.Usage.Total == 0 || d.CPU.Usage.Total == math.MaxUint64 {
		t.Errorf("use of memory and CPU: %+v", d)
	}
}

// What the kernel kills for want of memory is told by events.
func TestOOM(t *testing.T) {
	b := running(t, resources(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := b.command(ctx, "events", "--interval", "1h", b.id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	lines := readLines(out)
	// It has begun to watch, or will within this time: nothing tells.
	time.Sleep(3 * time.Second)
	// One process, so that one is killed: while it ends, memory is still short for others.
	if got := b.do("exec", b.id, "tail", "/dev/zero"); got.status != 128+9 {
		t.Errorf("exec of what wants too much memory: %+v, want a kill", got)
	}
	select {
	case line := <-lines:
		contains(t, "event", line, `"oom"`, b.id)
	case <-ctx.Done():
		t.Error("no event")
	}
	contains(t, "memory.events", b.read(b.cgroup()+"/memory.events"), "oom_kill 1")
	b.wantStatus("running")
	// The events end with the container.
	b.ok("kill", b.id, "KILL")
	for line := range lines {
		t.Errorf("another event: %s", line)
	}
	if err := cmd.Wait(); err != nil {
		t.Error("events: ", err)
	}
}

func readLines(r io.Reader) <-chan string {
	lines := make(chan string, 10)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(r); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	return lines
}

// Containers with next to nothing start, or say what is missing.
func TestTight(t *testing.T) {
	memory := int64(1 << 20)
	if rootless() {
		memory *= 4 // a user namespace and binds of the host's mounts are charged to it, too
	}
	for _, tt := range []struct {
		name string
		edit func(*specs.LinuxResources)
	}{
		{"little memory", func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: ptr(memory)} }},
		{"one process", func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(1))} }},
		{"a hundredth of a CPU", func(r *specs.LinuxResources) {
			r.CPU = &specs.LinuxCPU{Quota: ptr(int64(1000)), Period: ptr(uint64(100000))}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := newBox(t, "true", resources(tt.edit)).run(); got != (outcome{}) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A controller that the machine has not, or that was not delegated, is an error with the field.
func TestMissingController(t *testing.T) {
	b := newBox(t, "true", resources(func(r *specs.LinuxResources) { r.Unified = map[string]string{"nothing.max": "1"} }))
	got := b.run()
	equal(t, "exit status", got.status, 1)
	contains(t, "message", got.err, "linux.resources.unified", "nothing.max")
}
