package linux

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EndedChild returns the pid of a child that has ended and waits to be reaped, and leaves it so; 0 if there is none.
// Which of several it names, the kernel chooses, and it names the same one again.
func EndedChild() (int, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch err {
		case nil:
			// The kernel's siginfo_t (asm-generic/siginfo.h): three ints, then a union, aligned as a pointer, which
			// for SIGCHLD begins with the pid. All zero: no child has ended.
			const offset = (3*unsafe.Sizeof(int32(0)) + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
			return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), offset))), nil
		case unix.ECHILD:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError("waitid", err)
		}
	}
}
