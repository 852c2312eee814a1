package hull_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/cgroup"
	"hull/internal/pool"
)

// poolUse counts what tests have done with pools.
var poolUse struct{ pools, taken, open int }

// startPool keeps sandboxes ready for a runtime until the test ends.
func startPool(t testing.TB, r *hull.Runtime, size int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	p := *r
	go func() { ended <- p.Pool(ctx, hull.PoolOptions{Size: size, Ready: func() { close(ready) }}) }()
	t.Cleanup(func() {
		if s, err := p.PoolStatus(); err == nil {
			poolUse.taken += s.Taken
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(errorText(err))
		}
		if left, err := filepath.Glob(filepath.Join(r.Root, "@*")); len(left) > 0 || err != nil {
			t.Errorf("the pool has left %v, %v", left, err)
		}
		if poolUse.open--; poolUse.open == 0 {
			expect(t, nil, parkedCgroups(os.Getpid()))
		}
	})
	poolUse.pools++
	poolUse.open++
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(errorText(err))
	case <-time.After(hulltest.Patient(30 * time.Second)):
		t.Fatal("the pool is not ready")
	}
}

// pooled returns a runtime with a pool of that size.
func pooled(t testing.TB, size int) *hull.Runtime {
	t.Helper()
	r := newRuntime(t)
	startPool(t, r, size)
	return r
}

// parkedCgroups returns the cgroups of parked sandboxes that a process has made, by the pids in each.
func parkedCgroups(server int) (pids []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/", "/sys/fs/cgroup/*/*/", "/sys/fs/cgroup/*/*/*/"} {
		found, _ := filepath.Glob(fmt.Sprintf("%shull-pool-%d-*", pattern, server))
		for _, dir := range found {
			b, _ := os.ReadFile(dir + "/cgroup.procs")
			pids = append(pids, dir+": "+strings.Join(strings.Fields(string(b)), " "))
		}
	}
	return pids
}

// TestSandboxPool has the tests of sandboxes pass in some that were started before.
func TestSandboxPool(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	for name, test := range sandboxSuite() {
		if name == "ManyContainers" { // TestSandboxPoolExhausted is more to the point
			continue
		}
		t.Run(name, test)
	}
	if !t.Failed() && poolUse.taken < poolUse.pools/2 {
		t.Errorf("%d sandboxes were taken from %d pools", poolUse.taken, poolUse.pools)
	}
}

// More containers at once than there are sandboxes: all start, and no two in the same.
func TestSandboxPoolExhausted(t *testing.T) {
	r := pooled(t, 3)
	bundle := hulltest.Bundle(t, args("echo", "done"))
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := oneOfMany(t.Context(), r, bundle, i); err != nil {
				t.Errorf("container %d: %v", i, err)
			}
		})
	}
	all.Wait()
	s, err := r.PoolStatus()
	if err != nil || s.Taken < 3 || s.Size != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	eventually(t, "the pool is full again", func() bool {
		s, err := r.PoolStatus()
		return err == nil && s.Parked == 3
	})
}

