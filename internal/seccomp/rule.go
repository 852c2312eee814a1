package seccomp

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// retENOSYS is what calls get that are newer than the profile.
const retENOSYS = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

const (
	maxErrno = 4095 // MAX_ERRNO: the kernel caps larger ones
	maxArgs  = 6
)

// A policy is a checked profile.
type policy struct {
	fallback uint32 // SECCOMP_RET_* of the default action
	enosys   bool   // newer calls get ENOSYS
	archs    []*arch
	rules    []rule
	flags    uint
	notify   bool
	unknown  []string
}

// A rule is one element of "syscalls".
type rule struct {
	index     int      // in "syscalls"
	ids       []uint16 // of the known names
	ret       uint32   // SECCOMP_RET_*
	alts      [][]cond // it holds if all conditions of one of these do
	redundant bool     // says the same as the default action
}

// A cond compares one argument.
type cond struct {
	arg   uint8
	op    op
	value uint64
	mask  uint64 // of opMasked
}

type op uint8

const (
	opEQ op = iota
	opNE
	opMasked
	opLT
	opLE
	opGT
	opGE
)

// always reports whether c holds for any argument.
func (c cond) always() bool { return c.op == opMasked && c.mask == 0 }

// low returns c for arguments of 32 bits.
func (c cond) low() cond {
	c.value = uint64(uint32(c.value))
	c.mask = uint64(uint32(c.mask))
	return c
}

