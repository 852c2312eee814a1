package pause

import "encoding/binary"

// code returns the instructions, and the data behind them.
func code() []byte {
	mov := func(reg, n uint32) uint32 { return 0xd2800000 | n<<5 | reg }
	const svc = 0xd4000001
	const words = 14
	b := make([]byte, 0, 4*words)
	for _, w := range []uint32{
		mov(8, 134),                    // SYS_rt_sigaction
		mov(0, 17),                     // SIGCHLD
		0x10000001 | (words-2)*4>>2<<5, // ADR ignore, R1
		mov(2, 0),
		mov(3, 8),
		svc,
		mov(8, 73), // again: SYS_ppoll, of nothing and without end
		mov(0, 0),
		mov(1, 0),
		mov(2, 0),
		mov(3, 0),
		svc,
		0x14000000 | (-6 & 0x3ffffff), // B again
		0xd503201f,                    // NOOP: what follows is aligned
	} {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return append(b, ignore()...)
}
