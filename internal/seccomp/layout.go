package seccomp

import (
	"fmt"
	"slices"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A dispatch is what the filter does for the calls of one AUDIT_ARCH.
type dispatch struct {
	audit    uint32
	segments []segment
}

// A segment is a range of numbers with one verdict. It ends where the next one begins; the first begins at 0.
type segment struct {
	first   uint32
	verdict uint16
}

// A verdict is the value of the first branch that matches, or else ret.
type verdict struct {
	ret      uint32
	branches []branch
	arch     *arch // lays out the arguments that the branches compare; nil without branches
}

type branch struct {
	conds []cond // all must hold; at least one
	ret   uint32
	rule  int // index in "syscalls"
}

// The verdicts that each program has.
const (
	fallbackVerdict = iota // the default action
	killVerdict            // an ABI that isn't listed
	enosysVerdict          // a call that is newer than the profile
)

// A planner collects the verdicts of a program.
type planner struct {
	*policy
	verdicts []verdict
}

// layout returns the dispatches, the host's first, and their verdicts.
func (p *policy) layout() ([]dispatch, []verdict, error) {
	kill := uint32(unix.SECCOMP_RET_KILL_THREAD)
	if p.fallback == unix.SECCOMP_RET_KILL_PROCESS {
		kill = p.fallback // who wants that for any call wants no less for those of another ABI
	}
	pl := planner{policy: p, verdicts: []verdict{
		fallbackVerdict: {ret: p.fallback},
		killVerdict:     {ret: kill},
		enosysVerdict:   {ret: retENOSYS},
	}}
	dispatches := make([]dispatch, 0, len(p.archs))
	for _, a := range p.archs {
		if slices.ContainsFunc(dispatches, func(d dispatch) bool { return d.audit == a.audit }) {
			continue // x86_64 and x32, both laid out already
		}
		segments, err := pl.segments(a)
		if err != nil {
			return nil, nil, err
		}
		dispatches = append(dispatches, dispatch{audit: a.audit, segments: segments})
	}
	return dispatches, pl.verdicts, nil
}

// segments returns the segments of a's AUDIT_ARCH.
func (pl *planner) segments(a *arch) ([]segment, error) {
	if a.audit == unix.AUDIT_ARCH_X86_64 {
		return pl.segmentsX86_64()
	}
	n, err := pl.numbers(a)
	if err != nil {
		return nil, err
	}
	s := make(segments, 0, usualSegments)
	s.add(0, fallbackVerdict)
	s.addNumbers(n)
	return s, nil
}

// segmentsX86_64 returns the segments of x86_64 and x32, which share one space of numbers.
//
// Numbers with the sign bit are no calls: without x32 they are as foreign as its numbers. But -1 is how a tracer skips
// a call, and seccomp(2) says not to punish it.
func (pl *planner) segmentsX86_64() ([]segment, error) {
	s := make(segments, 0, 2*usualSegments)
	var newer [2]uint16 // the verdicts on numbers that are too high, without and with x32's bit
	for i, a := range [...]*arch{findArch(specs.ArchX86_64), findArch(specs.ArchX32)} {
		if !slices.Contains(pl.archs, a) {
			s.add(a.base, killVerdict)
			newer[i] = killVerdict
			continue
		}
		n, err := pl.numbers(a)
		if err != nil {
			return nil, err
		}
		s.add(a.base, fallbackVerdict)
		s.addNumbers(n)
		newer[i] = n.newer
	}
	if newer[1] == killVerdict && newer[0] == fallbackVerdict {
		newer[0] = killVerdict
	}
	s.add(1<<31, newer[0])
	s.add(1<<31|x32Bit, newer[1])
	if newer[1] == killVerdict {
		s.add(1<<32-1, fallbackVerdict)
	}
	return s, nil
}

// segments grow in order of numbers.
type segments []segment

// usualSegments is what a profile that allows most calls needs for one ABI.
const usualSegments = 160

// add begins a segment, unless it would go on with the verdict of the last one.
func (s *segments) add(first uint32, verdict uint16) {
	last := len(*s) - 1
	switch {
	case last >= 0 && (*s)[last].verdict == verdict:
	case last >= 0 && (*s)[last].first == first:
		(*s)[last].verdict = verdict
		if last > 0 && (*s)[last-1].verdict == verdict {
			*s = (*s)[:last]
		}
	default:
		*s = append(*s, segment{first, verdict})
	}
}

// addNumbers adds the numbers of one ABI and those above it.
func (s *segments) addNumbers(n *numbers) {
	end := n.newest + 1
	for place := range end {
		s.add(n.arch.number(place), n.verdicts[place])
	}
	s.add(n.arch.number(end), n.newer)
	if n.arch.table != &numbersARM {
		return
	}
	for place := uint16(armPrivate); place < window; place++ {
		s.add(n.arch.number(place), n.verdicts[place])
	}
	s.add(n.arch.number(window), n.newer)
}

// numbers are the verdicts of one ABI by place in its table.
type numbers struct {
	arch     *arch
	verdicts [window]uint16
	newest   uint16 // the highest place that the profile names, ARM's private calls apart
	newer    uint16 // the verdict on those above
}

// numbers applies the rules to one ABI.
func (pl *planner) numbers(a *arch) (*numbers, error) {
	n := &numbers{arch: a}
	for i := range pl.rules {
		pl.apply(n, &pl.rules[i])
	}
	if err := pl.settle(n); err != nil {
		return nil, err
	}
	// A profile whose only call has the number 0 counts as one that names none.
	if pl.enosys && n.newest > 0 {
		n.newer = enosysVerdict
		if a.table == &numbersS390X {
			// The kernel leaves 0 (setup) for a large number that it doesn't know, since numbers above 255 come in
			// a register of their own.
			n.verdicts[0] = enosysVerdict
		}
	}
	return n, nil
}

// apply enters one rule for all its names.
func (pl *planner) apply(n *numbers, r *rule) {
	var plain uint16
	var alts [][]cond
	if !r.redundant {
		plain = pl.plain(r.ret)
		alts = n.arch.alternatives(r.alts)
	}
	for _, id := range r.ids {
		if place := n.arch.table[id]; place != none {
			n.see(place)
			if !r.redundant {
				pl.enter(n, place, r, alts, plain)
			}
		}
		if place, selector, ok := n.arch.multiplexer(id); ok {
			n.see(place)
			if !r.redundant {
				pl.enter(n, place, r, selected(alts, selector), plain)
			}
		}
	}
}

// see notes that the profile knows a call.
func (n *numbers) see(place uint16) {
	if place < armPrivate {
		n.newest = max(n.newest, place)
	}
}

// plain returns the verdict that has this value without branches.
func (pl *planner) plain(ret uint32) uint16 {
	for i := range pl.verdicts {
		// The fallback is no rule's verdict: it marks calls that no rule has decided yet.
		if v := &pl.verdicts[i]; i != fallbackVerdict && v.branches == nil && v.ret == ret {
			return uint16(i)
		}
	}
	pl.verdicts = append(pl.verdicts, verdict{ret: ret})
	return uint16(len(pl.verdicts) - 1)
}

// enter adds a rule's alternatives to the verdict on one call; one without conditions decides it.
func (pl *planner) enter(n *numbers, place uint16, r *rule, alts [][]cond, plain uint16) {
	slot := &n.verdicts[place]
	if *slot != fallbackVerdict && pl.verdicts[*slot].branches == nil {
		return // decided by an earlier rule
	}
	for _, conds := range alts {
		if len(conds) == 0 {
			*slot = plain
			return
		}
		if *slot == fallbackVerdict {
			*slot = uint16(len(pl.verdicts))
			pl.verdicts = append(pl.verdicts, verdict{ret: pl.fallback, arch: n.arch})
		}
		v := &pl.verdicts[*slot]
		v.branches = append(v.branches, branch{conds: conds, ret: r.ret, rule: r.index})
	}
}

// settle orders the branches of n's verdicts and lets calls with the same branches share one verdict.
func (pl *planner) settle(n *numbers) error {
	var settled []uint16
	for place, i := range n.verdicts {
		v := &pl.verdicts[i]
		if v.branches == nil {
			continue
		}
		slices.SortStableFunc(v.branches, func(a, b branch) int { return compareConds(a.conds, b.conds) })
		v.branches = slices.CompactFunc(v.branches, branch.same)
		for j := 1; j < len(v.branches); j++ {
			if a, b := &v.branches[j-1], &v.branches[j]; slices.Equal(a.conds, b.conds) {
				return conflict(n.arch, uint16(place), min(a.rule, b.rule), max(a.rule, b.rule))
			}
		}
		same := slices.IndexFunc(settled, func(j uint16) bool {
			return slices.EqualFunc(pl.verdicts[j].branches, v.branches, branch.same)
		})
		if same >= 0 {
			n.verdicts[place] = settled[same]
		} else {
			settled = append(settled, i)
		}
	}
	return nil
}

// same reports whether two branches do the same, whichever rules they come from.
func (b branch) same(o branch) bool { return b.ret == o.ret && slices.Equal(b.conds, o.conds) }

// conflict returns the mistake of two rules that have the same args and different actions for one call.
func conflict(a *arch, place uint16, first, second int) error {
	id := slices.Index(a.table[:], place)
	return fault.Spec(fmt.Sprintf("linux.seccomp.syscalls[%d]", second),
		fmt.Sprintf("%s on %s has the same args as in syscalls[%d] and another action",
			callName(uint16(id)), a.name, first))
}

// alternatives returns alts as a compares them: without conditions that always hold.
func (a *arch) alternatives(alts [][]cond) [][]cond {
	if a.wide && !slices.ContainsFunc(alts, func(conds []cond) bool { return slices.ContainsFunc(conds, cond.always) }) {
		return alts
	}
	out := make([][]cond, len(alts))
	for i, conds := range alts {
		for _, c := range conds {
			if !a.wide {
				c = c.low()
			}
			if !c.always() {
				out[i] = append(out[i], c)
			}
		}
	}
	return out
}

// selected returns alts for a multiplexer, whose argument 0 selects the call.
func selected(alts [][]cond, selector uint64) [][]cond {
	out := make([][]cond, len(alts))
	for i, conds := range alts {
		out[i] = append(out[i], cond{arg: 0, op: opEQ, value: selector})
		for _, c := range conds {
			if c.arg != 0 {
				out[i] = append(out[i], c)
			}
		}
	}
	return out
}
