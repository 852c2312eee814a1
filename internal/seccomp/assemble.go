package seccomp

import (
	"fmt"
	"slices"

	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

// maxInstructions is BPF_MAXINSNS: linux/bpf_common.h.
const maxInstructions = 4096

// Offsets in struct seccomp_data: linux/seccomp.h.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// The instructions that a filter uses.
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opJEQ  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJGT  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJGE  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opRet  = unix.BPF_RET | unix.BPF_K
)

// assemble returns the filter. Conditional jumps go forward by at most 255 instructions, so it is written from its end
// to its beginning: all targets of an instruction are known when it is added, and one that is too far gets a long jump
// or another return between.
func assemble(dispatches []dispatch, verdicts []verdict) ([]unix.SockFilter, error) {
	as := assembler{
		code:     make([]unix.SockFilter, 0, 512),
		verdicts: verdicts,
		labels:   make([]label, len(verdicts)),
	}
	starts := make([]label, len(dispatches))
	for i, d := range slices.Backward(dispatches) {
		starts[i] = as.numbers(d.segments)
	}
	next := as.ret(verdicts[killVerdict].ret)
	for i, d := range slices.Backward(dispatches) {
		next = as.branch(opJEQ, d.audit, starts[i], next)
	}
	as.load(offArch, next)
	if n := len(as.code); n > maxInstructions {
		return nil, &fault.Error{Field: "linux.seccomp.syscalls", Kind: fault.BadSpec,
			Err: fmt.Errorf("the filter has %d instructions; the kernel takes %d", n, maxInstructions)}
	}
	slices.Reverse(as.code)
	return as.code, nil
}

// An assembler holds a program in reverse order.
type assembler struct {
	code     []unix.SockFilter
	verdicts []verdict
	labels   []label // where verdicts with branches begin; zero if they aren't there yet
	returns  []returns
}

// returns is the place of the last return of a value.
type returns struct {
	value uint32
	at    int
}

// A label is a place to jump to. A return has no place until something jumps to it.
type label struct {
	at    int // index in assembler.code
	value uint32
	kind  labelKind
}

type labelKind uint8

const (
	unplaced labelKind = iota
	placed
	returning
)

func (as *assembler) ret(value uint32) label { return label{value: value, kind: returning} }

