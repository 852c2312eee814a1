#include "textflag.h"

#define SYS_write 64
#define SYS_getpid 172
#define FAULTS (1<<4 | 1<<5 | 1<<7 | 1<<8 | 1<<11 | 1<<31) // SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS

// As in handler_amd64.s; the number is in R0, siginfo in R1, the context in R2. System calls change R0 alone.
TEXT ·handler(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVW R0, R4
	CMPW $31, R4
	BGT  caught
	MOVD $FAULTS, R3
	LSR  R4, R3, R3
	TBZ  $0, R3, caught
	MOVW 8(R1), R3               // si_code
	CMPW $0, R3
	BLE  caught
	MOVD ·goHandler(SB), R3
	JMP  (R3)
caught:
	MOVD $SYS_getpid, R8
	SVC
	MOVW ·self(SB), R3
	CMPW R3, R0
	BNE  done
	SUB  $16, RSP
	MOVD R4, (RSP)
	MOVW ·pipe(SB), R0
	MOVD RSP, R1
	MOVD $1, R2
	MOVD $SYS_write, R8
	SVC
	ADD  $16, RSP
done:
	RET

// func handlerAddress() uintptr
TEXT ·handlerAddress(SB), NOSPLIT, $0-8
	MOVD $·handler(SB), R0
	MOVD R0, ret+0(FP)
	RET
