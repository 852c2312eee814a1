package stub

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// PIDFD_GET_INFO and its struct (include/uapi/linux/pidfd.h, Linux 6.13; the exit status since 6.15). x/sys v0.40 has
// neither.
const (
	pidfdGetInfo  = 0xc040ff0b
	pidfdInfoExit = 1 << 3
)

type pidfdInfo struct {
	mask, cgroup uint64
	ids          [11]uint32
	exitCode     int32
}

// reapedStatus returns the status of a child that was reaped by someone else in this program, which calls wait4(-1) or
// ignores SIGCHLD. The kernel keeps it with the pidfd.
func reapedStatus(pidfd *os.File) (unix.WaitStatus, error) {
	info := pidfdInfo{mask: pidfdInfoExit}
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno unix.Errno
	if err := raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	}); err != nil {
		return 0, err
	}
	if errno == 0 && info.mask&pidfdInfoExit != 0 {
		return unix.WaitStatus(info.exitCode), nil
	}
	return 0, &fault.Error{
		Step: "waitid", Kind: fault.Unsupported,
		Err:  errors.Join(errors.New("the exit status is unknown: this program has reaped the process elsewhere"), unix.ECHILD),
		Hint: "a program that calls wait4(-1) or ignores SIGCHLD gets it from Linux 6.15 on",
	}
}
