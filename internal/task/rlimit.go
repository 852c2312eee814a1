package task

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Rlimit is one limit as prlimit(2) takes it; unix.Rlimit is struct rlimit64 on every architecture.
type Rlimit struct {
	Resource int
	Limit    unix.Rlimit
}

// Rlimits returns the limits of process.rlimits in their order.
func Rlimits(limits []specs.POSIXRlimit) ([]Rlimit, error) {
	var errs []error
	out := make([]Rlimit, 0, len(limits))
	var seen uint32 // bit n: resource n was there
	for i, l := range limits {
		field := fmt.Sprintf("process.rlimits[%d]", i)
		n, ok := resource(l.Type)
		switch {
		case !ok:
			errs = append(errs, problem(field+".type", "unknown resource %q", l.Type))
			continue
		case seen&(1<<n) != 0:
			errs = append(errs, problem(field+".type", "%s appears twice", l.Type))
		case l.Soft > l.Hard:
			errs = append(errs, problem(field, "%s: soft limit %d is above hard limit %d", l.Type, l.Soft, l.Hard))
		}
		seen |= 1 << n
		out = append(out, Rlimit{n, unix.Rlimit{Cur: l.Soft, Max: l.Hard}})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// resource returns the number that getrlimit(2) gives to a name.
func resource(name string) (int, bool) {
	switch name {
	case "RLIMIT_AS":
		return unix.RLIMIT_AS, true
	case "RLIMIT_CORE":
		return unix.RLIMIT_CORE, true
	case "RLIMIT_CPU":
		return unix.RLIMIT_CPU, true
	case "RLIMIT_DATA":
		return unix.RLIMIT_DATA, true
	case "RLIMIT_FSIZE":
		return unix.RLIMIT_FSIZE, true
	case "RLIMIT_LOCKS":
		return unix.RLIMIT_LOCKS, true
	case "RLIMIT_MEMLOCK":
		return unix.RLIMIT_MEMLOCK, true
	case "RLIMIT_MSGQUEUE":
		return unix.RLIMIT_MSGQUEUE, true
	case "RLIMIT_NICE":
		return unix.RLIMIT_NICE, true
	case "RLIMIT_NOFILE":
		return unix.RLIMIT_NOFILE, true
	case "RLIMIT_NPROC":
		return unix.RLIMIT_NPROC, true
	case "RLIMIT_RSS":
		return unix.RLIMIT_RSS, true
	case "RLIMIT_RTPRIO":
		return unix.RLIMIT_RTPRIO, true
	case "RLIMIT_RTTIME":
		return unix.RLIMIT_RTTIME, true
	case "RLIMIT_SIGPENDING":
		return unix.RLIMIT_SIGPENDING, true
	case "RLIMIT_STACK":
		return unix.RLIMIT_STACK, true
	}
	return 0, false
}
