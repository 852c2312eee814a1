package engines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
			d.ok(t, "run", "-d", c.runtime(), imageName, names[i], "sleep", "1000") // so many that wake up are a load
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
	program, err := os.Stat(path)
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Not by name: a sandbox is in a mount namespace where its program has another.
		if exe, err := os.Stat(filepath.Join("/proc", e.Name(), "exe")); err == nil && os.SameFile(exe, program) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// bundle is a directory with the image's files and a configuration, for the runtime's own command line.
func bundle(t *testing.T, r client, change func(config map[string]any)) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	client{argv: []string{"busybox", "tar"}}.ok(t, "-xf", rootfs(t), "-C", filepath.Join(dir, "rootfs"))
	r.ok(t, "spec", "--bundle", dir)
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	config := make(map[string]any)
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"sh", "-c", sleeps}
	process["env"] = []string{"PATH=/bin"}
	delete(process, "rlimits") // of which the tests' root may have less
	change(config)
	writeJSON(t, dir, "config.json", config)
	return dir
}

// creates is the runtime's command line for commands that leave a container with the streams that they were given.
func creates(path string, options ...string) client {
	const script = `f=$(mktemp); "$@" </dev/null >$f 2>&1; s=$?; cat $f >&2; rm $f; exit $s`
	return client{argv: append([]string{"sh", "-c", script, "sh", path}, options...)}
}

// fullDisk is a file system in which a number of pages is free.
func fullDisk(t *testing.T, pages int) (dir string) {
	t.Helper()
	const size = 64 // pages
	dir = filepath.Join("/run", name("full"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("full", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, (size-pages)*os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFullDisk has no room for states, or little. A command works or says so, and nothing is left.
func TestFullDisk(t *testing.T) {
	need(t)
	each(t, func(t *testing.T, c contestant) {
		clean(t)
		r := creates(c.path)
		dir := bundle(t, r, func(map[string]any) {})
		worked := 0
		for pages := range 12 {
			full := fullDisk(t, pages)
			r := creates(c.path, "--root", full+"/states")
			n := name("full")
			switch got := r.run(t, "create", "--bundle", dir, n); {
			case got.code == 0:
				worked++
				r.ok(t, "start", n)
				r.ok(t, "exec", n, "true")
				r.ok(t, "delete", "--force", n)
			case !strings.Contains(got.err, "no space left on device"):
				t.Errorf("with %d pages: %v", pages, got)
			}
			if out := r.run(t, "list", "-q"); out.err != "" {
				t.Errorf("with %d pages: left %v", pages, out)
			}
		}
		if worked == 0 || worked == 12 {
			t.Errorf("it worked %d times of 12", worked)
		}

		// What is only told to others.
		full := fullDisk(t, 0)
		n := name("full")
		got := r.run(t, "--log", full+"/log", "--log-format", "json", "create", "--bundle", dir, "--pid-file", full+"/pid", n)
		if got.code == 0 || !strings.Contains(got.err, "no space left on device") || !strings.Contains(got.err, "pid file") {
			t.Error(got)
		}
		if out := r.run(t, "list", "-q"); out.err != "" {
			t.Errorf("left %v", out)
		}
		r.ok(t, "--debug", "--log", full+"/log", "--log-format", "json", "create", "--bundle", dir, n)
		r.ok(t, "--debug", "--log", full+"/log", "delete", "--force", n)
	})
}

// TestFullLog has a container write more than there is room for in its log. It goes on, and its end is its own.
func TestFullLog(t *testing.T) {
	each(t, func(t *testing.T, c contestant) {
		p := podman(t, c)
		clean(t)
		full := fullDisk(t, 4)
		n := p.name(t, "full")
		p.ok(t, "run", "-d", "--name", n, "--network=none", "--log-driver=k8s-file", "--log-opt=path="+full+"/log", imageName,
			"sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo a line of some length $i; i=$((i+1)); done; exit 7")
		p.says(t, "7", "wait", n)
		p.ok(t, "rm", "-f", "-t0", n)
	})
}

// TestConsoleNobodyTakes has a terminal sent to a socket that nobody accepts connections of, and to one that is full.
func TestConsoleNobodyTakes(t *testing.T) {
	need(t)
	each(t, func(t *testing.T, c contestant) {
		clean(t)
		r := creates(c.path)
		dir := bundle(t, r, func(config map[string]any) { config["process"].(map[string]any)["terminal"] = true })
		socket := filepath.Join(t.TempDir(), "console")
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}), syscall.Listen(fd, 0)); err != nil {
			t.Fatal(err)
		}
		n := name("console")
		r.ok(t, "create", "--bundle", dir, "--console-socket", socket, n) // the kernel has taken it
		begun := time.Now()
		r.fails(t, 1, "console socket", "create", "--bundle", dir, "--console-socket", socket, name("console"))
		if took := time.Since(begun); took > soon {
			t.Errorf("it took %v", took)
		}
		r.ok(t, "delete", "--force", n)
		if out := r.run(t, "list", "-q"); out.err != "" {
			t.Errorf("left %v", out)
		}
	})
}

// TestClientGone kills a command line that a container's output goes to. The container goes on until it is told to end.
func TestClientGone(t *testing.T) {
	need(t, "containerd", "ctr", "containerd-shim-runc-v2")
	d := startContainerd(t, releases()[0], "/run/containerd-gone")
	defer d.end(t, os.Interrupt)
	eachOf(t, containerdContestants(t), func(t *testing.T, c contestant) {
		clean(t)
		n := name("gone")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := d.command(ctx, "run", c.runtime(), imageName, n, "sh", "-c", "trap '' PIPE; trap 'exit 0' TERM; while :; do echo a line for nobody; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(soon); !strings.Contains(d.ok(t, "task", "ls"), n) && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		time.Sleep(300 * time.Millisecond)
		if out := d.ok(t, "task", "ls"); !strings.Contains(out, "RUNNING") {
			t.Errorf("tasks: %s", out)
		}
		d.ok(t, "task", "exec", "--exec-id=e", n, "true")
		d.ok(t, "task", "kill", "-s", "KILL", n)
		d.ok(t, "task", "rm", "-f", n)
		d.ok(t, "container", "rm", n)
	})
}
