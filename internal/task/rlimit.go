package task

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/typo"
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
			errs = append(errs, problem(field+".type", "%s", unknownResource(l.Type)))
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

// resources are what limits are named after, with the numbers that getrlimit(2) has for them.
var resources = [...]struct {
	name   string
	number int
}{
	{"RLIMIT_AS", unix.RLIMIT_AS},
	{"RLIMIT_CORE", unix.RLIMIT_CORE},
	{"RLIMIT_CPU", unix.RLIMIT_CPU},
	{"RLIMIT_DATA", unix.RLIMIT_DATA},
	{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE},
	{"RLIMIT_LOCKS", unix.RLIMIT_LOCKS},
	{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK},
	{"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE},
	{"RLIMIT_NICE", unix.RLIMIT_NICE},
	{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE},
	{"RLIMIT_NPROC", unix.RLIMIT_NPROC},
	{"RLIMIT_RSS", unix.RLIMIT_RSS},
	{"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO},
	{"RLIMIT_RTTIME", unix.RLIMIT_RTTIME},
	{"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING},
	{"RLIMIT_STACK", unix.RLIMIT_STACK},
}

func resource(name string) (int, bool) {
	for _, r := range resources {
		if r.name == name {
			return r.number, true
		}
	}
	return 0, false
}

// unknownResource says of a name that is none how it may be meant: in capitals, and with RLIMIT_, which others leave out.
func unknownResource(name string) string {
	const prefix = "RLIMIT_"
	var names []string
	for _, r := range resources {
		names = append(names, strings.TrimPrefix(r.name, prefix))
	}
	said := fmt.Sprintf("unknown resource %q", name)
	if meant := typo.Nearest(strings.TrimPrefix(strings.ToUpper(name), prefix), names); meant != "" {
		said += ": did you mean " + prefix + meant + "?"
	}
	return said
}
