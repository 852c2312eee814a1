package checkpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/proc"
)

// siblings are processes that a CRIU has made as children of its parent's, and of which it has told nobody yet. They have its
// name, until they are what was saved, and are younger.
type siblings struct {
	criu  int
	name  string
	since uint64
}

func siblingsOf(criu int) (siblings, error) {
	st, err := proc.ReadStat(criu)
	if err != nil {
		return siblings{}, err
	}
	name, err := os.ReadFile(proc.File(criu, "comm"))
	return siblings{criu, string(name), st.StartTime}, err
}

// reap reaps those that a CRIU that has failed has killed.
func (s siblings) reap() {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != s.criu && s.has(pid) {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// has tells whether a process is such a one, and has ended.
func (s siblings) has(pid int) bool {
	st, err := proc.ReadStat(pid)
	if err != nil || st.State != 'Z' || st.StartTime < s.since {
		return false
	}
	name, err := os.ReadFile(proc.File(pid, "comm"))
	return err == nil && string(name) == s.name && isChild(pid)
}

// isChild tells whether a process is a child of this program's.
func isChild(pid int) bool {
	status, err := os.ReadFile(proc.File(pid, "status"))
	return err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid()))
}