// What a container has changed in its kernel the next one doesn't find, and its limits are its own.
func TestSandboxPoolOnce(t *testing.T) {
	r := pooled(t, 1)
	for i := range 3 {
		eventually(t, "one is ready", func() bool { s, err := r.PoolStatus(); return err == nil && s.Parked == 1 })
		name := fmt.Sprint("name", i)
		got, err := tryRun(t, r, args("do", "hostname", ",", "ls", "/dev/shm", ",", "write", "/dev/shm/x", "y"), func(s *specs.Spec) { s.Hostname = name })
		if err != nil {
			t.Fatal(errorText(err))
		}
		if got.Status != "0" || !strings.HasPrefix(got.Out, name+" ") || strings.Count(got.Out, "\n") != 1 {
			t.Errorf("%+v", got)
		}
	}
	if s, err := r.PoolStatus(); err != nil || s.Taken != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A container that names no cgroup has the one that its sandbox has waited in, on v2 by the name that it has had there: its limits
// are in that, what sweeps for killed pools leaves it, also when it has stopped, and delete removes it.
func TestSandboxPoolCgroup(t *testing.T) {
	r := pooled(t, 1)
	c := runningIn(t, r, func(s *specs.Spec) { s.Linux.CgroupsPath = "" }, resources(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(96 << 20))}
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(100))}
	}))
	if s, err := r.PoolStatus(); err != nil || s.Taken != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	dir := func(controller string) string {
		for line := range strings.Lines(readFile(t, procPath(c.Init().Pid, "cgroup"))) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			switch {
			case hulltest.CgroupV2.Check() == nil && f[1] == "":
				return filepath.Join("/sys/fs/cgroup", f[2])
			case f[1] == controller:
				return filepath.Join("/sys/fs/cgroup", controller, f[2])
			}
		}
		t.Fatalf("no cgroup of %s", controller)
		return ""
	}
	memory, pids, name := filepath.Join(dir("memory"), memoryMax.v1), filepath.Join(dir("pids"), pidsMax.v1), c.ID()
	if hulltest.CgroupV2.Check() == nil {
		memory, name = filepath.Join(dir(""), memoryMax.v2), fmt.Sprintf("hull-pool-%d-", os.Getpid())
	}
	if base := filepath.Base(filepath.Dir(pids)); !strings.HasPrefix(base, name) {
		t.Errorf("cgroup %s, want %s", base, name)
	}
	expect(t, strconv.Itoa(96<<20), readFile(t, memory))
	expect(t, "100", readFile(t, pids))
	if err := c.Update(hull.UpdateOptions{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(200))}}}); err != nil {
		t.Error(errorText(err))
	}
	expect(t, "200", readFile(t, pids))
	if err := c.Pause(); err != nil {
		t.Error(errorText(err))
	}
	wantStatus(t, c, hull.Paused)
	if err := c.Resume(); err != nil {
		t.Error(errorText(err))
	}
	says(t, exec1(t, c, verb("echo", "here")), "here")
	if err := c.Signal(unix.SIGKILL, false); err != nil {
		t.Error(errorText(err))
	}
	expect(t, "signal SIGKILL", wait(t, c.Init()))
	cgroup.SweepParked()
	if _, err := os.Stat(pids); err != nil {
		t.Errorf("swept: %v", err)
	}
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(errorText(err))
	}
	if _, err := os.Stat(filepath.Dir(pids)); err == nil {
		t.Errorf("%s is left", filepath.Dir(pids))
	}
}

// The host's kernel ends the sandbox's helpers no sooner than its process: with one of them all end.
func TestSandboxPoolOOMScore(t *testing.T) {
	r := pooled(t, 1)
	c := runningIn(t, r, args("sleep", "3600"), func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(500) })
	if s, err := r.PoolStatus(); err != nil || s.Taken != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	pids, err := c.Processes()
	if err != nil || len(pids) < 2 {
		t.Fatalf("processes %v, %v", pids, err)
	}
	for _, pid := range pids {
		if got := strings.TrimSpace(readFile(t, procPath(pid, "oom_score_adj"))); got != "500" {
			t.Errorf("process %d has %s", pid, got)
		}
	}
}

