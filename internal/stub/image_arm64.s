#include "textflag.h"

// The interpreter that a stub runs; see image_amd64.s, which this follows step by step.
//
//	R19  base of the batch        R20  current entry
//	R21  its index                R22  errno for the reply

#define BASE 0x10000000
#define FDS 0x00400030
#define Control 3
#define SYS_read 63
#define SYS_write 64
#define SYS_exit_group 94
#define SYS_clock_gettime 113
#define SYS_rt_sigprocmask 135
#define SYS_rt_sigreturn 139
#define SYS_prctl 167
#define SYS_recvfrom 207
#define SYS_close_range 436

TEXT ·interpreter(SB), NOSPLIT|NOFRAME, $0
	MOVD $BASE, R19

	// Block every signal.
	MOVD $-1, R0
	MOVD R0, (R19)
	MOVD $2, R0                  // SIG_SETMASK
	MOVD R19, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $SYS_rt_sigprocmask, R8
	SVC

	// Not dumpable before anything else can happen.
	MOVD $4, R0                  // PR_SET_DUMPABLE
	MOVD $0, R1
	MOVD $SYS_prctl, R8
	SVC

	// Close what the parent was given without close-on-exec.
	MOVD $FDS, R1
	MOVWU (R1), R0
	MOVD $-1, R1
	MOVD $0, R2
	MOVD $SYS_close_range, R8
	SVC

receive:
	// The length of the batch, then the batch.
	MOVD $8, R22
	MOVD $BASE, R21
	MOVD $0, R23                 // the length is read first
more:
	MOVD $Control, R0
	MOVD R21, R1
	MOVD R22, R2
	MOVD $SYS_read, R8
	SVC
	CMP  $1, R0
	BLT  gone                    // end of file: the parent is gone
	ADD  R0, R21, R21
	SUBS R0, R22, R22
	BNE  more
	CBNZ R23, run
	MOVD (R19), R22
	MOVD $BASE, R21
	MOVD $1, R23
	B    more

run:
	MOVD $0, R21
	MOVD $0, R22

next:
	MOVD 0(R19), R9              // header.count
	CMP  R9, R21
	BGE  finish
	MOVD $44, R9
	MUL  R9, R21, R20
	MOVD 56(R19), R9             // header.entries
	ADD  R9, R20, R20
	ADD  $80, R19, R24           // results, behind the header

	// Arguments: those whose bit is set in refs are indexes of results that are meant.
	MOVHU 4(R20), R10
	MOVW 20(R20), R0
	TBZ  $0, R10, a1
	MOVD (R24)(R0<<3), R0
a1:
	MOVW 24(R20), R1
	TBZ  $1, R10, a2
	MOVD (R24)(R1<<3), R1
a2:
	MOVW 28(R20), R2
	TBZ  $2, R10, a3
	MOVD (R24)(R2<<3), R2
a3:
	MOVW 32(R20), R3
	TBZ  $3, R10, a4
	MOVD (R24)(R3<<3), R3
a4:
	MOVW 36(R20), R4
	TBZ  $4, R10, a5
	MOVD (R24)(R4<<3), R4
a5:
	MOVW 40(R20), R5
	TBZ  $5, R10, a6
	MOVD (R24)(R5<<3), R5
a6:
	MOVWU 0(R20), R8
	MOVD $0x10000, R9
	CMP  R9, R8
	BGE  pseudo
	SVC

done:
	MOVD R0, (R24)(R21<<3)
	MOVD 16(R19), R9             // header.flags
	TBZ  $0, R9, branch          // flagTrace
	MOVD $1, R0                  // CLOCK_MONOTONIC
	MOVD 64(R19), R1             // header.times
	ADD  R21<<4, R1, R1
	MOVD $SYS_clock_gettime, R8
	SVC
	MOVD (R24)(R21<<3), R0

branch:
	MOVD $-4095, R9
	CMP  R9, R0
	BHS  failed                  // unsigned >=
	MOVW 8(R20), R21             // onOK
	B    next
failed:
	NEG  R0, R0
	MOVHU 6(R20), R9             // match
	CMP  R9, R0
	BNE  other
	MOVW 16(R20), R21            // onMatch
	B    next
other:
	MOVW 12(R20), R9             // onErr
	CMP  $0, R9
	BLT  stop
	MOVD R9, R21
	B    next
stop:
	MOVD R0, R22

finish:
	MOVD R21, 24(R19)            // header.stopped
	MOVD R22, 32(R19)            // header.errno
	MOVD 40(R19), R0             // header.replyFD
	MOVD R19, R1
	MOVD 8(R19), R2              // header.reply, bytes
	MOVD $SYS_write, R8
	SVC
	MOVD 16(R19), R9
	TBZ  $1, R9, receive         // flagLast
	MOVD 48(R19), R0             // header.exit
	B    exit
gone:
	MOVD $125, R0
exit:
	MOVD $SYS_exit_group, R8
	SVC
	// A filter can refuse even this.
	UNDEF

pseudo:
	MOVD $0x10001, R9
	CMP  R9, R8
	BEQ  test
	MOVD $0x10002, R9
	CMP  R9, R8
	BEQ  load
	MOVD $0x10003, R9
	CMP  R9, R8
	BEQ  store
	MOVD $0, R0                  // opNop
	B    done
test:
	AND  R1, R0, R0
	CMP  R2, R0
	BEQ  passed
	NEG  R3, R0
	B    done
passed:
	MOVD $0, R0
	B    done
load:
	MOVWU (R0), R0
	B    done
store:
	MOVW R1, (R0)
	MOVD $0, R0
	B    done

	// The handler of the signals of Batch.ExitOn, for image to find. R0 is the signal.
	WORD $0x6c6c7568
	WORD $0x6769732e
	WORD $0x6c6c7568
	WORD $0x6769732e
	MOVD R0, R23
	CMP  $29, R23                // SIGIO
	BNE  leave
	MOVD $Control, R0
	SUB  $64, RSP, R1
	MOVD $1, R2
	MOVD $0x42, R3
	MOVD $0, R4
	MOVD $0, R5
	MOVD $SYS_recvfrom, R8
	SVC
	CMP  $0, R0
	BGT  stay
	CMN  $11, R0                 // EAGAIN
	BNE  leave
stay:
	MOVD $SYS_rt_sigreturn, R8
	SVC
	UNDEF
leave:
	ADD  $128, R23, R0
	B    exit

	// The end, for image to find.
	WORD $0x6c6c7568
	WORD $0x646e652e
	WORD $0x6c6c7568
	WORD $0x646e652e

// func interpreterStart() unsafe.Pointer
TEXT ·interpreterStart(SB), NOSPLIT, $0-8
	MOVD $·interpreter(SB), R0
	MOVD R0, ret+0(FP)
	RET
