#include "textflag.h"

// The interpreter that a stub runs, described in image.go. It is never called: image copies it into a memfd,
// so it must not refer to any symbol, and it runs where no Go runtime is.
//
//	R12  base of the batch        R13  current entry
//	R14  errno for the reply             R15  index of the current entry
//
// Offsets in the header and in an entry are those in batch.go.

#define BASE 0x10000000
#define FDS 0x00400030
#define Control 3
#define SYS_read 0
#define SYS_write 1
#define SYS_rt_sigprocmask 14
#define SYS_rt_sigreturn 15
#define SYS_recvfrom 45
#define SYS_prctl 157
#define SYS_clock_gettime 228
#define SYS_exit_group 231
#define SYS_close_range 436

TEXT ·interpreter(SB), NOSPLIT|NOFRAME, $0
	MOVQ $BASE, R12

	// Block every signal: none may end the stub half-way or reach the container's process.
	MOVQ $-1, AX
	MOVQ AX, (R12)
	MOVQ $2, DI                  // SIG_SETMASK
	MOVQ R12, SI
	XORL DX, DX
	MOVQ $8, R10
	MOVQ $SYS_rt_sigprocmask, AX
	SYSCALL

	// Not dumpable before anything else can happen.
	MOVQ $4, DI                  // PR_SET_DUMPABLE
	XORL SI, SI
	MOVQ $SYS_prctl, AX
	SYSCALL

	// Close what the parent was given without close-on-exec. The number of descriptors to keep is in the ELF header.
	MOVQ $FDS, BX
	MOVL (BX), DI
	MOVQ $-1, SI
	XORL DX, DX
	MOVQ $SYS_close_range, AX
	SYSCALL

receive:
	// The length of the batch, then the batch. Only read(2) is used: it is what every seccomp profile allows.
	MOVQ $8, R14
	MOVQ $BASE, R15
	XORL BX, BX                  // the length is read first
more:
	MOVQ $Control, DI
	MOVQ R15, SI
	MOVQ R14, DX
	MOVQ $SYS_read, AX
	SYSCALL
	CMPQ AX, $1
	JLT  gone                    // end of file: the parent is gone
	ADDQ AX, R15
	SUBQ AX, R14
	JNE  more
	CMPQ BX, $0
	JNE  run
	MOVQ (R12), R14
	MOVQ $BASE, R15
	INCQ BX
	JMP  more

run:
	XORL R15, R15                // index of the current entry
	XORL R14, R14                // errno

next:
	CMPQ R15, 0(R12)             // header.count
	JGE  finish
	IMUL3Q $44, R15, R13
	ADDQ 56(R12), R13            // header.entries

	// Arguments: those whose bit is set in refs are indexes of results that are meant. Results are behind the header.
	MOVWLZX 4(R13), BX
	MOVLQSX 20(R13), DI
	BTL  $0, BX
	JCC  a1
	MOVQ 80(R12)(DI*8), DI
a1:
	MOVLQSX 24(R13), SI
	BTL  $1, BX
	JCC  a2
	MOVQ 80(R12)(SI*8), SI
a2:
	MOVLQSX 28(R13), DX
	BTL  $2, BX
	JCC  a3
	MOVQ 80(R12)(DX*8), DX
a3:
	MOVLQSX 32(R13), R10
	BTL  $3, BX
	JCC  a4
	MOVQ 80(R12)(R10*8), R10
a4:
	MOVLQSX 36(R13), R8
	BTL  $4, BX
	JCC  a5
	MOVQ 80(R12)(R8*8), R8
a5:
	MOVLQSX 40(R13), R9
	BTL  $5, BX
	JCC  a6
	MOVQ 80(R12)(R9*8), R9
a6:
	MOVL 0(R13), AX
	CMPL AX, $0x10000
	JGE  pseudo
	SYSCALL

done:
	MOVQ AX, 80(R12)(R15*8)
	MOVQ 16(R12), BX             // header.flags
	BTQ  $0, BX                  // flagTrace
	JCC  branch
	MOVQ $1, DI                  // CLOCK_MONOTONIC
	MOVQ R15, SI
	SHLQ $4, SI
	ADDQ 64(R12), SI             // header.times
	MOVQ $SYS_clock_gettime, AX
	SYSCALL
	MOVQ 80(R12)(R15*8), AX

branch:
	CMPQ AX, $-4095
	JCC  failed                  // unsigned >=
	MOVLQSX 8(R13), R15          // onOK
	JMP  next
failed:
	NEGQ AX
	MOVWLZX 6(R13), BX           // match
	CMPL AX, BX
	JNE  other
	MOVLQSX 16(R13), R15         // onMatch
	JMP  next
other:
	MOVLQSX 12(R13), BX          // onErr
	CMPQ BX, $0
	JLT  stop
	MOVQ BX, R15
	JMP  next
stop:
	MOVQ AX, R14

finish:
	MOVQ R15, 24(R12)            // header.stopped
	MOVQ R14, 32(R12)            // header.errno
	MOVQ 40(R12), DI             // header.replyFD
	MOVQ R12, SI
	MOVQ 8(R12), DX              // header.reply, bytes
	MOVQ $SYS_write, AX
	SYSCALL
	MOVQ 16(R12), BX
	BTQ  $1, BX                  // flagLast
	JCC  receive
	MOVQ 48(R12), DI             // header.exit
	JMP  exit
gone:
	MOVQ $125, DI
exit:
	MOVQ $SYS_exit_group, AX
	SYSCALL
	// A filter can refuse even this.
	UNDEF

pseudo:
	CMPL AX, $0x10001
	JEQ  test
	CMPL AX, $0x10002
	JEQ  load
	CMPL AX, $0x10003
	JEQ  store
	XORL AX, AX                  // opNop
	JMP  done
test:
	ANDQ SI, DI
	XORL AX, AX
	CMPQ DI, DX
	JEQ  done
	MOVQ R10, AX
	NEGQ AX
	JMP  done
load:
	MOVL (DI), AX
	JMP  done
store:
	MOVL SI, (DI)
	XORL AX, AX
	JMP  done

	// The handler of the signals of Batch.ExitOn, for image to find. DI is the signal. SIGIO only says that the socket may
	// have something to read; that it has is for recvfrom(2) to tell, which changes nothing (MSG_PEEK|MSG_DONTWAIT).
	LONG $0x6c6c7568
	LONG $0x6769732e
	LONG $0x6c6c7568
	LONG $0x6769732e
	MOVQ DI, BX
	CMPQ BX, $29                 // SIGIO
	JNE  leave
	MOVQ $Control, DI
	LEAQ -64(SP), SI
	MOVQ $1, DX
	MOVQ $0x42, R10
	XORL R8, R8
	XORL R9, R9
	MOVQ $SYS_recvfrom, AX
	SYSCALL
	CMPQ AX, $0
	JGT  stay
	CMPQ AX, $-11                // EAGAIN
	JNE  leave
stay:
	ADDQ $8, SP                  // as a return to a restorer leaves it
	MOVQ $SYS_rt_sigreturn, AX
	SYSCALL
	UNDEF
leave:
	LEAQ 128(BX), DI
	JMP  exit

	// The end, for image to find.
	LONG $0x6c6c7568
	LONG $0x646e652e
	LONG $0x6c6c7568
	LONG $0x646e652e

// func interpreterStart() unsafe.Pointer
TEXT ·interpreterStart(SB), NOSPLIT, $0-8
	MOVQ $·interpreter(SB), AX
	MOVQ AX, ret+0(FP)
	RET
