package hull_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/sandbox/wire"
)

// memoryLimit limits memory, without swap.
func memoryLimit(n int64) func(*specs.Spec) {
	return resources(func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: &n, Swap: &n} })
}

// The limits of a container that has joined others hold for its programs, not for the process alone that stands for it on the host;
// and not for others.
func TestSandboxMemberPids(t *testing.T) {
	r, pod := newPod(t)
	limit := func(n int64) *specs.LinuxResources { return &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}} }
	c := runningMember(t, r, pod, "few", func(s *specs.Spec) { s.Linux.Resources = limit(30) })
	other := runningMember(t, r, pod, "many")
	spawn := func(c *hull.Container) string {
		t.Helper()
		got, err := tryExec(t, c, verb("spawn", "40"))
		if err != nil {
			t.Fatal(errorText(err))
		}
		return got.Err
	}
	if got := spawn(c); !strings.Contains(got, "resource temporarily unavailable") {
		t.Errorf("40 processes where 30 are allowed: %q", got)
	}
	for _, step := range []struct {
		c    *hull.Container
		what string
	}{{other, "another container"}, {c, "with a new limit"}} {
		if step.c == c {
			if err := c.Update(hull.UpdateOptions{Resources: limit(1000)}); err != nil {
				t.Fatal(errorText(err))
			}
		}
		out := newSpeaker(t)
		spec := step.c.ProcessSpec()
		spec.Args = hulltest.Args("spawn", "40")
		p, err := step.c.Exec(t.Context(), hull.ExecOptions{Process: spec, Stdio: hull.Stdio{Out: out.W}})
		if err != nil {
			t.Fatal(errorText(err))
		}
		out.want("ready")
		if s, err := step.c.Stats(); err != nil || s.Pids.Current < 40 {
			t.Errorf("%s: %+v, %v", step.what, s.Pids, err)
		}
		if err := p.Signal(unix.SIGKILL); err != nil {
			t.Error(err)
		}
		wait(t, p)
	}
}

// A container that wants more memory than it may have is ended, and its engine is told why; the others go on.
func TestSandboxMemberMemory(t *testing.T) {
	r, pod := newPod(t)
	other := runningMember(t, r, pod, "other")
	c := member(t, r, pod, "greedy", hull.CreateOptions{}, args("hold", "200000000"), memoryLimit(64<<20))
	events, err := c.OOMEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, "signal SIGKILL", wait(t, c.Init()))
	select {
	case _, ok := <-events:
		if !ok {
			t.Error("closed without an event")
		}
	case <-time.After(hulltest.Patient(10 * time.Second)):
		t.Error("no event")
	}
	says(t, exec1(t, other, verb("echo", "goes on")), "goes on")

	// One that is content with less is left alone until its limit is.
	out := newSpeaker(t)
	c = member(t, r, pod, "content", hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("hold", "30000000"), memoryLimit(64<<20))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	out.want("ready")
	time.Sleep(time.Second)
	wantStatus(t, c, hull.Running)
	s, err := c.Stats()
	if err != nil || s.Memory.Usage.Usage < 30_000_000 || s.Memory.Usage.Usage > 64<<20 || s.Memory.Usage.Limit != 64<<20 {
		t.Errorf("%+v, %v", s.Memory, err)
	}
	less := int64(20 << 20)
	if err := c.Update(hull.UpdateOptions{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &less, Swap: &less}}}); err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, "signal SIGKILL", wait(t, c.Init()))
}

// While nothing runs limits are looked at rarely, near as they may be; they hold as before when something does.
func TestSandboxMemberLimitsWhileIdle(t *testing.T) {
	r, pod := newPod(t)
	out := newSpeaker(t)
	c := member(t, r, pod, "a", hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("hold", "50000000"), memoryLimit(64<<20), func(s *specs.Spec) {
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(int64(100_000)), Period: ptr(uint64(100_000))}
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	out.want("ready")
	time.Sleep(500 * time.Millisecond)
	before := switches(t, pod.Init().Pid)
	time.Sleep(2 * time.Second)
	if n := switches(t, pod.Init().Pid) - before; n > 100 {
		t.Errorf("its kernel has waited %d times for something in two seconds", n)
	}
	if got, err := tryExec(t, c, verb("hold", "100000000")); err != nil || got.Status != "signal SIGKILL" {
		t.Errorf("%+v, %v", got, err)
	}
}

// switches returns how often the threads of a process have gone to sleep.
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of %d: %v", pid, err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		count, _, _ := strings.Cut(rest, "\n")
		one, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil {
			t.Fatal(err)
		}
		n += one
	}
	return n
}

