package engines

import (
	"fmt"
	"math/rand/v2"
	"os"
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
	args := append(run, "--name", n)
	if rand.IntN(3) == 0 {
		if r := p.run(t, append(args, "--rm", imageName, "sh", "-c", "exit 7")...); r.code != 7 {
			t.Error(r)
		}
		return
	}
	p.ok(t, append(args, "-d", imageName, "sh", "-c", sleeps)...)
	for range rand.IntN(5) {
		switch rand.IntN(5) {
		case 0:
			p.says(t, n, "exec", n, "echo", n)
		case 1:
			p.ok(t, "pause", n)
			p.ok(t, "unpause", n)
		case 2:
			p.ok(t, "restart", "-t", "5", n)
		case 3:
			p.ok(t, "stop", "-t", "5", n)
			p.ok(t, "start", n)
		case 4:
			p.ok(t, "top", n)
		}
	}
	p.ok(t, append(remove, n)...)
}

func soakCtr(t *testing.T, d *containerd, c contestant) {
	n := name("soak")
	d.ok(t, "run", "-d", c.runtime(), imageName, n, "sh", "-c", sleeps)
	for i := range rand.IntN(5) {
		switch rand.IntN(3) {
		case 0:
			// Not what it prints: on a busy machine ctr 1.6 may end before that has come, with any runtime.
			d.ok(t, "task", "exec", fmt.Sprintf("--exec-id=e%d", i), n, "true")
		case 1:
			d.ok(t, "task", "pause", n)
			d.ok(t, "task", "resume", n)
		case 2:
			if out := d.ok(t, "task", "metrics", n); !strings.Contains(out, "memory") {
				t.Errorf("metrics: %s", out)
			}
		}
	}
	d.ok(t, "task", "rm", "-f", n)
	d.ok(t, "container", "rm", n)
}
