package hull

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/fault"
)

// Limits bound what a program over the host's files uses, together with all that it starts. A zero is no limit.
//
// Memory, CPUs and Pids are those of a cgroup, below what bounds the caller. Without root that takes a cgroup of v2 that
// is delegated to the caller, or a systemd manager of the user's. Where none can be had each process is bounded as far as
// resource limits do (setrlimit(2)), and the Runtime's Warn is told what is not.
type Limits struct {
	Memory int64         // bytes, with swap and with the files the program keeps in memory
	CPUs   float64       // processor time in a time: 1.5 is that of one and a half processors
	Pids   int64         // processes and threads; of a sandbox those of its kernel, for which there is an allowance
	Files  uint64        // open descriptors of each process
	Time   time.Duration // from the start of the program to its end; see Grace
	// Grace is how long a program has to end after Time: it is sent SIGTERM first, and then all processes are killed.
	// Zero means two seconds.
	Grace time.Duration
}

const defaultGrace = 2 * time.Second

// cpuPeriod is what a share of processor time is counted in, in microseconds: the kernel's default. The kernel wants a
// quota of at least a millisecond.
const (
	cpuPeriod = 100_000
	minQuota  = 1_000
)

// minFiles leaves a program its streams and what loading its libraries takes. With less hardly one would start, and say why.
const minFiles = 5

const maxCPUs = 100000 // the kernel has no room for much more (MAX_BW in kernel/sched/sched.h), and no host has them

// check refuses what can't be meant.
func (l *Limits) check() error {
	quota := l.CPUs * cpuPeriod
	for _, c := range []struct {
		name  string
		value any
		bad   bool
		want  string
	}{
		{"memory", l.Memory, l.Memory < 0, "bytes"},
		{"cpus", l.CPUs, l.CPUs != 0 && !(quota >= minQuota && l.CPUs <= maxCPUs), "0.01 to 100000"},
		{"pids", l.Pids, l.Pids < 0, "a number of processes"},
		{"files", l.Files, l.Files != 0 && l.Files < minFiles, "5 or more"},
		{"time", l.Time, l.Time < 0, "a duration"},
		{"grace", l.Grace, l.Grace < 0, "a duration"},
	} {
		if c.bad {
			return &fault.Error{Step: fmt.Sprintf("limit of %s %q", c.name, fmt.Sprint(c.value)), Kind: fault.BadUsage,
				Err: errors.New("want " + c.want)}
		}
	}
	return nil
}