// What a container's limit takes away is what it has the most of: not the program that waits for it.
func TestSandboxMemberMemoryOfChild(t *testing.T) {
	r, pod := newPod(t)
	c := runningMember(t, r, pod, "a", memoryLimit(64<<20))
	got, err := tryExec(t, c, verb("hold", "200000000"))
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, "signal SIGKILL", got.Status)
	wantStatus(t, c, hull.Running)
	says(t, exec1(t, c, verb("echo", "goes on")), "goes on")
}

func TestSandboxMemberCPU(t *testing.T) {
	r, pod := newPod(t)
	limit := func(percent int64) *specs.LinuxResources {
		quota, period := percent*1000, uint64(100_000)
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
	}
	c := runningMember(t, r, pod, "slow", func(s *specs.Spec) { s.Linux.Resources = limit(20) })
	used := func() time.Duration {
		t.Helper()
		s, err := c.Stats()
		if err != nil {
			t.Fatal(errorText(err))
		}
		return time.Duration(s.CPU.Usage.Total)
	}
	spec := c.ProcessSpec()
	spec.Args = hulltest.Args("spin", "3600")
	p, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec})
	if err != nil {
		t.Fatal(errorText(err))
	}
	share := func() float64 {
		t.Helper()
		before, began := used(), time.Now()
		time.Sleep(4 * time.Second)
		return float64(used()-before) / float64(time.Since(began))
	}
	time.Sleep(time.Second)
	if got := share(); got < 0.01 || got > 0.35 {
		t.Errorf("%.2f of a processor's time, want 0.2", got)
	}
	if err := c.Update(hull.UpdateOptions{Resources: limit(-100)}); err != nil {
		t.Fatal(errorText(err))
	}
	if got := share(); got < 0.5 {
		t.Errorf("%.2f of a processor's time without a limit", got)
	}
	// What is stopped at the moment is ended all the same.
	if err := c.Update(hull.UpdateOptions{Resources: limit(1)}); err != nil {
		t.Fatal(errorText(err))
	}
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(errorText(err))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("delete takes %v", took)
	}
	expect(t, "signal SIGKILL", wait(t, p))
}

// Programs that size their heaps by how much memory there is are told what the container may have, or else what the host has.
func TestSandboxMemoryTotal(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		t.Fatal(err)
	}
	parked := pooled(t, 2)
	for name, tt := range map[string]struct {
		r     *hull.Runtime
		limit int64
		want  uint64
	}{
		"limit":              {newRuntime(t), 256 << 20, 256 << 20},
		"limit, of a pool":   {parked, 256 << 20, 256 << 20},
		"none":               {newRuntime(t), -1, host.Totalram * uint64(host.Unit)},
		"none, of a pool":    {parked, -1, host.Totalram * uint64(host.Unit)},
		"more than is there": {newRuntime(t), 1 << 50, host.Totalram * uint64(host.Unit)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tryRun(t, tt.r, args("cat", "/proc/meminfo"), resources(func(r *specs.LinuxResources) {
				r.Memory = &specs.LinuxMemory{Limit: &tt.limit}
			}))
			if err != nil {
				t.Fatal(errorText(err))
			}
			fields := strings.Fields(got.Out)
			if len(fields) < 2 {
				t.Fatalf("%+v", got)
			}
			expect(t, fmt.Sprint("MemTotal: ", tt.want/1024), fields[0]+" "+fields[1])
		})
	}
}

// A container finds its own limits where programs look for them, and can't change them.
func TestSandboxMemberCgroup(t *testing.T) {
	r, pod := newPod(t)
	c := runningMember(t, r, pod, "a", memoryLimit(64<<20), writableCgroup, func(s *specs.Spec) {
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(50))}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(int64(150_000)), Period: ptr(uint64(100_000))}
	})
	for file, want := range map[string]string{"memory.max": "67108864", "pids.max": "50", "cpu.max": "150000 100000"} {
		says(t, exec1(t, c, verb("cat", "/sys/fs/cgroup/"+file)), want)
	}
	says(t, exec1(t, c, verb("cat", "/proc/self/cgroup")), "0::/")
	for _, file := range []string{"pids.max", "cgroup.max.depth", "cgroup.max.descendants"} {
		got, err := tryExec(t, c, verb("write", "/sys/fs/cgroup/"+file, "max"))
		if err != nil || got.Status == "0" {
			t.Errorf("%s: %+v, %v", file, got, err)
		}
	}
}

