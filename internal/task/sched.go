package task

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// SchedAttr holds the bytes of struct sched_attr for sched_setattr(2), in its second version with the utilization
// clamps (Linux 5.3; sched_setattr of an older kernel takes it too as long as they are zero).
type SchedAttr [unix.SizeofSchedAttr]byte

// Limits of sched(7), "Scheduling policies"; nice is that of setpriority(2).
const (
	niceMin, niceMax = -20, 19
	prioMin, prioMax = 1, 99

	// deadlineMin is the shortest runtime SCHED_DEADLINE takes: 1 << DL_SCALE nanoseconds (kernel/sched/deadline.c).
	deadlineMin = 1 << 10
)

// Scheduler returns the attributes for process.scheduler.
//
// The specification has no field for the clamps' values, so SCHED_FLAG_UTIL_CLAMP_MIN and _MAX ask for 0. A nice value
// beside a policy that has none is taken, as peers do, if it is in range: engines send one with every policy.
func Scheduler(s *specs.Scheduler) (SchedAttr, error) {
	var attr SchedAttr
	policy, err := schedPolicy(s.Policy)
	if err != nil {
		return attr, err
	}
	flags, errs := schedFlags(s.Flags)
	errs = append(errs, checkNice(s.Nice), checkPriority(s, flags), checkDeadline(s, flags))
	if err := errors.Join(errs...); err != nil {
		return attr, err
	}
	order := binary.NativeEndian
	order.PutUint32(attr[0:], unix.SizeofSchedAttr)
	order.PutUint32(attr[4:], policy)
	order.PutUint64(attr[8:], flags)
	order.PutUint32(attr[16:], uint32(s.Nice))
	order.PutUint32(attr[20:], uint32(s.Priority))
	order.PutUint64(attr[24:], s.Runtime)
	order.PutUint64(attr[32:], s.Deadline)
	order.PutUint64(attr[40:], s.Period)
	return attr, nil // the clamps, at 48 and 52, stay 0
}

func schedPolicy(p specs.LinuxSchedulerPolicy) (uint32, error) {
	const field = "process.scheduler.policy"
	switch p {
	case specs.SchedOther:
		return unix.SCHED_NORMAL, nil
	case specs.SchedFIFO:
		return unix.SCHED_FIFO, nil
	case specs.SchedRR:
		return unix.SCHED_RR, nil
	case specs.SchedBatch:
		return unix.SCHED_BATCH, nil
	case specs.SchedIdle:
		return unix.SCHED_IDLE, nil
	case specs.SchedDeadline:
		return unix.SCHED_DEADLINE, nil
	case specs.SchedISO:
		return 0, unsupported(field, "SCHED_ISO is reserved: no Linux has it")
	case "":
		return 0, problem(field, "a policy is required")
	}
	return 0, problem(field, "unknown policy %q", p)
}

func schedFlags(names []specs.LinuxSchedulerFlag) (flags uint64, errs []error) {
	for i, name := range names {
		flag, ok := schedFlag(name)
		if !ok {
			errs = append(errs, problem(fmt.Sprintf("process.scheduler.flags[%d]", i), "unknown flag %q", name))
		}
		flags |= flag
	}
	return flags, errs
}

func schedFlag(name specs.LinuxSchedulerFlag) (uint64, bool) {
	switch name {
	case specs.SchedFlagResetOnFork:
		return unix.SCHED_FLAG_RESET_ON_FORK, true
	case specs.SchedFlagReclaim:
		return unix.SCHED_FLAG_RECLAIM, true
	case specs.SchedFlagDLOverrun:
		return unix.SCHED_FLAG_DL_OVERRUN, true
	case specs.SchedFlagKeepPolicy:
		return unix.SCHED_FLAG_KEEP_POLICY, true
	case specs.SchedFlagKeepParams:
		return unix.SCHED_FLAG_KEEP_PARAMS, true
	case specs.SchedFlagUtilClampMin:
		return unix.SCHED_FLAG_UTIL_CLAMP_MIN, true
	case specs.SchedFlagUtilClampMax:
		return unix.SCHED_FLAG_UTIL_CLAMP_MAX, true
	}
	return 0, false
}

// checkNice refuses what the kernel would silently bring into range.
func checkNice(nice int32) error {
	if nice < niceMin || nice > niceMax {
		return problem("process.scheduler.nice", "%d is not in %d to %d", nice, niceMin, niceMax)
	}
	return nil
}

func checkPriority(s *specs.Scheduler, flags uint64) error {
	const field = "process.scheduler.priority"
	switch s.Policy {
	case specs.SchedFIFO, specs.SchedRR:
		if flags&unix.SCHED_FLAG_KEEP_PARAMS == 0 && (s.Priority < prioMin || s.Priority > prioMax) {
			return problem(field, "%d is not in %d to %d, which %s takes", s.Priority, prioMin, prioMax, s.Policy)
		}
	default:
		if s.Priority != 0 {
			return problem(field, "%d: %s has no priority: want 0", s.Priority, s.Policy)
		}
	}
	return nil
}

// checkDeadline holds the rules of __checkparam_dl in kernel/sched/deadline.c, where a period of 0 stands for the
// deadline. The bounds of the period are sysctls and left to the kernel.
func checkDeadline(s *specs.Scheduler, flags uint64) error {
	if s.Policy != specs.SchedDeadline {
		if s.Runtime != 0 || s.Deadline != 0 || s.Period != 0 {
			return problem("process.scheduler", "runtime, deadline and period go with SCHED_DEADLINE, not %s", s.Policy)
		}
		return nil
	}
	switch {
	case flags&unix.SCHED_FLAG_KEEP_PARAMS != 0:
		return nil
	case s.Runtime < deadlineMin:
		return problem("process.scheduler.runtime", "%d ns is below %d ns", s.Runtime, deadlineMin)
	case s.Deadline < s.Runtime:
		return problem("process.scheduler.deadline", "%d ns is below the runtime of %d ns", s.Deadline, s.Runtime)
	case s.Period != 0 && s.Period < s.Deadline:
		return problem("process.scheduler.period", "%d ns is below the deadline of %d ns", s.Period, s.Deadline)
	case s.Deadline>>63 != 0 || s.Period>>63 != 0:
		return problem("process.scheduler", "deadline and period must be below 1<<63 ns")
	}
	return nil
}

// IOPriority returns the value that ioprio_set(2) takes for process.ioPriority. The classes are those of
// include/uapi/linux/ioprio.h, which x/sys doesn't have.
func IOPriority(p *specs.LinuxIOPriority) (int, error) {
	const classShift = 13 // IOPRIO_CLASS_SHIFT
	var class int
	switch p.Class {
	case specs.IOPRIO_CLASS_RT:
		class = 1
	case specs.IOPRIO_CLASS_BE:
		class = 2
	case specs.IOPRIO_CLASS_IDLE:
		class = 3
	default:
		return 0, problem("process.ioPriority.class",
			"unknown class %q: want IOPRIO_CLASS_RT, IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return 0, problem("process.ioPriority.priority", "%d is not in 0 to 7", p.Priority)
	}
	return class<<classShift | p.Priority, nil
}
