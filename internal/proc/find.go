package proc

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
)

// FindInside returns, of these processes of a container, the one that has that pid in the pid namespace of the container's init.
func FindInside(init engine.Init, pids []int, pid int) (engine.Init, error) {
	if !Alive(init) {
		return engine.Init{}, &fault.Error{Kind: fault.BadState, Err: errors.New("the container has stopped")}
	}
	// A pid for each namespace, from that of /proc on: the container's is as deep as its init is.
	depth := len(nsPids(init.Pid))
	for _, p := range pids {
		start, err := StartTime(p)
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
	text, err := os.ReadFile(File(pid, "status"))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(text), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(line)
}

// Find returns the process with that pid, if it is one of these.
func Find(pids []int, pid int) (engine.Init, error) {
	start, err := StartTime(pid)
	if err != nil || !slices.Contains(pids, pid) {
		return engine.Init{}, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	return engine.Init{Pid: pid, StartTime: start}, nil
}
