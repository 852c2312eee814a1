package life

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The limits of a command over the host's files are those of a cgroup, whoever makes it: hull itself where it may, or
// systemd.
func TestDoLimits(t *testing.T) {
	b := newBox(t, "true")
	if b.do("do", "--help").status != 0 {
		t.Skip("the runtime has no command do")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := b.command(ctx, "do", "--memory", "64m", "--cpus", "0.5", "--pids", "20", "sleep", "3600")
	stderr := b.file("err")
	defer stderr.Close()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var sleeper int
	eventually(t, "the command runs", func() bool {
		sleeper = lastChild(cmd.Process.Pid)
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", sleeper))
		return strings.TrimSpace(string(name)) == "sleep"
	})
	group := cgroupOf(t, sleeper)
	for file, want := range map[string]string{
		"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "21", // with hull's init
	} {
		equal(t, file, b.read(filepath.Join(group, file)), want)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if said := b.written(stderr); strings.Contains(said, "no cgroup") {
		t.Error(said)
	}
	eventually(t, "the cgroup is empty", func() bool {
		procs, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		return len(procs) == 0
	})
	b.ok("do", "true")
	eventually(t, group+" is removed", func() bool {
		_, err := os.Stat(group)
		return os.IsNotExist(err)
	})

	got := b.do("do", "--memory", "16m", "tail", "/dev/zero")
	equal(t, "status of what wants too much memory", got.status, 137)
	contains(t, "do", got.err, "its memory limit of 16m was reached, and the kernel has killed the command")
}

// lastChild returns a descendant of a process that has no children.
func lastChild(pid int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		list, _ := os.ReadFile(task)
		var child int
		if _, err := fmt.Sscan(string(list), &child); err == nil {
			return lastChild(child)
		}
	}
	return pid
}
