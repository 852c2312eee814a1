// Package proc says of processes of the host's what the kernel does, in /proc and by pidfds: whether one lives, ends or has
// ended, and how. A process is its pid and the time it started at, so that another of the same pid is never taken for it.
//
// Both engines and package hull use it. In /proc of the host nothing is a container's.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
)

// Alive tells whether the process exists and has not ended.
func Alive(i engine.Init) bool {
	if i.Pid == 0 {
		return false
	}
	st, err := readStat(File(i.Pid, "stat"))
	return err == nil && st.StartTime == i.StartTime && !(st.ended() && allEnded(i.Pid))
}

// allEnded tells whether no thread of the process runs any more. The first may end before others do, and those that are
// frozen don't die when they are killed.
func allEnded(pid int) bool {
	tasks, err := os.ReadDir(File(pid, "task"))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	for _, t := range tasks {
		if st, err := readStat(File(pid, "task/"+t.Name()+"/stat")); err == nil && !st.ended() {
			return false
		}
	}
	return true
}

// Killed tells whether a process that is alive is about to end: a thread has been sent a SIGKILL that it has not got to
// yet, or is through with it while others aren't.
func Killed(i engine.Init) bool {
	tasks, err := os.ReadDir(File(i.Pid, "task"))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(tasks, func(t os.DirEntry) bool { return killed(File(i.Pid, "task/"+t.Name()+"/stat")) })
}

func killed(file string) bool {
	st, err := readStat(file)
	if err != nil || st.ended() {
		return true
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return true
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const signal = 31 - 3 // field 31 has the pending signals, field 3 comes behind the name (proc_pid_stat(5))
	if len(fields) <= signal {
		return false
	}
	pending, err := strconv.ParseUint(string(fields[signal]), 10, 64)
	return err == nil && pending&(1<<(unix.SIGKILL-1)) != 0
}

// Stat is what hull reads of /proc/PID/stat (proc_pid_stat(5)).
type Stat struct {
	State     byte
	CPU       time.Duration // of all threads, fields 14 and 15: by ticks of 10 ms
	StartTime uint64        // field 22
	exiting   bool          // PF_EXITING in field 9
}

// ended tells whether the thread is a zombie, or on the way to become one and has given up all but its pid.
func (s Stat) ended() bool { return s.State == 'Z' || s.State == 'X' || s.exiting }

// StartTime returns when a process started, in the form that an Init has it.
func StartTime(pid int) (uint64, error) {
	st, err := readStat(File(pid, "stat"))
	return st.StartTime, err
}

// ReadStat reads it of a process.
func ReadStat(pid int) (Stat, error) { return readStat(File(pid, "stat")) }

func readStat(file string) (Stat, error) {
	var buf [1024]byte
	b, err := linux.ReadFile(file, buf[:])
	if err != nil {
		return Stat{}, err
	}
	// The command's name, in parentheses, may have spaces and parentheses.
	_, rest, found := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
	var fields [20][]byte
	for i := range fields {
		if !found {
			return Stat{}, fmt.Errorf("%s: %q", file, string(b))
		}
		fields[i], rest, found = bytes.Cut(rest, []byte(" "))
	}
	const exiting = 0x4                    // PF_EXITING, include/linux/sched.h
	const tick = time.Second / 100         // USER_HZ
	number := func(field int) (n uint64) { // as proc_pid_stat(5) counts
		var nerr error
		n, nerr = strconv.ParseUint(string(fields[field-3]), 10, 64)
		err = errors.Join(err, nerr)
		return n
	}
	st := Stat{State: fields[0][0], CPU: time.Duration(number(14)+number(15)) * tick, StartTime: number(22), exiting: number(9)&exiting != 0}
	return st, err
}

// Open returns a pidfd of the process, or an error of kind BadState if it has ended.
func Open(i engine.Init) (*os.File, error) {
	ended := &fault.Error{Kind: fault.BadState, Err: errors.New("the container's init has ended")}
	fd, err := unix.PidfdOpen(i.Pid, 0)
	if err == unix.ESRCH || err == unix.EINVAL {
		return nil, ended
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	// The pid is looked at after the descriptor holds it: it can't become another's in between.
	if !Alive(i) {
		f.Close()
		return nil, ended
	}
	return f, nil
}

// File returns the path of a file of the process's.
func File(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }
