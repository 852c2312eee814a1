package stub

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// layout is where the parts of an encoded batch are. Results are behind the header.
type layout struct{ numbers, times, out, entries, consts, size int }

// lay finds the layout.
func (b *Batch) lay(trace bool) {
	wide := 0
	for i := range b.entries.n {
		e := b.entries.at(i)
		for _, a := range e.args[:e.nargs] {
			if a.wide() {
				wide++
			}
		}
	}
	var l layout
	l.numbers = headerSize + resultSize*b.entries.n
	l.times = l.numbers + resultSize*wide
	l.out = l.times
	if trace {
		l.out += timeSize * b.entries.n
	}
	l.entries = l.out + align(b.outSize)
	l.consts = align(l.entries + entrySize*b.entries.n)
	l.size = l.consts + len(b.consts)
	b.layout = l
}

// wide tells whether the argument is a number that an entry has no room for. It is put behind the results then, and meant as
// they are.
func (a Arg) wide() bool { return a.kind == argNumber && int64(a.n) != int64(int32(a.n)) }

// replySize is the number of bytes a reply has, once the batch is encoded.
func (b *Batch) replySize() int { return b.layout.entries }

func align(n int) int { return n + -n&7 }

// address returns where the interpreter will have d.
func (b *Batch) address(d Data) uint64 {
	if d.out {
		return uint64(batchAddr + b.layout.out + d.off)
	}
	return uint64(batchAddr + b.layout.consts + d.off)
}

// encode makes the message for the stub: the length of the batch, then the batch.
func (b *Batch) encode(trace bool) ([]byte, error) {
	b.lay(trace)
	l := b.layout
	if l.size > batchMax {
		return nil, fmt.Errorf("batch of %d bytes: %w", l.size, unix.E2BIG)
	}
	le := binary.LittleEndian
	msg := make([]byte, lengthSize+l.size)
	le.PutUint64(msg, uint64(l.size))
	h := msg[lengthSize:]
	b.wire = h
	le.PutUint64(h[headerCount:], uint64(b.entries.n))
	le.PutUint64(h[headerReply:], uint64(b.replySize()))
	le.PutUint64(h[headerReplyFD:], Control)
	le.PutUint64(h[headerEntries:], uint64(batchAddr+l.entries))
	le.PutUint64(h[headerTimes:], uint64(batchAddr+l.times))
	var flags uint64
	if trace {
		flags |= flagTrace
	}
	if b.last {
		flags |= flagLast
		le.PutUint64(h[headerReplyFD:], uint64(b.replyFD))
		le.PutUint64(h[headerExit:], uint64(b.exit))
	}
	le.PutUint64(h[headerFlags:], flags)
	numbers := b.entries.n // the next place for one
	for i := range b.entries.n {
		numbers = b.encodeEntry(h, i, numbers)
	}
	consts := h[l.consts:]
	copy(consts, b.consts)
	for _, f := range b.fixups {
		le.PutUint64(consts[f.at.off:], b.address(f.to))
	}
	return msg, nil
}

// encodeEntry writes entry i, and its wide numbers among the results, from the one with the index numbers on. It returns the
// next such index.
func (b *Batch) encodeEntry(h []byte, i, numbers int) int {
	le := binary.LittleEndian
	p := h[b.layout.entries+entrySize*i:][:entrySize]
	e := b.entries.at(i)
	var refs uint16
	for j, a := range e.args[:e.nargs] {
		n := a.n
		switch a.kind {
		case argConst, argOut:
			n = b.address(a.data())
		case argResult:
			refs |= 1 << j
		case argNumber:
			if a.wide() {
				le.PutUint64(h[headerSize+resultSize*numbers:], n)
				n = uint64(numbers)
				numbers++
				refs |= 1 << j
			}
		}
		le.PutUint32(p[entryArgs+4*j:], uint32(n))
	}
	le.PutUint32(p[entryNr:], e.nr)
	if opens(e.nr) {
		le.PutUint64(h[headerSize+resultSize*i:], ^uint64(unix.EBADF-1)) // -EBADF, until the call is made: 0 would be a descriptor
	}
	le.PutUint16(p[entryRefs:], refs)
	le.PutUint32(p[entryOnOK:], b.target(e.onOK, i+1))
	le.PutUint32(p[entryOnErr:], b.target(e.onErr, stop))
	le.PutUint16(p[entryMatch:], e.match)
	le.PutUint32(p[entryOnMatch:], b.target(e.onMatch, stop))
	return numbers
}

func (b *Batch) target(l int32, none int) uint32 {
	if l == 0 {
		return uint32(none)
	}
	if b.labels[l-1] < 0 {
		panic("bug: label without a place")
	}
	return uint32(b.labels[l-1])
}

// decode takes the results from a reply and returns the index of the entry that failed, or -1.
// The stub may have been tampered with: the reply has the length that was asked for, and nothing in it is an index
// without being checked.
func (b *Batch) decode(reply []byte) (failed int, errno unix.Errno, err error) {
	if len(reply) != b.replySize() {
		return 0, 0, fmt.Errorf("reply of %d bytes, want %d", len(reply), b.replySize())
	}
	le := binary.LittleEndian
	traced := b.layout.times != b.layout.out
	for i := range b.entries.n {
		e := b.entries.at(i)
		e.result = int64(le.Uint64(reply[headerSize+resultSize*i:]))
		if traced {
			p := reply[b.layout.times+timeSize*i:]
			e.took = int64(le.Uint64(p))*1e9 + int64(le.Uint64(p[8:]))
		}
	}
	b.out = reply[b.layout.out:]
	n := le.Uint64(reply[headerErrno:])
	if n == 0 {
		return -1, 0, nil
	}
	at := le.Uint64(reply[headerStopped:])
	if at >= uint64(b.entries.n) || n > 4095 {
		return 0, 0, fmt.Errorf("reply out of range: entry %d, errno %d", at, n)
	}
	return int(at), unix.Errno(n), nil
}
