#include "textflag.h"

#define SYS_write 1
#define SYS_getpid 39
#define FAULTS (1<<4 | 1<<5 | 1<<7 | 1<<8 | 1<<11 | 1<<31) // SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS

// The kernel calls it with a signal's number in DI, its siginfo in SI and the context in DX. System calls change AX, CX
// and R11 alone; what the thread had in its registers, the return restores.
TEXT ·handler(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	CMPL DI, $31
	JGT  caught
	MOVL $FAULTS, AX
	BTL  DI, AX
	JCC  caught
	CMPL 8(SI), $0               // si_code: above 0 it comes from the kernel
	JLE  caught
	MOVQ ·goHandler(SB), AX
	JMP  AX
caught:
	MOVL $SYS_getpid, AX
	SYSCALL
	CMPL AX, ·self(SB)
	JNE  done
	PUSHQ DI
	MOVLQSX ·pipe(SB), DI
	MOVQ SP, SI
	MOVL $1, DX
	MOVL $SYS_write, AX
	SYSCALL
	POPQ DI
done:
	RET

// func handlerAddress() uintptr
TEXT ·handlerAddress(SB), NOSPLIT, $0-8
	LEAQ ·handler(SB), AX
	MOVQ AX, ret+0(FP)
	RET