// emit adds an instruction in front of the others.
func (as *assembler) emit(code uint16, k uint32, jt, jf uint8) label {
	as.code = append(as.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return label{at: len(as.code) - 1, kind: placed}
}

// skip returns how many instructions lie between the next one to be added and at.
func (as *assembler) skip(at int) int { return len(as.code) - 1 - at }

// near returns a place that leads to l and is at most limit instructions away from the next one to be added.
func (as *assembler) near(l label, limit int) int {
	if l.kind == returning {
		return as.nearReturn(l.value, limit)
	}
	if as.skip(l.at) <= limit {
		return l.at
	}
	return as.emit(opJump, uint32(as.skip(l.at)), 0, 0).at
}

func (as *assembler) nearReturn(value uint32, limit int) int {
	i := slices.IndexFunc(as.returns, func(r returns) bool { return r.value == value })
	if i >= 0 && as.skip(as.returns[i].at) <= limit {
		return as.returns[i].at
	}
	at := as.emit(opRet, value, 0, 0).at
	if i >= 0 {
		as.returns[i].at = at
	} else {
		as.returns = append(as.returns, returns{value, at})
	}
	return at
}

// branch adds a conditional jump to yes or no.
func (as *assembler) branch(code uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	// The second of the two may put one more instruction between.
	yesAt := as.near(yes, 254)
	noAt := as.near(no, 255)
	return as.emit(code, k, uint8(as.skip(yesAt)), uint8(as.skip(noAt)))
}

// load adds a load of a word that goes on at next.
func (as *assembler) load(offset uint32, next label) label {
	if at := as.near(next, 0); as.skip(at) != 0 {
		panic("bug: load doesn't fall through")
	}
	return as.emit(opLoad, offset, 0, 0)
}

// numbers adds the search for a system call's number.
func (as *assembler) numbers(s []segment) label {
	tree := as.search(outliers(s))
	if tree.kind == returning {
		return tree // the same for all numbers
	}
	return as.load(offNumber, tree)
}

// A span is one or two segments of the same verdict with, if it has an outlier, a single number between them.
type span struct {
	first      uint32
	verdict    uint16
	hasOutlier bool
	outlier    uint32
	outlierIs  uint16 // its verdict
}

// outliers joins segments into spans. A comparison for equality then does for two of order.
func outliers(s []segment) []span {
	spans := make([]span, 0, len(s))
	single := func(i int) bool { // whether segment i is a single number amid one verdict
		return i > 0 && i+1 < len(s) && s[i-1].verdict == s[i+1].verdict && s[i+1].first-s[i].first == 1
	}
	for i := 0; i < len(s); i++ {
		sp := span{first: s[i].first, verdict: s[i].verdict}
		if single(i + 1) {
			sp.hasOutlier, sp.outlier, sp.outlierIs = true, s[i+1].first, s[i+1].verdict
			i++ // the next span begins with the segment behind, in the middle of which it may as well
			if !single(i + 2) {
				i++
			}
		}
		spans = append(spans, sp)
	}
	return spans
}

// search adds a binary search over spans; the number is loaded.
func (as *assembler) search(s []span) label {
	if len(s) == 1 {
		l := as.verdict(s[0].verdict)
		if s[0].hasOutlier {
			l = as.branch(opJEQ, s[0].outlier, as.verdict(s[0].outlierIs), l)
		}
		return l
	}
	mid := len(s) / 2
	above := as.search(s[mid:])
	below := as.search(s[:mid])
	return as.branch(opJGE, s[mid].first, above, below)
}

// verdict returns where a verdict begins.
func (as *assembler) verdict(i uint16) label {
	v := &as.verdicts[i]
	if v.branches == nil {
		return as.ret(v.ret)
	}
	if as.labels[i].kind == unplaced {
		next := as.ret(v.ret)
		for end := len(v.branches); end > 0; {
			start := end - 1
			for start > 0 && v.branches[start-1].joins(v.branches[end-1]) {
				start--
			}
			if end-start > 1 {
				next = as.values(v.arch, v.branches[start:end], next)
			} else {
				next = as.branchOf(v.arch, v.branches[start], next)
			}
			end = start
		}
		as.labels[i] = next
	}
	return as.labels[i]
}

// branchOf adds one branch of a verdict, which goes on at next if it doesn't match.
func (as *assembler) branchOf(a *arch, b branch, next label) label {
	yes := as.ret(b.ret)
	for _, c := range slices.Backward(b.conds) {
		yes = as.cond(a, c, yes, next)
	}
	return yes
}

// joins reports whether b and o look for values of one argument that differ in the low word alone.
func (b branch) joins(o branch) bool {
	if len(b.conds) != 1 || len(o.conds) != 1 {
		return false
	}
	c, d := b.conds[0], o.conds[0]
	return c.op == opEQ && d.op == opEQ && c.arg == d.arg && c.value>>32 == d.value>>32
}

// values adds branches that join, with one load of each word.
func (as *assembler) values(a *arch, branches []branch, next label) label {
	l := next
	for _, b := range slices.Backward(branches) {
		l = as.branch(opJEQ, uint32(b.conds[0].value), as.ret(b.ret), l)
	}
	c := branches[0].conds[0]
	l = as.load(a.low(c.arg), l)
	if a.wide {
		l = as.equalWord(a.high(c.arg), 1<<32-1, uint32(c.value>>32), l, next)
	}
	return l
}

// cond adds the comparison of an argument.
func (as *assembler) cond(a *arch, c cond, yes, no label) label {
	switch c.op {
	case opNE:
		return as.equal(a, c, no, yes)
	case opLT:
		return as.above(a, c, opJGE, no, yes)
	case opLE:
		return as.above(a, c, opJGT, no, yes)
	case opGT:
		return as.above(a, c, opJGT, yes, no)
	case opGE:
		return as.above(a, c, opJGE, yes, no)
	}
	return as.equal(a, c, yes, no)
}

// above compares for "greater" or "greater or equal", which is code.
func (as *assembler) above(a *arch, c cond, code uint16, yes, no label) label {
	low := as.load(a.low(c.arg), as.branch(code, uint32(c.value), yes, no))
	if !a.wide {
		return low
	}
	high := uint32(c.value >> 32)
	return as.load(a.high(c.arg), as.branch(opJGT, high, yes, as.branch(opJEQ, high, low, no)))
}

// equal compares for equality of all bits, or of those in a mask.
func (as *assembler) equal(a *arch, c cond, yes, no label) label {
	mask := ^uint64(0)
	if c.op == opMasked {
		mask = c.mask
	}
	l := as.equalWord(a.low(c.arg), uint32(mask), uint32(c.value), yes, no)
	if a.wide {
		l = as.equalWord(a.high(c.arg), uint32(mask>>32), uint32(c.value>>32), l, no)
	}
	return l
}

func (as *assembler) equalWord(offset, mask, value uint32, yes, no label) label {
	if mask == 0 {
		return yes
	}
	l := as.branch(opJEQ, value, yes, no)
	if mask != 1<<32-1 {
		if as.skip(as.near(l, 0)) != 0 {
			panic("bug: mask doesn't fall through")
		}
		l = as.emit(opAnd, mask, 0, 0)
	}
	return as.load(offset, l)
}

// low and high return the offsets of the words of an argument.
func (a *arch) low(arg uint8) uint32 {
	if a.bigEndian {
		return offArgs + 8*uint32(arg) + 4
	}
	return offArgs + 8*uint32(arg)
}

func (a *arch) high(arg uint8) uint32 { return a.low(arg) ^ 4 }