// A container that comes to nothing leaves no descriptor of the sandbox that was taken for it, nor the pool one for each that it
// makes.
func TestSandboxPoolKeepsNoFiles(t *testing.T) {
	debug.SetGCPercent(-1) // which would close them, sooner or later
	defer debug.SetGCPercent(100)
	r := newRuntime(t)
	p := startPoolProcess(t, r.Root, r.SandboxProgram)
	defer func() {
		p.kill(t)
		eventually(t, "parked sandboxes end", func() bool { return p.cgroupProcesses() == 0 })
		says(t, mustRun(t, r, args("echo", "alone")), "alone") // and sweeps
		expect(t, nil, parkedCgroups(p.Process.Pid))
		_ = os.Remove(filepath.Join(r.Root, "@pool"))
	}()
	count := func(pid int, what string) (n int) {
		fds, _ := os.ReadDir(procPath(pid, "fd"))
		for _, fd := range fds {
			if to, err := os.Readlink(procPath(pid, "fd/"+fd.Name())); err == nil && strings.Contains(to, what) {
				n++
			}
		}
		return n
	}
	before := count(os.Getpid(), "pidfd") // that of the pool's process
	_, err := tryRun(t, r, args("true"), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Source: "/no/such", Options: []string{"bind"}})
	})
	refused(t, err, unix.ENOENT)
	if s, err := r.PoolStatus(); err != nil || s.Taken != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if n := count(os.Getpid(), "pidfd"); n > before {
		t.Errorf("%d pidfds are open, before %d", n, before)
	}
	if n := count(p.Process.Pid, "memfd:sandbox.log"); n > 0 {
		t.Errorf("the pool has %d logs open", n)
	}
	eventually(t, "another sandbox is parked", func() bool { s, err := r.PoolStatus(); return err == nil && s.Parked > 0 })
	c, err := r.Run(t.Context(), "another", hull.CreateOptions{Bundle: hulltest.Bundle(t, args("sleep", "3600"))})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	if s, err := r.PoolStatus(); err != nil || s.Taken != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if n := count(c.Init().Pid, "memfd:sandbox.log"); n > 0 {
		t.Errorf("a sandbox that was taken has %d descriptors of the log that it had before", n)
	}
}

// A container that can't have a sandbox of the pool has one of its own, and the trace says why.
func TestSandboxPoolNotUsed(t *testing.T) {
	r := pooled(t, 1)
	var trace []string
	r.Trace = func(line string) {
		if strings.HasPrefix(line, "pool: ") {
			trace = append(trace, line)
		}
	}
	dir := t.TempDir()
	for name, test := range map[string]struct {
		why  string
		o    hull.CreateOptions
		edit func(*specs.Spec)
	}{
		"pid file":       {"--pid-file", hull.CreateOptions{PidFile: filepath.Join(dir, "pid")}, nil},
		"user namespace": {"user namespace", hull.CreateOptions{}, userNamespace},
		"host's network": {"the host's network", hull.CreateOptions{}, noNamespace(specs.NetworkNamespace)},
		"network by path": {"a namespace by its path", hull.CreateOptions{}, func(s *specs.Spec) {
			s.Linux.Namespaces[namespaceIndex(s, specs.NetworkNamespace)].Path = "/proc/self/ns/net"
		}},
		"processors": {"cpu.cpus", hull.CreateOptions{}, func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			trace = nil
			edits := []func(*specs.Spec){args("true")}
			if test.edit != nil {
				edits = append(edits, test.edit)
			}
			o := test.o
			o.Bundle = hulltest.Bundle(t, edits...)
			if _, err := tryRunWith(t, r, o); err != nil && name != "network by path" {
				t.Error(errorText(err))
			}
			if len(trace) != 1 || !strings.Contains(trace[0], test.why) {
				t.Errorf("trace: %q, want %q", trace, test.why)
			}
		})
	}
	if s, err := r.PoolStatus(); err != nil || s.Taken != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func namespaceIndex(s *specs.Spec, kind specs.LinuxNamespaceType) int {
	for i, ns := range s.Linux.Namespaces {
		if ns.Type == kind {
			return i
		}
	}
	return -1
}

