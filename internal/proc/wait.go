package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
)

// End waits for the end of a process that is no child of this one, and returns how it has ended. While it is a zombie /proc tells;
// once its parent has reaped it, only the kernel from Linux 6.15 on does.
func End(ctx context.Context, i engine.Init) (unix.WaitStatus, error) {
	pidfd, err := Open(i)
	if err != nil {
		return 0, err
	}
	defer pidfd.Close()
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return ExitCode(i, pidfd)
		}
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
	}
}

// ExitCode returns how a process has ended.
func ExitCode(i engine.Init, pidfd *os.File) (unix.WaitStatus, error) {
	if ws, ok := zombieCode(i); ok {
		return ws, nil
	}
	const exit = 1 << 3 // PIDFD_INFO_EXIT, include/uapi/linux/pidfd.h, Linux 6.15; x/sys has none
	info := unix.PidfdInfo{Mask: exit}
	err := unix.IoctlPidfdInfo(int(pidfd.Fd()), &info)
	if err == nil && info.Mask&exit != 0 {
		return unix.WaitStatus(info.Exit_code), nil
	}
	return 0, &fault.Error{Step: "PIDFD_GET_INFO", Kind: fault.Unsupported,
		Err: errors.New("the process has ended; how, its parent knows, and Linux from 6.15 on")}
}

// zombieCode returns how a process has ended that nobody has reaped yet: field 52 of proc_pid_stat(5).
func zombieCode(i engine.Init) (unix.WaitStatus, bool) {
	var buf [1024]byte
	b, err := linux.ReadFile(File(i.Pid, "stat"), buf[:])
	if err != nil {
		return 0, false
	}
	const state, startTime, code = 0, 22 - 3, 52 - 3 // the first two fields are cut off
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) <= code || string(fields[state]) != "Z" || string(fields[startTime]) != strconv.FormatUint(i.StartTime, 10) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(fields[code]), 10, 32)
	return unix.WaitStatus(n), err == nil
}

// WaitEnded waits until a container's init that was killed has ended. Its pidfd alone doesn't tell: the first process
// of a pid namespace stays until the last zombie in it is reaped (pid_namespaces(7)), which is up to the parent of
// that one.
func WaitEnded(ctx context.Context, i engine.Init, pidfd *os.File) error {
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 50)
		if n > 0 || !Alive(i) {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the process does not end: %w", ctx.Err())
		}
	}
}