// resources returns what a cgroup bounds, or nil.
func (l *Limits) resources() *specs.LinuxResources {
	r := new(specs.LinuxResources)
	if l.Memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &l.Memory, Swap: &l.Memory}
	}
	if l.CPUs > 0 {
		quota, period := int64(math.Round(l.CPUs*cpuPeriod)), uint64(cpuPeriod)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if l.Pids > 0 {
		n := l.processes()
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
	if r.Memory == nil && r.CPU == nil && r.Pids == nil {
		return nil
	}
	return r
}

// shown returns the limits that a sandbox's programs are shown. Its kernel holds that of processes, of which it counts theirs alone.
func (l *Limits) shown() *specs.LinuxResources {
	r := l.resources()
	if r.Pids != nil {
		*r.Pids.Limit = l.Pids
	}
	return r
}

// processes is Pids with the supervisor, which the program knows nothing of.
func (l *Limits) processes() int64 { return l.Pids + 1 }

// kernelPids is what a sandbox's kernel has of threads and helpers before its program has started others.
const kernelPids = 64

// impose returns the cgroup of a command, made; or one that does nothing, with resource limits in s as far as they go.
func (l *Limits) impose(s *specs.Spec, r *Runtime, rootless bool) (*cgroup.Group, error) {
	if l.Files > 0 {
		addRlimit(s, "RLIMIT_NOFILE", l.Files)
	}
	resources := l.resources()
	if resources == nil {
		return cgroup.None(), nil
	}
	if r.Isolation == Sandbox && resources.Pids != nil {
		*resources.Pids.Limit += kernelPids
	}
	g, err := limitGroup(resources, r, rootless)
	if err == nil {
		for _, w := range g.Warnings() {
			r.warn(w)
		}
		if r.Isolation == Sandbox { // whose programs are shown what holds: not where the cgroup is missing
			s.Linux.Resources = l.shown()
		}
		return g, nil
	}
	if !cgroup.Absent(err) {
		return nil, limitError(err)
	}
	r.warn(l.fallBack(s, err))
	return cgroup.None(), nil
}

// limitGroup makes a cgroup by the means there are.
func limitGroup(resources *specs.LinuxResources, r *Runtime, rootless bool) (*cgroup.Group, error) {
	c := cgroup.Config{Resources: resources, Rootless: rootless}
	if !r.SystemdCgroup {
		g, err := cgroup.NewTransient(c)
		if err == nil {
			err = g.Create()
		}
		if err == nil || !cgroup.Absent(err) || !c.Rootless || os.Getenv("XDG_RUNTIME_DIR") == "" {
			return g, err
		}
		if g, uerr := systemdGroup(c); uerr == nil {
			return g, nil
		}
		return nil, err
	}
	return systemdGroup(c)
}

// systemdGroup plans a scope of systemd's: of the user's own manager for others than root. It goes away with its last
// process.
func systemdGroup(c cgroup.Config) (*cgroup.Group, error) {
	id, err := randomID()
	if err != nil {
		return nil, err
	}
	c.ID, c.Systemd = "do-"+strings.TrimPrefix(id, "command-"), true
	return cgroup.New(c)
}

// fallBack adds the resource limits that stand in for a cgroup, and returns a warning that says what is bounded.
func (l *Limits) fallBack(s *specs.Spec, why error) string {
	var weak []string
	if l.Memory > 0 {
		addRlimit(s, "RLIMIT_AS", uint64(l.Memory))
		weak = append(weak, "memory is bounded for each process by itself, by its address space")
	}
	if l.CPUs > 0 {
		weak = append(weak, "processor time is not bounded")
	}
	if l.Pids > 0 {
		if os.Geteuid() != 0 && countsByNamespace() {
			addRlimit(s, "RLIMIT_NPROC", uint64(l.processes()))
		} else {
			weak = append(weak, "the number of processes is not bounded")
		}
	}
	if len(weak) == 0 {
		weak = append(weak, "the number of processes is bounded by a resource limit")
	}
	return "no cgroup for the limits: " + why.Error() + "; " + strings.Join(weak, "; ")
}

// countsByNamespace tells whether RLIMIT_NPROC counts a user's processes in a user namespace apart from those outside
// (Linux 5.14), by another system call of that version.
func countsByNamespace() bool {
	const quotactlFD = 443 // include/uapi/asm-generic/unistd.h
	_, _, errno := unix.Syscall6(quotactlFD, ^uintptr(0), 0, 0, 0, 0, 0)
	return errno != unix.ENOSYS
}

func addRlimit(s *specs.Spec, name string, n uint64) {
	s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: name, Soft: n, Hard: n})
}

// limitFields are the limits behind the fields of a configuration that the caller hasn't seen.
var limitFields = []struct{ prefix, limit string }{
	{"linux.resources.memory", "limit of memory"},
	{"linux.resources.cpu", "limit of cpus"},
	{"linux.resources.pids", "limit of pids"},
	{"process.rlimits", "limit of files"},
}

// limitError names the limit that err comes from.
func limitError(err error) error {
	for cause := err; ; {
		var e *fault.Error
		if !errors.As(cause, &e) {
			return err
		}
		for _, f := range limitFields {
			if strings.HasPrefix(e.Field, f.prefix) {
				e.Field = f.limit
			}
		}
		cause = e.Err
	}
}

// size says bytes for people.
func size(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i, v := 0, float64(n)
	for v >= 1024 && i < len(units)-1 {
		i, v = i+1, v/1024
	}
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) + " " + units[i]
}
