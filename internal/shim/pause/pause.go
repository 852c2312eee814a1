// Package pause has the first process of a pod that has no container for it: a program of a few instructions that waits
// without end.
package pause

import "encoding/binary"

// File is the program's name in the pod's root file system.
const File = "pause"

// Calls are the system calls of the process from the moment that its filter is there.
var Calls = []string{"execve", "rt_sigaction", "pause", "ppoll", "restart_syscall", "exit", "exit_group"}

// User is who the process is: nobody else's process, and not root's, so that a container that sees it can't trace it.
const User = 65535

// Program returns a static program for this machine that waits without end. It ignores SIGCHLD, so that the kernel takes
// away the orphans of a pid namespace that it is process 1 of; as such it gets no other signal than SIGKILL.
//
// The image of a pause container is 300 KB that a node has to have fetched; all that is needed of it are these instructions.
func Program() []byte {
	const (
		addr    = 0x400000
		headers = 64 + 2*56
		rx, rw  = 5, 6
		load    = 1
		stack   = 0x6474e551
	)
	text := code(addr + headers)
	size := uint64(headers + len(text))
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 2) // ET_EXEC
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, addr+headers) // entry point
	b = le.AppendUint64(b, 64)           // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, n := range []uint16{64, 56, 2, 64, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	for _, s := range []struct {
		kind, flags uint32
		fields      [6]uint64 // offset, address twice, sizes in the file and in memory, alignment
	}{
		{load, rx, [6]uint64{0, addr, addr, size, size, 0x10000}},
		{stack, rw, [6]uint64{5: 16}},
	} {
		b = le.AppendUint32(b, s.kind)
		b = le.AppendUint32(b, s.flags)
		for _, n := range s.fields {
			b = le.AppendUint64(b, n)
		}
	}
	return append(b, text...)
}

// ignore is the kernel's struct sigaction (rt_sigaction(2)) with SIG_IGN as its handler.
func ignore() []byte { return append([]byte{1}, make([]byte, 31)...) }