// A container's cgroup goes with it, also if programs have left some below.
// They can't be so deep that the kernel runs out of memory by their paths.
func TestSandboxMemberCgroupsGo(t *testing.T) {
	r, pod := newPod(t)
	for name, tt := range map[string]struct {
		programs [][]string
		most     bool // the last makes more than there may be
	}{
		"few":  {[][]string{{"mkdir", "a"}, {"mkdir", "a/b"}, {"mkdir", "a/b/c"}, {"mkdir", "a/d"}, {"mkdir", "e"}}, false},
		"deep": {[][]string{{"nest", ".", "3000"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := runningMember(t, r, pod, name, func(s *specs.Spec) {
				writableCgroup(s)
				s.Process.Cwd = "/sys/fs/cgroup"
			})
			var last outcome
			for _, p := range tt.programs {
				last = exec1(t, c, verb(p[0], p[1:]...))
			}
			if full := strings.Contains(last.Err, "resource temporarily unavailable"); full != tt.most || last.Err != "" && !tt.most {
				t.Errorf("%+v", last)
			}
			if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
				t.Fatal(errorText(err))
			}
			if text := readFile(t, filepath.Join(pod.Dir(), wire.Log)); strings.Contains(text, ": cgroup ") {
				t.Errorf("it was not removed: %s", text)
			}
			_, peak, _ := strings.Cut(readFile(t, procPath(pod.Init().Pid, "status")), "\nVmHWM:")
			if kib, err := strconv.Atoi(strings.Fields(peak)[0]); err != nil || kib > 500<<10 {
				t.Errorf("its kernel has had %d KiB of memory (%v)", kib, err)
			}
		})
	}
}

// What a sandbox's kernel can't hold for one container is said, when it is made and when it is changed.
func TestSandboxMemberLimitsNotHeld(t *testing.T) {
	r, pod := newPod(t)
	var warnings []string
	r.Warn = func(s string) { warnings = append(warnings, s) }
	shares := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(100))}}
	c := runningMember(t, r, pod, "a", func(s *specs.Spec) { s.Linux.Resources = shares })
	if err := c.Update(hull.UpdateOptions{Resources: shares}); err != nil {
		t.Fatal(errorText(err))
	}
	if len(warnings) != 2 || !strings.HasPrefix(warnings[0], "linux.resources.cpu.shares: not held") || warnings[1] != warnings[0] {
		t.Errorf("%q", warnings)
	}
}

// Limits of processes that nothing in the sandbox's kernel looks at are told; those that it holds aren't.
func TestSandboxProcessLimitsNotHeld(t *testing.T) {
	r := newRuntime(t)
	var warnings []string
	r.Warn = func(s string) { warnings = append(warnings, s) }
	create(t, r, hull.CreateOptions{}, args("true"), func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 9, Hard: 9}, {Type: "RLIMIT_SIGPENDING", Soft: 1, Hard: 1}}
	})
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0], `process.rlimits[1] "RLIMIT_SIGPENDING": shown to the program, but not held`) {
		t.Errorf("%q", warnings)
	}
}

// What programs of a container say of themselves doesn't keep them from being killed when they have more memory than it may have.
// Unlike Linux, the sandbox's kernel lets anybody lower oom_score_adj.
func TestSandboxMemberMemoryOfThoseThatHide(t *testing.T) {
	r, pod := newPod(t)
	hold := func(adj, bytes string) []string {
		return []string{"write", "/proc/self/oom_score_adj", adj, ",", "zombie", ",", "hold", bytes}
	}
	t.Run("never to be killed", func(t *testing.T) {
		c := runningMember(t, r, pod, "never", memoryLimit(64<<20), args("do", hold("-1000", "200000000")...))
		expect(t, "signal SIGKILL", wait(t, c.Init()))
	})
	t.Run("behind a zombie", func(t *testing.T) {
		c := runningMember(t, r, pod, "zombie", memoryLimit(64<<20), args("do", hold("-999", "20000000")...))
		got, err := tryExec(t, c, verb("do", hold("-999", "50000000")...))
		if err != nil {
			t.Fatal(errorText(err))
		}
		expect(t, "signal SIGKILL", got.Status)
		says(t, exec1(t, c, verb("echo", "goes on")), "goes on")
	})
}

