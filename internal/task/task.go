// Package task turns the fields of config.json that describe the process itself into the arguments of the system calls
// that apply them: resource limits, scheduling, affinity, memory policy, personality, ids, sysctls and signals.
//
// Everything here is pure. Nothing is rounded, cut or ignored: a value that the kernel would refuse, or would take for
// another one, is a *fault.Error of kind fault.BadSpec that names its field, and several mistakes are joined. A function
// that takes a pointer to a part of the spec wants that part to be there.
package task

import (
	"fmt"
	"strconv"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// problem returns a mistake in field.
func problem(field, format string, args ...any) error {
	return fault.Spec(field, fmt.Sprintf(format, args...))
}

// unsupported returns a refusal of a field that is well-formed but that no kernel can apply.
func unsupported(field, reason string) error {
	e := fault.Spec(field, reason)
	e.Kind = fault.Unsupported
	return e
}

// Personality returns the argument of personality(2) for linux.personality. The values are those of
// include/uapi/linux/personality.h, which x/sys doesn't have.
func Personality(p *specs.LinuxPersonality) (uintptr, error) {
	const (
		perLinux   = 0x0000 // PER_LINUX
		perLinux32 = 0x0008 // PER_LINUX32
	)
	if len(p.Flags) > 0 {
		return 0, problem("linux.personality.flags[0]", "%q: the specification defines no flags", p.Flags[0])
	}
	switch p.Domain {
	case specs.PerLinux:
		return perLinux, nil
	case specs.PerLinux32:
		return perLinux32, nil
	}
	return 0, problem("linux.personality.domain", "unknown domain %q: want LINUX or LINUX32", p.Domain)
}

// OOMScoreAdj returns what is written to /proc/PID/oom_score_adj for process.oomScoreAdj (proc_pid_oom_score_adj(5)).
func OOMScoreAdj(adj int) (string, error) {
	if adj < -1000 || adj > 1000 {
		return "", problem("process.oomScoreAdj", "%d is not in -1000 to 1000", adj)
	}
	return strconv.Itoa(adj), nil
}
