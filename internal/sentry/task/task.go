// Package task says in the terms of a sandbox's kernel what the configuration says of a process: whose it is, its limits, its filter
// of system calls, its program. Package boot makes processes of that; internal/task is what both isolations have in common.
package task

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"

	"hull/internal/caps"
	"hull/internal/fault"
	"hull/internal/seccomp"
	"hull/internal/sentry/errno"
)

// ExplainLoad returns why the kernel can't load a program that is there, which it says in words.
func ExplainLoad(name string, err error) error {
	e := &fault.Error{Field: "process.args[0]", Step: fmt.Sprintf("exec: %q", name), Err: errno.Of(err)}
	for no, hint := range map[unix.Errno]string{
		unix.ENOENT:  "the program is there, so its interpreter (the first line of a script, or the dynamic loader) is missing",
		unix.ENOEXEC: "no program of this machine's architecture, or a script without #! in its first line",
		unix.EACCES:  "",
	} {
		if strings.HasSuffix(err.Error(), ": "+no.Error()) {
			e.Err, e.Hint = no, hint
		}
	}
	return e
}

// Credentials returns a process's user, groups and capabilities.
func Credentials(p *specs.Process, users *auth.UserNamespace) *auth.Credentials {
	groups := make([]auth.KGID, 0, len(p.User.AdditionalGids))
	for _, g := range p.User.AdditionalGids {
		groups = append(groups, auth.KGID(g))
	}
	sets, _ := caps.FromSpec(p.Capabilities) // hull has warned of those that are unknown
	// As the kernel has it, and as in native isolation (capset(2), PR_CAP_AMBIENT_RAISE).
	sets.Effective &= sets.Permitted
	sets.Ambient &= sets.Permitted & sets.Inheritable
	return auth.NewUserCredentials(auth.KUID(p.User.UID), auth.KGID(p.User.GID), groups, &auth.TaskCapabilities{
		PermittedCaps:   auth.CapabilitySet(sets.Permitted),
		EffectiveCaps:   auth.CapabilitySet(sets.Effective),
		InheritableCaps: auth.CapabilitySet(sets.Inheritable),
		BoundingCaps:    auth.CapabilitySet(sets.Bounding),
		AmbientCaps:     auth.CapabilitySet(sets.Ambient),
	}, users)
}

// Limits returns the limits of a process: Linux's own, for which none is given.
func Limits(list []specs.POSIXRlimit) (*limits.LimitSet, error) {
	set, err := limits.NewLinuxLimitSet()
	if err != nil {
		return nil, err
	}
	for i, l := range list {
		t, ok := limits.FromLinuxResourceName[l.Type]
		if !ok {
			return nil, &fault.Error{Field: fmt.Sprintf("process.rlimits[%d]", i), Kind: fault.Unsupported,
				Err: fmt.Errorf("not possible in sandbox isolation: its kernel has no %s", l.Type)}
		}
		set.SetUnchecked(t, limits.Limit{Cur: limits.FromLinux(l.Soft), Max: limits.FromLinux(l.Hard)})
	}
	return set, nil
}

// Filter returns the filter of system calls, in the form in which the sandbox's kernel interprets it.
func Filter(s *specs.LinuxSeccomp) (*bpf.Program, error) {
	p, err := seccomp.Compile(s)
	if err != nil || p == nil {
		return nil, err
	}
	code := make([]bpf.Instruction, len(p.Filter))
	for i, in := range p.Filter {
		if in.Code == unix.BPF_RET|unix.BPF_K && in.K == uint32(linux.SECCOMP_RET_KILL_PROCESS) {
			// What is left of it is for calls of other architectures, which can't be made here.
			in.K = uint32(linux.SECCOMP_RET_KILL_THREAD)
		}
		code[i] = bpf.Instruction{OpCode: in.Code, JumpIfTrue: in.Jt, JumpIfFalse: in.Jf, K: in.K}
	}
	program, err := bpf.Compile(code, true)
	if err != nil {
		return nil, &fault.Error{Field: "linux.seccomp", Err: err}
	}
	return &program, nil
}
