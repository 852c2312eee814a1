// Package elf makes the small programs that hull has no file of, out of their instructions: static executables for this machine
// that the kernel maps at a fixed address.
package elf

import "encoding/binary"

const (
	base    = 0x00400000
	headers = 64 + 3*56

	// FlagsAt is where a program that runs has its Flags, 4 bytes.
	FlagsAt = base + 48
	// TextAt is where it has its Text. It starts with the first instruction there.
	TextAt = base + headers
)

// Program is what an executable is made of.
type Program struct {
	Text  []byte // its instructions, and constants
	Zeros Zeros  // memory for what it writes, beside its stack
	Flags uint32 // the header's e_flags, which mean nothing to Linux on these machines
}

// Zeros is a range of memory in which nothing but zeros is at first; or none.
type Zeros struct{ Addr, Size uint64 }

// File returns what is in the file: an ELF header, three program headers and the text. See elf(5).
func (p *Program) File() []byte {
	const (
		executable = 2 // ET_EXEC
		load       = 1 // PT_LOAD
		stack      = 0x6474e551
		rx, rw     = 5, 6
		align      = 0x10000 // the largest page that arm64 has
	)
	size := uint64(headers + len(p.Text))
	b := make([]byte, 0, size)
	le := binary.LittleEndian
	b = append(b, "\x7fELF\x02\x01\x01"...)
	b = append(b, make([]byte, 9)...)
	b = le.AppendUint16(b, executable)
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, TextAt) // entry point
	b = le.AppendUint64(b, 64)     // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, p.Flags)
	for _, n := range []uint16{64, 56, 3, 64, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	segment := func(kind, flags uint32, addr, filesz, memsz, align uint64) {
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, flags)
		for _, n := range []uint64{0, addr, addr, filesz, memsz, align} {
			b = le.AppendUint64(b, n)
		}
	}
	segment(load, rx, base, size, size, align)
	if p.Zeros.Size > 0 {
		segment(load, rw, p.Zeros.Addr, 0, p.Zeros.Size, align)
	} else {
		segment(0, 0, 0, 0, 0, 0) // PT_NULL, which is ignored: the text is at the same place in each
	}
	segment(stack, rw, 0, 0, 0, 16)
	return append(b, p.Text...)
}
