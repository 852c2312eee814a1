package stub

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The format of a batch, as the interpreter reads it: a header, what it replies with, the entries, then the constants. The
// reply is the header, the result of each entry, numbers that don't fit into an entry, with flagTrace the times, and what
// calls have written. All numbers are in the machine's byte order; hull runs on little-endian machines only.
//
// It is small since it is copied twice, into pages that neither side has touched before, and most of it is sent by hull's
// way and some of it back: a do has six hundred entries.
const (
	lengthSize = 8 // of what comes before a batch
	headerSize = 80
	resultSize = 8
	timeSize   = 16
	entrySize  = 44

	// Offsets in the header.
	headerCount   = 0  // entries
	headerReply   = 8  // bytes of the batch that the reply consists of
	headerFlags   = 16 // flagTrace, flagLast
	headerStopped = 24 // index of the entry that the stub stopped at
	headerErrno   = 32 // its errno; or 0: all is done
	headerReplyFD = 40 // where the reply is written
	headerExit    = 48 // with flagLast: exit status after the reply
	headerEntries = 56 // address of the entries
	headerTimes   = 64 // with flagTrace: address of a struct timespec for each entry, CLOCK_MONOTONIC, at the end of the call

	// Offsets in an entry.
	entryNr      = 0  // system call, or one of the ops below
	entryRefs    = 4  // bit i: argument i is the index of a result that is meant
	entryMatch   = 6  // errno for which onMatch is next
	entryOnOK    = 8  // next entry
	entryOnErr   = 12 // next entry, or stop
	entryOnMatch = 16
	entryArgs    = 20 // six arguments, of 32 bits with a sign

	flagTrace = 1 << 0
	flagLast  = 1 << 1

	stop = -1
)

// Operations beside system calls.
const (
	opNop   = 0x10000 // 0
	opTest  = 0x10001 // (a & b) == c, else errno d
	opLoad  = 0x10002 // the 32-bit number at address a
	opStore = 0x10003 // 32-bit number b to address a
)

// Control is the number of the descriptor over which a stub gets its batches.
const Control = 3

// A Result names the result of an entry, for later entries of the same batch and, after Do, for the parent.
type Result int

// A Label names a place in a batch that entries jump to.
type Label int

// A Data names bytes of a batch: constants for the stub, or room for what a call returns.
type Data struct {
	out  bool
	off  int
	size int
}

// Arg is an argument of a system call: a number, the address of data, or an earlier result. A batch has thousands, and
// new memory is a large part of what a command costs; so it is small.
type Arg struct {
	n    uint64 // number, offset of data, or index of the entry
	size uint32 // of data
	kind argKind
}

type argKind uint8

const (
	argNumber argKind = iota
	argConst
	argOut
	argResult
)

// Int returns a number as an argument. Negative numbers are sign-extended, as for AT_FDCWD.
func Int[N ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](n N) Arg {
	return Arg{n: uint64(n)}
}

// Arg returns the result as an argument.
func (r Result) Arg() Arg { return Arg{kind: argResult, n: uint64(r)} }

// Arg returns the address of the data as an argument.
func (d Data) Arg() Arg {
	a := Arg{n: uint64(d.off), size: uint32(d.size), kind: argConst}
	if d.out {
		a.kind = argOut
	}
	return a
}

// data is the opposite of Data.Arg.
func (a Arg) data() Data { return Data{a.kind == argOut, int(a.n), int(a.size)} }

// at returns the part of d from offset n on.
func (d Data) at(n int) Data { return Data{d.out, d.off + n, d.size - n} }

type entry struct {
	args  [6]Arg
	field string
	note  string // what an error says of the arguments

	result int64
	took   int64 // nanoseconds since the batch began, with tracing

	nr                   uint32
	onOK, onErr, onMatch int32 // labels; 0: next entry, stop, none
	match                uint16
	nargs                uint8
}

// chunk entries are allocated at a time.
const chunk = 32

// entries is a list that grows without being copied.
type entries struct {
	chunks []*[chunk]entry
	n      int
}

func (l *entries) at(i int) *entry {
	if i >= l.n {
		panic("bug: no such entry")
	}
	return &l.chunks[i/chunk][i%chunk]
}

// add returns a new entry at the end, which is zero.
func (l *entries) add() *entry {
	if l.n == chunk*len(l.chunks) {
		l.chunks = append(l.chunks, new([chunk]entry))
	}
	l.n++
	return l.at(l.n - 1)
}

// A pointer within the constants.
type fixup struct {
	at Data
	to Data
}

// Batch is a list of system calls that a stub executes in order until one fails. The zero value is empty and ready.
type Batch struct {
	entries entries
	outSize int
	consts  []byte
	fixups  []fixup
	labels  []int // entry index of each label
	field   string

	wire   []byte // as it was sent; then the reply, in the same place
	out    []byte // part of wire, once there is a reply
	layout layout // of wire

	received int // descriptors, by RecvFDs

	replyFD int // with last
	exit    int
	last    bool

	supervision *supervision // of a batch with Supervise
}

// In says which field of config.json the calls that follow come from. Errors and traces name it.
func (b *Batch) In(field string) { b.field = field }

// Len returns the number of entries.
func (b *Batch) Len() int { return b.entries.n }

// Opened returns the calls from entry first on that return a new descriptor. Those that are jumped over return EBADF.
func (b *Batch) Opened(first int) []Result {
	var opened []Result
	for i := first; i < b.entries.n; i++ {
		if opens(b.entries.at(i).nr) {
			opened = append(opened, Result(i))
		}
	}
	return opened
}

