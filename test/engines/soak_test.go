package engines

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// soakTime is how long a soak lasts: HULL_TEST_SOAK says it.
func soakTime(t testing.TB, without time.Duration) time.Duration {
	t.Helper()
	v := os.Getenv("HULL_TEST_SOAK")
	if v == "" {
		return without
	}
	lasts, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	return lasts
}

// TestSoak has several engines at once do at random what they do with containers, for HULL_TEST_SOAK (a duration) or a minute, and
// looks for what is left.
func TestSoak(t *testing.T) {
	need(t, "podman", "dockerd", "docker", "containerd", "ctr")
	long(t)
	lasts := soakTime(t, time.Minute)
	ctrd := startContainerd(t, releases()[0], "/run/containerd-soak")
	defer ctrd.end(t, os.Interrupt)
	d := docker(t)
	all := contestants(t)
	pods := make([]client, len(all))
	for i, c := range all {
		pods[i] = podman(t, c)
	}
	clean(t)
	end := time.Now().Add(lasts)
	var done [3]int
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				c := rand.IntN(len(all))
				switch worker {
				case 0:
					soakEngine(t, pods[c], []string{"run", "--network=none"}, []string{"rm", "-f", "-t0"})
				case 1:
					soakEngine(t, d.client, runArgs(all[c], "--network=none"), []string{"rm", "-f"})
				case 2:
					soakCtr(t, ctrd, all[c])
				}
				done[worker]++
			}
		})
	}
	wg.Wait()
	t.Logf("in %v: %d containers of Podman, %d of Docker, %d of containerd", lasts, done[0], done[1], done[2])
}

// soakEngine takes one container of Podman or Docker through a part of its life.
func soakEngine(t *testing.T, p client, run, remove []string) {
	n := name("soak")
	if rand.IntN(3) == 0 {
		if r := p.run(t, append(run, "--name", n, "--rm", imageName, "sh", "-c", "exit 7")...); r.code != 7 {
			t.Error(r)
		}
		return
	}
	for _, args := range engineLife(n, run, remove, "5") {
		if out := p.ok(t, args...); args[0] == "exec" && out != n {
			t.Errorf("%s: printed %q, want %q", strings.Join(args, " "), out, n)
		}
	}
}

func soakCtr(t *testing.T, d *containerd, c contestant) {
	for _, args := range ctrLife(name("soak"), c) {
		if out := d.ok(t, args...); args[1] == "metrics" && !strings.Contains(out, "memory") {
			t.Errorf("metrics: %s", out)
		}
	}
}

// engineLife is a part of the life of a container of Podman or Docker, as the commands that have it go through it. patience is how many
// seconds it has to stop by itself.
func engineLife(n string, run, remove []string, patience string) [][]string {
	all := [][]string{slices.Concat(run, []string{"--name", n, "-d", imageName, "sh", "-c", sleeps})}
	for range rand.IntN(5) {
		switch rand.IntN(5) {
		case 0:
			all = append(all, []string{"exec", n, "echo", n})
		case 1:
			all = append(all, []string{"pause", n}, []string{"unpause", n})
		case 2:
			all = append(all, []string{"restart", "-t", patience, n})
		case 3:
			all = append(all, []string{"stop", "-t", patience, n}, []string{"start", n})
		case 4:
			all = append(all, []string{"top", n})
		}
	}
	return append(all, slices.Concat(remove, []string{n}))
}

// ctrLife is engineLife of one of containerd's.
func ctrLife(n string, c contestant) [][]string {
	all := [][]string{{"run", "-d", c.runtime(), imageName, n, "sh", "-c", sleeps}}
	for i := range rand.IntN(5) {
		switch rand.IntN(3) {
		case 0:
			// Not what it prints: on a busy machine ctr 1.6 may end before that has come, with any runtime.
			all = append(all, []string{"task", "exec", fmt.Sprintf("--exec-id=e%d", i), n, "true"})
		case 1:
			all = append(all, []string{"task", "pause", n}, []string{"task", "resume", n})
		case 2:
			all = append(all, []string{"task", "metrics", n})
		}
	}
	return append(all, []string{"task", "rm", "-f", n}, []string{"container", "rm", n})
}
