package tty

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// InJob tells whether this process is part of a job of a shell at a terminal: one that sees when it stops, and can let it
// go on. In the kernel's words its process group is no orphan, and its session has a terminal (credentials(7)).
func InJob() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	f.Close()
	group := unix.Getpgrp()
	session, err := unix.Getsid(0)
	if err != nil {
		return false
	}
	for pid := os.Getppid(); pid > 1; pid = parent(pid) {
		if s, err := unix.Getsid(pid); err != nil || s != session {
			return false
		}
		if g, err := unix.Getpgid(pid); err != nil || g != group {
			return err == nil
		}
	}
	return false
}

// parent returns the parent of a process, or 0 (proc_pid_stat(5)).
func parent(pid int) int {
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, after, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte{' '})
	if fields := bytes.Fields(after); len(fields) > 1 {
		ppid, _ := strconv.Atoi(string(fields[1]))
		return ppid
	}
	return 0
}
