package hull_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// A deadline is only for who may run everywhere; the error says which property is in the way.
func TestDeadlineOnFewerCPUs(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	_, err := tryRun(t, newRuntime(t), resources(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: "0"} }), func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 42000, Deadline: 1000000, Period: 1000000}
	})
	refused(t, err, nil, "process.scheduler", "operation not permitted", "linux.resources.cpu.cpus")
}

// A real-time policy needs a share of the real-time of its cgroup, where the kernel divides it (sched(7)).
func TestRealTimeScheduler(t *testing.T) {
	hulltest.Require(t, hulltest.CgroupV1)
	if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"); err != nil {
		t.Skip("needs a kernel that divides real-time among cgroups: ", err)
	}
	if budget, err := os.ReadFile("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"); err != nil || string(budget) == "0\n" {
		t.Skip("needs a cgroup with real-time to give away: cpu.rt_runtime_us is 0")
	}
	r := newRuntime(t)
	edits := []func(*specs.Spec){args("sched"), func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
	}}
	_, err := tryRun(t, r, edits...)
	refused(t, err, unix.EPERM, "process.scheduler", "sched_setattr", "cpu.rt_runtime_us is 0")
	got, err := tryRun(t, r, append(edits, resources(func(r *specs.LinuxResources) {
		r.CPU = &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1000)), RealtimePeriod: ptr(uint64(1000000))}
	}))...)
	if err != nil {
		t.Fatal(errorText(err))
	}
	begins("policy 1 flags 0x1 nice 0 priority 3 ")(t, got)
}

// The error says what a scheduler would need.
func TestSchedulerNeedsRights(t *testing.T) {
	for _, tt := range []struct {
		scheduler specs.Scheduler
		want      string
	}{
		{specs.Scheduler{Policy: specs.SchedRR, Priority: 7}, "RLIMIT_RTPRIO of 7"},
		{specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 42000, Deadline: 1000000, Period: 1000000}, "SCHED_DEADLINE needs CAP_SYS_NICE"},
		{specs.Scheduler{Policy: specs.SchedBatch, Nice: -3}, "RLIMIT_NICE of 23"},
	} {
		_, err := tryRun(t, newRuntime(t), userNamespace, func(s *specs.Spec) { s.Process.Scheduler = &tt.scheduler })
		refused(t, err, unix.EPERM, "process.scheduler", "sched_setattr", tt.want)
	}
}

func cpusAllowed(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/status")) {
		if v, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return "Cpus_allowed_list " + strings.TrimSpace(v)
		}
	}
	return ""
}

func TestExecCPUAffinity(t *testing.T) {
	hulltest.Require(t, hulltest.CPUs(2))
	c := running(t)
	got := exec1(t, c, verb("status", "Cpus_allowed_list"), func(p *specs.Process) {
		p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
	})
	says(t, got, "Cpus_allowed_list 1")
	got = exec1(t, c, verb("status", "Cpus_allowed_list"), func(p *specs.Process) {
		p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0"}
	})
	says(t, got, "Cpus_allowed_list 0")
	// The container's own process has none: it is for exec alone (config.md, "Linux Process").
	says(t, exec1(t, c, verb("status", "Cpus_allowed_list")), cpusAllowed(t))
}

func TestMemoryPolicy(t *testing.T) {
	edit := func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	}
	got, err := tryRun(t, newRuntime(t), args("cat", "/proc/self/numa_maps"), edit)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("needs a kernel with NUMA: ", err)
	}
	if err != nil {
		t.Fatal(errorText(err))
	}
	if got.Status == "0" && !strings.Contains(got.Out, " bind:0 ") {
		t.Errorf("numa_maps:\n%s", got.Out)
	}
}