// A pool of another hull-sandbox, or of one that was replaced since, gives nothing.
func TestSandboxPoolOfAnotherProgram(t *testing.T) {
	r := newRuntime(t)
	program := filepath.Join(t.TempDir(), "hull-sandbox")
	copyProgram := func() {
		b, err := os.ReadFile(r.SandboxProgram)
		if err == nil {
			_ = os.Remove(program)
			err = os.WriteFile(program, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	other := *r
	copyProgram()
	other.SandboxProgram = program
	startPool(t, &other, 1)
	var trace []string
	r.Trace = func(line string) { trace = append(trace, line) }
	if got, err := tryRun(t, r, args("true")); err != nil || got.Status != "0" {
		t.Error(got, errorText(err))
	}
	if !strings.Contains(strings.Join(trace, "\n"), "pool: not used: the pool has sandboxes of another hull-sandbox") {
		t.Error(trace)
	}
	copyProgram()
	if got, err := tryRun(t, &other, args("true")); err != nil || got.Status != "0" {
		t.Error(got, errorText(err))
	}
	if s, err := r.PoolStatus(); err != nil || s.Taken != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// Other users can neither take a sandbox nor pass off a pool of theirs, though the modes of files let them.
func TestSandboxPoolOfAnotherUser(t *testing.T) {
	r := pooled(t, 1)
	socket := filepath.Join(r.Root, "@pool")
	fi, err := os.Stat(socket)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	for dir := r.Root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := actor(t, "thief", r.Root)
	cmd.Path = publicCopy(t, cmd.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "no\x00the pool is another user's" {
		t.Errorf("%q, %v", out, err)
	}
	if s, err := r.PoolStatus(); err != nil || s.Taken != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// publicCopy returns a copy of a program that other users can execute.
func publicCopy(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "program")
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

func init() {
	roles["thief"] = func(args []string) error {
		answer, err := askPool(args[0], "take\x001\x00"+hull.Version+"\x00")
		fmt.Println(answer)
		return err
	}
	// A pool of its own process; it says when it is ready.
	roles["pool"] = func(args []string) error {
		r := &hull.Runtime{Root: args[0], SandboxProgram: args[1], Warn: func(line string) { fmt.Fprintln(os.Stderr, line) }}
		return r.Pool(context.Background(), hull.PoolOptions{Size: 2, Ready: func() { fmt.Println("ready") }})
	}
}

// askPool sends a message to a pool and returns the answer.
func askPool(root, message string) (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	dir, err := os.Open(root)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/@pool", dir.Fd())}); err != nil {
		return "", err
	}
	if err := unix.Send(fd, []byte(message), unix.MSG_NOSIGNAL); err != nil && err != unix.EPIPE {
		return "", err
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return "", err
	}
	return string(answer[:n]), nil
}

// Whatever is said to a pool, it goes on; and what is taken from it is ended, if who has taken it goes away.
func TestSandboxPoolOfGarbage(t *testing.T) {
	r := pooled(t, 2)
	for _, message := range []string{"\x00", "take", "take\x00", "take\x001\x00\x00\x00\x00", "take\x002\x00x\x00y", "status\x00\xff", strings.Repeat("take\x00", 10000)} {
		answer, err := askPool(r.Root, message)
		if strings.HasPrefix(answer, "ok") {
			t.Errorf("%q: %q, %v", message, answer, err)
		}
	}
	before := parkedCgroups(os.Getpid())
	answer, err := askPool(r.Root, "take\x001\x00"+hull.Version+"\x00"+programID(t, r.SandboxProgram))
	if err != nil || !strings.HasPrefix(answer, "ok\x00") {
		t.Fatalf("%q, %v", answer, err)
	}
	if s, err := r.PoolStatus(); err != nil || s.Taken != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	eventually(t, "what was taken in vain is gone", func() bool {
		now := strings.Join(parkedCgroups(os.Getpid()), "\n")
		gone := 0
		for _, line := range before {
			if !strings.Contains(now, line) {
				gone++
			}
		}
		s, err := r.PoolStatus()
		return gone == len(before)/2 && err == nil && s.Parked == 2
	})
	says(t, mustRun(t, r, args("echo", "fine")), "fine")
}

func mustRun(t *testing.T, r *hull.Runtime, edits ...func(*specs.Spec)) outcome {
	t.Helper()
	got, err := tryRun(t, r, edits...)
	if err != nil {
		t.Fatal(errorText(err))
	}
	return got
}

// Whoever waits for a container and gives it up is not kept waiting, though its process is another's child.
func TestSandboxPoolGivenUp(t *testing.T) {
	c := runningIn(t, pooled(t, 1))
	waited := make(chan error, 1)
	go func() {
		_, err := c.Init().Wait()
		waited <- err
	}()
	time.Sleep(50 * time.Millisecond) // it is the same if Wait comes second, but for what the test then sees
	c.Init().Release()
	select {
	case err := <-waited:
		if err == nil {
			t.Error("it is said to have ended")
		}
	case <-time.After(10 * time.Second):
		t.Error("it is waited for all the same")
	}
}

// A second pool for the same containers is refused; one after another that was killed isn't.
func TestSandboxPoolTwice(t *testing.T) {
	r := pooled(t, 1)
	err := r.Pool(t.Context(), hull.PoolOptions{})
	refused(t, err, hull.ErrExist, "pool of", "1 of 1 ready")
	err = r.Pool(t.Context(), hull.PoolOptions{Size: 1000})
	refused(t, err, hull.ErrBadUsage, "1000", "1 to 256")
	none := newRuntime(t)
	none.Root = t.TempDir()
	_, err = none.PoolStatus()
	refused(t, err, hull.ErrNotExist, "no pool")
}

// poolProcess is a pool in a process that can be killed.
type poolProcess struct {
	*exec.Cmd
	root string
}

func startPoolProcess(t testing.TB, root, program string) *poolProcess {
	t.Helper()
	cmd := actor(t, "pool", root, program)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.LimitReader(out, int64(len("ready\n")))); err != nil || string(b) != "ready\n" {
		t.Fatalf("%q, %v", b, err)
	}
	return &poolProcess{cmd, root}
}

// kill ends it as nobody can expect.
func (p *poolProcess) kill(t testing.TB) {
	t.Helper()
	_ = p.Process.Kill()
	_ = p.Wait()
}

// cgroupProcesses returns how many processes there are in cgroups of what the pool has parked.
func (p *poolProcess) cgroupProcesses() (n int) {
	for _, line := range parkedCgroups(p.Process.Pid) {
		_, pids, _ := strings.Cut(line, ": ")
		n += len(strings.Fields(pids))
	}
	return n
}

// When a pool is killed, what it had parked ends; what was taken goes on; what is left of cgroups the next pool sweeps.
func TestSandboxPoolKilled(t *testing.T) {
	r := newRuntime(t)
	p := startPoolProcess(t, r.Root, r.SandboxProgram)
	c := runningIn(t, r)
	if s, err := r.PoolStatus(); err != nil || s.Taken != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	p.kill(t)
	eventually(t, "parked sandboxes end", func() bool { return p.cgroupProcesses() == 0 })
	wantStatus(t, c, hull.Running)
	says(t, exec1(t, c, verb("echo", "here")), "here")
	if parked := parkedCgroups(p.Process.Pid); len(parked) == 0 {
		t.Log("another pool, of a test that runs beside this one, has swept the cgroups already")
	}
	next := startPoolProcess(t, r.Root, r.SandboxProgram)
	expect(t, nil, parkedCgroups(p.Process.Pid))
	if err := c.Signal(unix.SIGKILL, false); err != nil {
		t.Error(errorText(err))
	}
	expect(t, "signal SIGKILL", wait(t, c.Init()))
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(errorText(err))
	}
	next.kill(t)
	eventually(t, "parked sandboxes end", func() bool { return next.cgroupProcesses() == 0 })
	says(t, mustRun(t, r, args("echo", "alone")), "alone") // and sweeps
	expect(t, nil, parkedCgroups(next.Process.Pid))
	_ = os.Remove(filepath.Join(r.Root, "@pool"))
}

// hull is killed at any moment of making a container in a sandbox of the pool; delete --force takes all away that is left. So does it
// when the pool is killed.
func TestSandboxPoolKilledAtEveryMoment(t *testing.T) {
	r := newRuntime(t)
	s := crashSite{bundle: hulltest.Bundle(t, args("sleep", "3600")), root: r.Root, sandbox: []string{r.SandboxProgram}}
	s.group = readSpec(t, s.bundle).Linux.CgroupsPath
	p := startPoolProcess(t, r.Root, r.SandboxProgram)
	t.Cleanup(func() { p.kill(t) })
	full := func() bool { st, err := r.PoolStatus(); return err == nil && st.Parked == st.Size }
	deadline := time.Now().Add(8 * time.Second)
	for _, op := range []string{"timed create", "timed run"} {
		eventually(t, "the pool is full", full)
		_, ticks := s.die(t, op, 0)
		s.takeAway(t, op)
		for n := 1; n <= ticks+5 && time.Now().Before(deadline) && !t.Failed(); n += max(1, ticks/12) {
			what := fmt.Sprintf("%s killed at %d of %d", op, n, ticks)
			eventually(t, "the pool is full: "+what, full)
			s.die(t, op, n)
			s.takeAway(t, what)
		}
	}
	taken, err := r.PoolStatus()
	if err != nil || taken.Taken < 5 {
		t.Errorf("%+v, %v", taken, err)
	}
	for n := range 6 {
		what := "a pool killed after " + strconv.Itoa(n) + " ms"
		timer := time.AfterFunc(time.Duration(n)*time.Millisecond, func() { _ = p.Process.Kill() })
		s.die(t, "run", 0)
		timer.Stop()
		p.kill(t)
		eventually(t, "parked sandboxes end", func() bool { return p.cgroupProcesses() == 0 })
		s.takeAway(t, what)
		p = startPoolProcess(t, r.Root, r.SandboxProgram)
	}
	p.kill(t)
	eventually(t, "parked sandboxes end", func() bool { return p.cgroupProcesses() == 0 })
	says(t, mustRun(t, r, args("echo", "alone")), "alone") // and sweeps
	expect(t, nil, parkedCgroups(p.Process.Pid))
}

func programID(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	id := ""
	for _, n := range []int64{int64(st.Dev), int64(st.Ino), st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec} {
		id += strconv.FormatInt(n, 36) + "."
	}
	return id
}

// What a container that came to nothing has taken is gone when the server has ended, however soon that is.
func TestSandboxPoolEndsAfterFailure(t *testing.T) {
	for range 10 {
		t.Run("", func(t *testing.T) {
			_, err := tryRun(t, pooled(t, 1), func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/nonexistent/x", Options: []string{"bind"}})
			})
			refused(t, err, unix.ENOENT, "/nonexistent/x")
		})
	}
}

// Whoever takes a sandbox says to it what its container is, however much that is: the socket waits for room, as one of its own does.
func TestSandboxPoolConnectionBlocks(t *testing.T) {
	r := pooled(t, 1)
	taken, err := pool.Take(r.Root, pool.Who{Release: hull.Version, Program: programID(t, r.SandboxProgram)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	flags, err := unix.FcntlInt(taken.Conn.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

// A pool that is told to end waits for nobody who has connected and says nothing. On a busy machine it may be slow for another
// reason.
func TestSandboxPoolEndsBesideSilence(t *testing.T) {
	var took time.Duration
	for range 3 {
		if took = endBesideSilence(t); took < time.Second {
			return
		}
	}
	t.Errorf("ended after %v", took)
}

// endBesideSilence returns how long it takes until such a pool has ended.
func endBesideSilence(t *testing.T) time.Duration {
	r := newRuntime(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Pool(ctx, hull.PoolOptions{Size: 1, Ready: func() { close(ready) }}) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(errorText(err))
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	dir, err := os.Open(r.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/@pool", dir.Fd())}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PoolStatus(); err != nil { // asked after it, so that it was accepted before
		t.Fatal(err)
	}
	cancel()
	begin := time.Now()
	if err := <-ended; err != nil {
		t.Error(errorText(err))
	}
	return time.Since(begin)
}
