package engines

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// times is how often a test does something; HULL_TEST_TIMES says it, or in the selection it is less.
func times(t testing.TB, short, whole int) int {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv("HULL_TEST_TIMES")); err == nil {
		return n
	}
	if testing.Short() {
		return short
	}
	return whole
}

// TestContainerdRestart kills containerd while containers run, and expects all of them to be there when it is back.
func TestContainerdRestart(t *testing.T) {
	eachContainerd(t, func(t *testing.T, d *containerd, c contestant) {
		names := make([]string, times(t, 5, 20))
		for i := range names {
			names[i] = name("restart")
			d.ok(t, "run", "-d", c.runtime(), imageName, names[i], "sh", "-c", sleeps)
		}
		d.end(t, syscall.SIGKILL)
		d.start(t)
		for _, n := range names {
			d.ok(t, "task", "exec", "--exec-id=e", n, "test", "-e", "/bin/sh")
		}
		d.end(t, syscall.SIGKILL)
		d.start(t)
		for _, n := range names {
			d.ok(t, "task", "rm", "-f", n)
			d.ok(t, "container", "rm", n)
		}
	})
}

// TestExecOfDying has a command start in a container while the container is killed. Whatever comes of the command, it ends, and
// the container goes.
func TestExecOfDying(t *testing.T) {
	need(t, "containerd", "ctr", "containerd-shim-runc-v2")
	d := startContainerd(t, releases()[0], "/run/containerd-dying")
	defer d.end(t, os.Interrupt)
	eachOf(t, containerdContestants(t), func(t *testing.T, c contestant) {
		clean(t)
		for range times(t, 5, 50) {
			n := name("dying")
			d.ok(t, "run", "-d", c.runtime(), imageName, n, "sh", "-c", sleeps)
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
					d.run(t, "task", "exec", "--exec-id=e"+strconv.Itoa(i), n, "true")
				})
			}
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			d.ok(t, "task", "kill", "-s", "KILL", n)
			wg.Wait()
			d.ok(t, "task", "rm", "-f", n)
			d.ok(t, "container", "rm", n)
		}
	})
}

// TestKilled kills the engine, or the runtime, at any moment of a container's start. What the engine removes then is gone.
func TestKilled(t *testing.T) {
	each(t, func(t *testing.T, c contestant) {
		p := podman(t, c)
		clean(t)
		for _, victim := range []string{"podman", "runtime"} {
			t.Run(victim, func(t *testing.T) {
				for range times(t, 5, 30) {
					n := name("killed")
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					cmd := p.command(ctx, "run", "-d", "--network=none", "--name", n, imageName, "sh", "-c", sleeps)
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
					if victim == "podman" {
						_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
					} else {
						for _, pid := range processesOf(filepath.Base(os.Getenv("RUNTIME"))) {
							_ = syscall.Kill(pid, syscall.SIGKILL)
						}
					}
					_ = cmd.Wait()
					cancel()
					p.run(t, "rm", "-f", "-t0", n) // there may be no such container
					if out := p.ok(t, "ps", "-aq", "--filter=name="+n); out != "" {
						t.Fatalf("%s is still there", n)
					}
				}
				// Podman takes it that a runtime which has not said that it made a container has left none; and conmon goes on
				// with what a Podman that was killed had it do.
				r := client{argv: []string{c.path}}
				for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					for id := range strings.FieldsSeq(r.ok(t, "list", "-q")) {
						r.ok(t, "delete", "--force", id)
					}
				}
			})
		}
	})
}

// processesOf are those that run a program of that name, from the tests' directory of programs.
func processesOf(program string) []int { return processesIn(filepath.Join(runtimeDir, program)) }

// processesIn are those that run a program.
func processesIn(path string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe")); err == nil && exe == path {
			pids = append(pids, pid)
		}
	}
	return pids
}