// Many programs that are too much together are ended soon, not one in a second.
func TestSandboxMemberMemoryOfMany(t *testing.T) {
	r, pod := newPod(t)
	c := runningMember(t, r, pod, "many", memoryLimit(16<<20))
	var all []*hull.Process
	for range 12 {
		spec := c.ProcessSpec()
		spec.Args = hulltest.Args("hold", "20000000")
		p, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec})
		if err != nil {
			t.Fatal(errorText(err))
		}
		all = append(all, p)
	}
	began := time.Now()
	for _, p := range all {
		expect(t, "signal SIGKILL", wait(t, p))
	}
	if took, most := time.Since(began), hulltest.Patient(6*time.Second); took > most {
		t.Errorf("it takes %v until all have ended", took)
	}
}

// What grows while those that were killed are waited for is not waited for, be it memory of files.
func TestSandboxMemberMemoryOfGrowingFile(t *testing.T) {
	r, pod := newPod(t)
	c := runningMember(t, r, pod, "growing", memoryLimit(192<<20), mounting(specs.Mount{Destination: "/t", Type: "tmpfs", Source: "t"}))
	start := func(program ...string) *hull.Process {
		t.Helper()
		spec := c.ProcessSpec()
		spec.Args = hulltest.Args(program[0], program[1:]...)
		p, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec})
		if err != nil {
			t.Fatal(errorText(err))
		}
		return p
	}
	var before []*hull.Process // which are killed
	for range 7 {
		before = append(before, start("sleep", "3600"))
	}
	began := time.Now()
	p := start("do", "write", "/proc/self/oom_score_adj", "-1000", ",", "grow", "/t/file")
	expect(t, "signal SIGKILL", wait(t, p))
	took := time.Since(began)
	for _, p := range before {
		expect(t, "signal SIGKILL", wait(t, p))
	}
	if most := hulltest.Patient(2500 * time.Millisecond); took > most {
		t.Errorf("it grows for %v, want at most %v", took, most)
	}
}

// What the kernel does for a program that waits for it counts: a container that has been idle is looked at while its memory grows.
func TestSandboxMemberMemoryWhileWaiting(t *testing.T) {
	r, pod := newPod(t)
	c := runningMember(t, r, pod, "waiting", memoryLimit(64<<20))
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	got, err := tryExec(t, c, verb("aio", "2000000000"))
	if err != nil {
		t.Fatal(errorText(err))
	}
	took := time.Since(began)
	expect(t, "signal SIGKILL", got.Status)
	var used int
	_, text, _ := strings.Cut(readFile(t, filepath.Join(pod.Dir(), wire.Log)), "waiting: ")
	if _, err := fmt.Sscanf(text, "%d bytes", &used); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	// Each of them alone may be so on a machine that is slow, or fast.
	if used > 250_000_000 && took > 900*time.Millisecond {
		t.Errorf("it has had %d bytes of memory, and was ended after %v", used, took)
	}
}

// Whoever asks what a container uses while it ends gets an answer, or none: the others of its sandbox go on.
func TestSandboxMemberCountAmidEnd(t *testing.T) {
	r, pod := newPod(t)
	socket := filepath.Join(pod.Dir(), wire.Control)
	count := func() {
		conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		defer unix.Close(conn)
		if unix.Connect(conn, &unix.SockaddrUnix{Name: socket}) == nil && wire.Send(conn, wire.Request{Op: wire.Count, Container: "a"}) == nil {
			var reply wire.Reply
			_, _ = wire.Receive(conn, &reply, 0)
		}
	}
	for range 20 {
		c := runningMember(t, r, pod, "a", memoryLimit(64<<20))
		over := make(chan struct{})
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() {
				for {
					select {
					case <-over:
						return
					default:
						count()
					}
				}
			})
		}
		err := c.Delete(t.Context(), hull.DeleteOptions{Force: true})
		close(over)
		asking.Wait()
		if err != nil {
			t.Fatal(errorText(err))
		}
	}
	says(t, exec1(t, pod, verb("echo", "goes on")), "goes on")
}