// compareConds says which of two rules for one call is asked first.
//
// Both are sorted by argument. Their first difference counts: the higher argument; then equality before upper before
// lower bounds; then of two upper bounds the smaller value, otherwise the larger. If one begins with the other, the
// shorter, which includes it.
func compareConds(a, b []cond) int {
	for i := range min(len(a), len(b)) {
		if c := compareCond(a[i], b[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

func compareCond(a, b cond) int {
	if c := cmp.Or(cmp.Compare(b.arg, a.arg), cmp.Compare(a.op.class(), b.op.class())); c != 0 {
		return c
	}
	byValue := cmp.Compare(b.value, a.value)
	if a.op.class() == upperBound {
		byValue = -byValue
	}
	return cmp.Or(byValue, cmp.Compare(a.op, b.op), cmp.Compare(b.mask, a.mask))
}

const (
	equality = iota
	upperBound
	lowerBound
)

func (o op) class() int {
	switch o {
	case opLT, opLE:
		return upperBound
	case opGT, opGE:
		return lowerBound
	}
	return equality
}

// read checks s for a host of the given architecture.
func read(s *specs.LinuxSeccomp, host *arch) (*policy, error) {
	r := reader{policy: policy{archs: []*arch{host}}}
	r.defaultAction(s)
	r.architectures(s.Architectures)
	r.rules = make([]rule, 0, len(s.Syscalls))
	for i := range s.Syscalls {
		r.syscall(i, &s.Syscalls[i])
	}
	r.listener(s)
	r.filterFlags(s.Flags)
	slices.Sort(r.unknown)
	r.unknown = slices.Compact(r.unknown)
	return &r.policy, errors.Join(r.errs...)
}

// A reader fills a policy and collects the profile's mistakes.
type reader struct {
	policy
	errs []error
}

// mistake records a problem of linux.seccomp and the field that follows.
func (r *reader) mistake(problem, field string, args ...any) {
	r.errs = append(r.errs, fault.Spec("linux.seccomp."+fmt.Sprintf(field, args...), problem))
}

func (r *reader) defaultAction(s *specs.LinuxSeccomp) {
	ret, badAction, badErrno := action(s.DefaultAction, s.DefaultErrnoRet)
	if s.DefaultAction == specs.ActNotify {
		badAction = "SCMP_ACT_NOTIFY cannot be used as default action"
	}
	if badAction != "" {
		r.mistake(badAction, "defaultAction")
	}
	if badErrno != "" {
		r.mistake(badErrno, "defaultErrnoRet")
	}
	r.fallback = ret
	switch s.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace: // a tracer answers for newer calls itself
	default:
		r.enosys = true
	}
}

func (r *reader) architectures(list []specs.Arch) {
	host := r.archs[0]
	for i, name := range list {
		switch a := findArch(name); {
		case a == nil && inSpec(name):
			r.errs = append(r.errs, &fault.Error{Field: fmt.Sprintf("linux.seccomp.architectures[%d]", i),
				Kind: fault.Unsupported, Err: fmt.Errorf("the system call numbers of %s are not known here", name)})
		case a == nil:
			r.mistake(fmt.Sprintf("unknown architecture %q", name), "architectures[%d]", i)
		case a.bigEndian != host.bigEndian:
			r.mistake(fmt.Sprintf("%s has another byte order than this host's %s", name, host.name), "architectures[%d]", i)
		case !slices.Contains(r.archs, a):
			r.archs = append(r.archs, a)
		}
	}
}

func (r *reader) syscall(i int, s *specs.LinuxSyscall) {
	ret, badAction, badErrno := action(s.Action, s.ErrnoRet)
	if badAction != "" {
		r.mistake(badAction, "syscalls[%d].action", i)
	}
	if badErrno != "" {
		r.mistake(badErrno, "syscalls[%d].errnoRet", i)
	}
	r.notify = r.notify || s.Action == specs.ActNotify
	r.rules = append(r.rules, rule{
		index:     i,
		ids:       r.names(i, s),
		ret:       ret,
		alts:      r.args(i, s.Args),
		redundant: ret == r.fallback,
	})
}

// names returns the ids of the names that at least one architecture has.
func (r *reader) names(i int, s *specs.LinuxSyscall) []uint16 {
	if len(s.Names) == 0 {
		r.mistake("no names", "syscalls[%d].names", i)
	}
	ids := make([]uint16, 0, len(s.Names))
	next := uint16(0)
	for j, name := range s.Names {
		if name == "" {
			r.mistake("empty name", "syscalls[%d].names[%d]", i, j)
			continue
		}
		if name == "write" && s.Action == specs.ActNotify {
			// Between loading the filter and handing its listener to the agent nobody answers for a notified write.
			r.mistake("SCMP_ACT_NOTIFY cannot be used for the write syscall", "syscalls[%d].names[%d]", i, j)
		}
		id, ok := lookup(name, next)
		if !ok {
			r.unknown = append(r.unknown, name)
			continue
		}
		ids = append(ids, id)
		next = id + 1
	}
	return ids
}

// args returns the alternatives of a rule; one without conditions if there are no args.
func (r *reader) args(i int, args []specs.LinuxSeccompArg) [][]cond {
	if len(args) == 0 {
		return [][]cond{nil}
	}
	conds := make([]cond, 0, len(args))
	var seen [maxArgs]bool
	separate := false
	for j, a := range args {
		o, ok := operator(a.Op)
		if !ok {
			r.mistake(fmt.Sprintf("unknown operator %q", a.Op), "syscalls[%d].args[%d].op", i, j)
		}
		if a.Index >= maxArgs {
			r.mistake(fmt.Sprintf("%d is not between 0 and %d", a.Index, maxArgs-1), "syscalls[%d].args[%d].index", i, j)
			continue
		}
		c := cond{arg: uint8(a.Index), op: o, value: a.Value}
		if o == opMasked {
			c.mask, c.value = a.Value, a.ValueTwo&a.Value
		}
		separate = separate || seen[a.Index]
		seen[a.Index] = true
		conds = append(conds, c)
	}
	if !separate {
		slices.SortFunc(conds, func(a, b cond) int { return cmp.Compare(a.arg, b.arg) })
		return [][]cond{conds}
	}
	alts := make([][]cond, len(conds))
	for j := range conds {
		alts[j] = conds[j : j+1]
	}
	return alts
}

func (r *reader) listener(s *specs.LinuxSeccomp) {
	if r.notify && s.ListenerPath == "" {
		r.mistake("missing, and a rule has SCMP_ACT_NOTIFY", "listenerPath")
	}
	if s.ListenerMetadata != "" && s.ListenerPath == "" {
		r.mistake("set without listenerPath", "listenerMetadata")
	}
}

// action returns the SECCOMP_RET_* value of an action, or what is wrong with it and with its errno.
func action(name specs.LinuxSeccompAction, errnoRet *uint) (ret uint32, badAction, badErrno string) {
	limit := uint(0)
	switch name {
	case specs.ActKill, specs.ActKillThread:
		ret = unix.SECCOMP_RET_KILL_THREAD
	case specs.ActKillProcess:
		ret = unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActTrap:
		ret = unix.SECCOMP_RET_TRAP
	case specs.ActAllow:
		ret = unix.SECCOMP_RET_ALLOW
	case specs.ActLog:
		ret = unix.SECCOMP_RET_LOG
	case specs.ActNotify:
		ret = unix.SECCOMP_RET_USER_NOTIF
	case specs.ActErrno:
		ret, limit = unix.SECCOMP_RET_ERRNO, maxErrno
	case specs.ActTrace:
		ret, limit = unix.SECCOMP_RET_TRACE, unix.SECCOMP_RET_DATA
	case "":
		return 0, "missing", ""
	default:
		return 0, fmt.Sprintf("unknown action %q", name), ""
	}
	switch {
	case errnoRet == nil && limit > 0:
		return ret | uint32(unix.EPERM), "", ""
	case errnoRet == nil:
		return ret, "", ""
	case limit == 0:
		return ret, "", fmt.Sprintf("%s returns no errno", name)
	case *errnoRet > limit:
		return ret, "", fmt.Sprintf("%d is above %d", *errnoRet, limit)
	}
	return ret | uint32(*errnoRet), "", ""
}

// Actions returns the actions that Compile takes, sorted.
func Actions() []string {
	return []string{
		string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess),
		string(specs.ActKillThread), string(specs.ActLog), string(specs.ActNotify), string(specs.ActTrace),
		string(specs.ActTrap),
	}
}

func operator(name specs.LinuxSeccompOperator) (op, bool) {
	switch name {
	case specs.OpEqualTo:
		return opEQ, true
	case specs.OpNotEqual:
		return opNE, true
	case specs.OpMaskedEqual:
		return opMasked, true
	case specs.OpLessThan:
		return opLT, true
	case specs.OpLessEqual:
		return opLE, true
	case specs.OpGreaterThan:
		return opGT, true
	case specs.OpGreaterEqual:
		return opGE, true
	}
	return 0, false
}

// Operators returns the operators that Compile takes, sorted.
func Operators() []string {
	return []string{
		string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
		string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual),
	}
}