// MaxOpened returns how many descriptors the batch leaves open at most.
func (b *Batch) MaxOpened() int {
	n := b.received
	for i := range b.entries.n {
		if opens(b.entries.at(i).nr) {
			n++
		}
	}
	return n
}

func opens(nr uint32) bool {
	switch nr {
	case unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_OPEN_TREE, unix.SYS_SOCKET:
		return true
	}
	return false
}

// Const puts bytes into the batch.
func (b *Batch) Const(p []byte) Data {
	b.consts = append(b.consts, make([]byte, -len(b.consts)&7)...)
	d := Data{off: len(b.consts), size: len(p)}
	b.consts = append(b.consts, p...)
	return d
}

// String puts a NUL-terminated string into the batch. A NUL within it panics: those are refused when the
// configuration is checked.
func (b *Batch) String(s string) Data {
	for i := range len(s) {
		if s[i] == 0 {
			panic("bug: NUL in a string for the kernel")
		}
	}
	d := Data{off: len(b.consts), size: len(s) + 1}
	b.consts = append(append(b.consts, s...), 0)
	return d
}

// Strings puts an array of pointers to strings into the batch, with a nil at its end, as execve(2) takes.
func (b *Batch) Strings(ss []string) Data {
	to := make([]Data, len(ss))
	for i, s := range ss {
		to[i] = b.String(s)
	}
	d := b.Const(make([]byte, 8*(len(ss)+1)))
	for i := range to {
		b.point(d.at(8*i), to[i])
	}
	return d
}

// Out makes room for n bytes that a call writes. After Do, Bytes returns them.
func (b *Batch) Out(n int) Data {
	d := Data{out: true, off: align(b.outSize), size: n}
	b.outSize = d.off + n
	return d
}

// point makes the eight bytes at a constant a pointer.
func (b *Batch) point(at, to Data) { b.fixups = append(b.fixups, fixup{at, to}) }

// Call appends a system call.
func (b *Batch) Call(nr uintptr, args ...Arg) Result {
	e := b.entries.add()
	e.nr, e.nargs, e.field = uint32(nr), uint8(len(args)), b.field
	copy(e.args[:], args)
	return Result(b.entries.n - 1)
}

// Note says what an error message names as the last call's object.
func (b *Batch) Note(s string) { b.entries.at(b.entries.n - 1).note = s }

// Label makes a label that Mark gives its place.
func (b *Batch) Label() Label {
	b.labels = append(b.labels, -1)
	return Label(len(b.labels))
}

// Mark puts the label before the next entry.
func (b *Batch) Mark(l Label) { b.labels[l-1] = b.entries.n }

// Ignore lets the batch go on if the call of r fails with errno, or with any if errno is 0.
func (b *Batch) Ignore(r Result, errno unix.Errno) {
	next := b.Label()
	b.labels[next-1] = int(r) + 1
	b.OnErr(r, errno, next)
}

// OnErr jumps to l if the call of r fails with errno, or with any other if errno is 0. A call can have one of each.
func (b *Batch) OnErr(r Result, errno unix.Errno, l Label) {
	e := b.entries.at(int(r))
	if errno == 0 {
		e.onErr = int32(l)
	} else {
		e.match, e.onMatch = uint16(errno), int32(l)
	}
}

// OnOK jumps to l if the call of r succeeds.
func (b *Batch) OnOK(r Result, l Label) { b.entries.at(int(r)).onOK = int32(l) }

// Retry repeats the call of r for as long as it fails with errno.
func (b *Batch) Retry(r Result, errno unix.Errno) {
	again := b.Label()
	b.labels[again-1] = int(r)
	b.OnErr(r, errno, again)
}

// Assert fails with errno unless a&mask is want. what says which condition it is.
func (b *Batch) Assert(a Arg, mask, want uint64, errno unix.Errno, what string) Result {
	r := b.Call(opTest, a, Int(mask), Int(want), Int(errno))
	b.Note(what)
	return r
}

// Load returns the 32-bit number at offset n of d as a result.
func (b *Batch) Load(d Data, n int) Result { return b.Call(opLoad, d.at(n).Arg()) }

// Store writes the low 32 bits of a to offset n of d.
func (b *Batch) Store(d Data, n int, a Arg) { b.Call(opStore, d.at(n).Arg(), a) }

// Goto jumps to l.
func (b *Batch) Goto(l Label) { b.OnOK(b.Call(opNop), l) }

// Value returns what the call of r returned. Valid after a successful Do.
func (b *Batch) Value(r Result) int64 { return b.entries.at(int(r)).result }

// Errno returns the errno of the call of r, or 0. Valid after Do.
func (b *Batch) Errno(r Result) unix.Errno {
	if v := b.Value(r); v < 0 && v > -4096 {
		return unix.Errno(-v)
	}
	return 0
}

// Bytes returns what calls wrote to d. Valid after Do.
func (b *Batch) Bytes(d Data) []byte {
	if !d.out {
		panic("bug: constants are not read back")
	}
	return b.out[d.off : d.off+d.size : d.off+d.size]
}

// Uint32 returns the number at offset n of d. Valid after Do.
func (b *Batch) Uint32(d Data, n int) uint32 { return binary.LittleEndian.Uint32(b.Bytes(d)[n:]) }
