package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
)

// End waits for the end of a process that is no child of this one, and returns how it has ended. While it is a zombie /proc tells;
// once its parent has reaped it, only the kernel from Linux 6.15 on does.
func End(ctx context.Context, i engine.Init) (unix.WaitStatus, error) {
	pidfd, err := OpenInit(i)
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
	b, err := linux.ReadFile(procFile(i.Pid, "stat"), buf[:])
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

// FindInside returns, of these processes of a container, the one that has that pid in the pid namespace of the container's init.
func FindInside(init engine.Init, pids []int, pid int) (engine.Init, error) {
	if !Alive(init) {
		return engine.Init{}, &fault.Error{Kind: fault.BadState, Err: errors.New("the container has stopped")}
	}
	// A pid for each namespace, from that of /proc on: the container's is as deep as its init is.
	depth := len(nsPids(init.Pid))
	for _, p := range pids {
		start, err := startTime(p)
		if err != nil {
			continue // it has ended
		}
		if inside := nsPids(p); depth > 0 && len(inside) >= depth && inside[depth-1] == strconv.Itoa(pid) {
			return engine.Init{Pid: p, StartTime: start}, nil // if it is another by now, its time is another
		}
	}
	return engine.Init{}, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
}

// nsPids returns the field NSpid of proc_pid_status(5).
func nsPids(pid int) []string {
	text, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(text), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(line)
}

// Find returns the process with that pid, if it is one of these.
func Find(pids []int, pid int) (engine.Init, error) {
	start, err := startTime(pid)
	if err != nil || !slices.Contains(pids, pid) {
		return engine.Init{}, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	return engine.Init{Pid: pid, StartTime: start}, nil
}
