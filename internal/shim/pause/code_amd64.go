package pause

import (
	"encoding/binary"

	"hull/internal/elf"
)

// code returns the instructions, and the data behind them.
func code() []byte {
	const text = 36                                                        // bytes of instructions
	b := []byte{0xb8, 13, 0, 0, 0}                                         // MOVL $SYS_rt_sigaction, AX
	b = append(b, 0xbf, 17, 0, 0, 0)                                       // MOVL $SIGCHLD, DI
	b = binary.LittleEndian.AppendUint32(append(b, 0xbe), elf.TextAt+text) // MOVL $ignore, SI
	b = append(b, 0x31, 0xd2)                                              // XORL DX, DX
	b = append(b, 0x41, 0xba, 8, 0, 0, 0)                                  // MOVL $8, R10
	b = append(b, 0x0f, 0x05)                                              // SYSCALL
	b = append(b, 0xb8, 34, 0, 0, 0)                                       // again: MOVL $SYS_pause, AX
	b = append(b, 0x0f, 0x05)                                              // SYSCALL
	b = append(b, 0xeb, 0xf7)                                              // JMP again
	b = append(b, make([]byte, text-len(b))...)
	return append(b, ignore()...)
}
