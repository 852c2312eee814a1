package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestSoakKilled does what TestSoak does while programs are killed at random: the runtime and its helpers, shims, the engines'
// command lines and their daemons, which are started again. What a command comes to is open then, but it ends; and at the
// end, when nothing is killed any more, the engines and `hull delete --force` leave nothing.
func TestSoakKilled(t *testing.T) {
	need(t, "podman", "dockerd", "docker", "containerd", "ctr")
	long(t)
	if filepath.Base(os.Getenv("RUNTIME")) != "hull" {
		t.Skip("what is left is asked of hull")
	}
	lasts := soakTime(t, 30*time.Second)
	ctrd := startContainerd(t, releases()[0], "/run/containerd-killed")
	d := startDocker(t, "/run/dockerd-killed", "--bridge=none")
	all := contestants(t)
	pods := make([]client, len(all))
	for i, c := range all {
		pods[i] = podman(t, c)
	}
	s := &killedSoak{t: t, until: time.Now().Add(lasts), done: make(map[string]int), killed: make(map[string]int)}
	var wg sync.WaitGroup
	worker := func(engine string, life func(n string)) {
		wg.Go(func() {
			for time.Now().Before(s.until) {
				life(name("soak"))
				s.count(s.done, engine)
			}
		})
	}
	worker("podman", func(n string) {
		s.live(pods[rand.IntN(len(pods))], engineLife(n, []string{"run", "--network=none"}, []string{"rm", "-f", "-t0"}, "1"))
	})
	worker("docker", func(n string) {
		s.live(d.client, engineLife(n, runArgs(all[rand.IntN(len(all))], "--network=none"), []string{"rm", "-f"}, "1"))
	})
	shims := containerdContestants(t)
	worker("ctr", func(n string) { s.live(ctrd.client, ctrLife(n, shims[rand.IntN(len(shims))])) })
	for time.Now().Before(s.until) {
		time.Sleep(time.Duration(rand.IntN(700)) * time.Millisecond)
		switch rand.IntN(40) {
		case 0:
			ctrd.end(t, syscall.SIGKILL)
			ctrd.start(t)
			s.count(s.killed, "containerd")
		case 1:
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
			d = d.again(t)
			s.count(s.killed, "dockerd")
		default:
			s.kill()
		}
	}
	wg.Wait()
	t.Logf("in %v: lives %v, killed %v", lasts, s.done, s.killed)
	s.removeAll(ctrd, d, pods[0])
	ctrd.end(t, os.Interrupt)
	d.stop(t)
}

// A killedSoak is a soak under kill -9.
type killedSoak struct {
	t     *testing.T
	until time.Time

	mu     sync.Mutex
	done   map[string]int // lives, by engine
	killed map[string]int // by program
}

func (s *killedSoak) count(m map[string]int, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m[key]++
}

// try runs a command that may fail, but not hang; now and then it is killed.
func (s *killedSoak) try(c client, args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := c.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Error(err)
		return ""
	}
	if rand.IntN(20) == 0 && time.Now().Before(s.until) {
		timer := time.AfterFunc(time.Duration(rand.IntN(400))*time.Millisecond, func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			s.count(s.killed, filepath.Base(c.argv[0]))
		})
		defer timer.Stop()
	}
	hangs := time.AfterFunc(patience-5*time.Second, func() {
		ps, _ := exec.Command("ps", "-eo", "pid,ppid,stat,etimes,wchan:20,args").Output()
		s.t.Logf("%s %s: still there, with these processes:\n%s", c.argv[0], strings.Join(args, " "), ps)
	})
	defer hangs.Stop()
	if err := cmd.Wait(); errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.t.Errorf("%s %s: not ended after %v, %v: %s", c.argv[0], strings.Join(args, " "), patience, err, out.String())
	}
	return out.String()
}

// live takes one container through a part of its life.
func (s *killedSoak) live(c client, life [][]string) {
	for _, args := range life {
		s.try(c, args...)
	}
}

// kill kills a process of the runtime, or a shim.
func (s *killedSoak) kill() {
	var all []int
	for _, program := range []string{"hull", "hull", "containerd-shim-hull-v1"} {
		all = append(all, processesOf(program)...)
	}
	// Not the processes in which a sandbox has its programs run: they are its kernel's.
	sandboxes := processesOf("hull-sandbox")
	for _, pid := range sandboxes {
		if !slices.Contains(sandboxes, parent(pid)) {
			all = append(all, pid)
		}
	}
	if shim, err := exec.LookPath("containerd-shim-runc-v2"); err == nil {
		all = append(all, processesIn(shim)...)
	}
	if len(all) == 0 {
		return
	}
	pid := all[rand.IntN(len(all))]
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if slices.Contains(sandboxes, pid) {
		exe = "hull-sandbox" // which has another name where it is
	}
	if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
		s.count(s.killed, filepath.Base(exe))
	}
}

// parent returns a process's parent, or 0 if it has gone.
func parent(pid int) (ppid int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(status), "\nPPid:")
	_, _ = fmt.Sscan(after, &ppid)
	return ppid
}

// removeAll removes what is there, as people do.
func (s *killedSoak) removeAll(ctrd *containerd, d dockerd, p client) {
	t := s.t
	t.Helper()
	force := 0
	var left []string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		s.try(p, "rm", "-f", "-t0", "-a")
		for id := range strings.FieldsSeq(s.try(d.client, "ps", "-aq")) {
			s.try(d.client, "rm", "-f", id)
		}
		for _, kind := range []string{"task", "container"} {
			for id := range strings.FieldsSeq(s.try(ctrd.client, kind, "ls", "-q")) {
				s.try(ctrd.client, kind, "rm", "-f", id)
			}
		}
		force += forceStates(t)
		left = append(runtimeProcesses(), append(containerCgroups(t), states()...)...)
		if len(left) == 0 {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	t.Logf("of these hull delete --force removed %d", force)
}

// forceStates deletes what hull has states of, and returns how many.
func forceStates(t testing.TB) (n int) {
	t.Helper()
	dirs := make(map[string]bool)
	for _, s := range states() {
		dirs[filepath.Dir(strings.TrimPrefix(s, "state "))] = true
	}
	for dir := range dirs {
		r := client{argv: []string{filepath.Join(runtimeDir, "hull"), "--root", filepath.Dir(dir)}}.run(t, "delete", "--force", filepath.Base(dir))
		if r.code != 0 {
			t.Log(r)
		}
		n++
	}
	return n
}

// again starts a daemon anew that has been killed. On a busy machine its containerd may not be there within the 15 s that it waits for that:
// then it ends, and is started once more.
func (d dockerd) again(t testing.TB) dockerd {
	t.Helper()
	log := strings.TrimPrefix(d.argv[1], "--host=unix://")
	log = filepath.Join(filepath.Dir(log), "log-again")
	d.cmd = daemon(t, log, d.cmd.Args...)
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if d.run(t, "version").code == 0 {
			return d
		}
		var ws syscall.WaitStatus
		if pid, err := syscall.Wait4(d.cmd.Process.Pid, &ws, syscall.WNOHANG, nil); err == nil && pid != 0 {
			d.cmd = daemon(t, log, d.cmd.Args...)
		}
	}
	d.ready(t, log, "version")
	return d
}
