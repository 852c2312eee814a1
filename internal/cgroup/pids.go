package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

// Pids returns the processes of the container as the caller's pid namespace numbers them: those in its cgroup, or with
// all those below it too. A cgroup that is gone has none.
func (g *Group) Pids(all bool) ([]int, error) {
	path := g.any()
	if path == "" {
		return nil, nil
	}
	list := readPids
	if all {
		list = pidsBelow
	}
	pids, err := list(path)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, &fault.Error{Step: "list the processes", Err: err}
	}
	return pids, nil
}

// readPids returns the processes in path itself.
func readPids(path string) ([]int, error) {
	s, err := readFile(path, procsFile)
	if errors.Is(err, unix.ENOTSUP) {
		// A threaded cgroup shows threads only.
		s, err = readFile(path, "cgroup.threads")
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(s) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// pidsBelow returns the processes in path and in all cgroups below it. Those below may vanish meanwhile.
func pidsBelow(path string) ([]int, error) {
	pids, err := readPids(path)
	if err != nil {
		return nil, err
	}
	subs, err := children(path)
	if err != nil {
		return nil, err
	}
	for _, sub := range subs {
		more, err := pidsBelow(sub)
		if err != nil && !gone(err) {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// children returns the cgroups right below path.
func children(path string) ([]string, error) {
	// A cgroup's directory has a link for itself, one for its entry above, and one for each child.
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Nlink == 2 {
		return nil, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var subs []string
	for _, e := range entries {
		if e.IsDir() {
			subs = append(subs, filepath.Join(path, e.Name()))
		}
	}
	return subs, nil
}
