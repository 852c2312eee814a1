package native

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/caps"
)

// needsLimits tells whether some settings can only be made once the cgroup has its limits: a real-time policy needs the
// group's share of real-time, and a memory policy the nodes of its cpuset.
func (t *process) needsLimits() bool {
	return t.Scheduler != nil || t.container.Spec.Linux.MemoryPolicy != nil
}

// schedulerHint says why the kernel does not permit a scheduler (sched(7)), as far as hull can see it; or "". The order
// is that of the kernel's checks.
func (t *process) schedulerHint() string {
	s := t.Scheduler
	realTime := s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR
	switch {
	case t.userns || !hostCapability(unix.CAP_SYS_NICE):
		const right = "CAP_SYS_NICE in the host's user namespace"
		switch {
		case realTime && softLimit(unix.RLIMIT_RTPRIO) < uint64(s.Priority):
			return fmt.Sprintf("a real-time policy needs %s, or that hull is started with an RLIMIT_RTPRIO of %d", right, s.Priority)
		case s.Policy == specs.SchedDeadline:
			return "SCHED_DEADLINE needs " + right
		case !realTime && softLimit(unix.RLIMIT_NICE) < uint64(20-s.Nice):
			return fmt.Sprintf("a lower nice value needs %s, or that hull is started with an RLIMIT_NICE of %d", right, 20-s.Nice)
		}
	case t.fewerCPUs():
		return "linux.resources.cpu.cpus must have all CPUs of the machine for SCHED_DEADLINE (sched_setattr(2))"
	}
	if realTime && t.noRealTime() {
		return "the cgroup has no share of real-time (cpu.rt_runtime_us is 0): linux.resources.cpu.realtimeRuntime gives it one"
	}
	return ""
}

// fewerCPUs tells whether the process is to have a deadline, and not all CPUs.
func (t *process) fewerCPUs() bool {
	r := t.container.Spec.Linux.Resources
	return t.Scheduler.Policy == specs.SchedDeadline && r != nil && r.CPU != nil && r.CPU.Cpus != ""
}

// noRealTime tells whether the kernel divides real-time among cgroups of v1, and the container's gets none.
func (t *process) noRealTime() bool {
	dir := t.container.Cgroup.Path("cpu")
	if dir == "" {
		return false
	}
	share, err := os.ReadFile(filepath.Join(dir, "cpu.rt_runtime_us"))
	return err == nil && strings.TrimSpace(string(share)) == "0"
}

// hostCapability tells whether hull has the capability in the initial user namespace.
func hostCapability(n int) bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295" {
		return false
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [caps.DataSize / 12]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[n/32].Effective&(1<<(n%32)) != 0
}

func softLimit(resource int) uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(resource, &l); err != nil {
		return 0
	}
	return l.Cur
}
