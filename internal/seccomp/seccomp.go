// Package seccomp compiles linux.seccomp of config.json to a classic BPF program that seccomp(2) loads.
//
// The meaning of a profile is libseccomp's, as engines know it through other runtimes:
//
//   - A rule for a call without args decides it; of several, the first. It overrides rules with args wherever they stand.
//   - Of rules with args for one call, the first that matches decides, in the order of compareConds: the more specific
//     first. No match is the default action. Equal args with different actions are a mistake.
//   - Several args of a rule must all match. If two of them have the same index, each counts as a rule of its own.
//   - A rule that says the same as the default action is no rule.
//   - Names that an architecture doesn't have are skipped there; names that none has are in Program.Unknown.
//   - The native architecture is always in. Calls of any other one that isn't listed kill the thread, those of x32 too;
//     the process, if that is the default action.
//   - If the default action denies, calls with higher numbers than any that the profile names get ENOSYS, not the
//     default action: they are newer than the profile, and a C library falls back to older calls only on ENOSYS.
//   - 32-bit architectures compare the low words of arguments and values.
//   - Where socket and System V IPC calls come through socketcall(2) and ipc(2) as well, a rule covers both ways. The
//     arguments behind socketcall's pointer can't be seen: there a rule's condition on argument 0 is not checked.
//
// A compiled program finds a call by binary search over ranges of numbers with the same verdict. There are three stages,
// a file each: rule.go checks the profile, layout.go orders the numbers of each architecture, assemble.go emits code.
// All are pure; SupportedFlags alone asks the kernel.
package seccomp

import (
	"fmt"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run ./gen -o tables.go

// Program is a compiled profile.
type Program struct {
	Filter []unix.SockFilter
	// Flags are SECCOMP_FILTER_FLAG_* for seccomp(2). NEW_LISTENER is among them if Notify is set.
	Flags uint
	// Notify says that an action is SCMP_ACT_NOTIFY: loading returns a listener.
	Notify bool
	// Unknown are the names of calls that no architecture has, sorted; their rules have no effect.
	Unknown []string
}

// Compile returns the program of s, or all mistakes of s joined, each a *fault.Error.
//
// It returns nil if s is nil or has neither a default action nor rules, which means: no seccomp.
func Compile(s *specs.LinuxSeccomp) (*Program, error) {
	return compile(s, native())
}

// compile compiles for a host of the given architecture; nil is one whose numbers are not known here.
func compile(s *specs.LinuxSeccomp, host *arch) (*Program, error) {
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return nil, nil
	}
	if host == nil {
		return nil, &fault.Error{Field: "linux.seccomp", Kind: fault.Unsupported,
			Err: fmt.Errorf("this architecture's system calls: %w", unix.ENOTSUP)}
	}
	p, err := read(s, host)
	if err != nil {
		return nil, err
	}
	dispatch, verdicts, err := p.layout()
	if err != nil {
		return nil, err
	}
	filter, err := assemble(dispatch, verdicts)
	if err != nil {
		return nil, err
	}
	return &Program{Filter: filter, Flags: p.flags, Notify: p.notify, Unknown: p.unknown}, nil
}
