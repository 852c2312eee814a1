package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// shareScore gives the processes of the sandbox on the host the oom_score_adj of the containers that have joined it, the least
// of them. The pod's first container has one for a process that does nothing but wait: with that, -998 in Kubernetes, the
// host's kernel would rather end anything else than a pod of this kind.
func (c *creation) shareScore() error {
	score := 0
	if adj := c.Spec.Process.OOMScoreAdj; adj != nil {
		score = *adj
	}
	raw, err := os.ReadFile(scoreFile(c.Pod.Init.Pid))
	if err != nil {
		return scoreError(err)
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return scoreError(err)
	}
	own := c.Pod.Spec.Process.OOMScoreAdj
	if score == now || score > now && (own == nil || *own != now) {
		return nil
	}
	return giveScore(c.Pod.Init.Pid, score)
}

// giveScore gives a sandbox's process and its helpers an oom_score_adj: with one that is killed all end. Each has it before it is
// asked for its children, so that those it makes meanwhile have it, too.
func giveScore(pid, score int) error {
	for left := []int{pid}; len(left) > 0; left = left[1:] {
		err := os.WriteFile(scoreFile(left[0]), []byte(strconv.Itoa(score)), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // one that has ended
			return scoreError(err)
		}
		left = append(left, children(left[0])...)
	}
	return nil
}

func scoreFile(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj") }

func scoreError(err error) error { return &fault.Error{Field: "process.oomScoreAdj", Err: err} }

// children returns the processes that one has started (proc_tid_children(5)).
func children(pid int) (found []int) {
	files, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/children"))
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		for _, field := range strings.Fields(string(raw)) {
			if child, err := strconv.Atoi(field); err == nil {
				found = append(found, child)
			}
		}
	}
	return found
}
