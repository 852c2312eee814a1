package hull_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func readSpec(t testing.TB, bundle string) *specs.Spec {
	t.Helper()
	s, err := loadSpec(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func loadSpec(bundle string) (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	s := new(specs.Spec)
	return s, json.Unmarshal(b, s)
}

func resources(edit func(*specs.LinuxResources)) func(*specs.Spec) {
	return func(s *specs.Spec) { edit(s.Linux.Resources) }
}

// Where a limit is, on cgroup v1 and v2.
type limitFile struct{ controller, v1, v2 string }

func (f limitFile) read(t testing.TB, c *hull.Container) string {
	t.Helper()
	if hulltest.CgroupV2.Check() == nil {
		return readFile(t, cgroupFile(t, c, "", f.v2))
	}
	return readFile(t, cgroupFile(t, c, f.controller, f.v1))
}

var (
	memoryMax = limitFile{"memory", "memory.limit_in_bytes", "memory.max"}
	pidsMax   = limitFile{"pids", "pids.max", "pids.max"}
)

func TestLimitsAndUpdate(t *testing.T) {
	c := running(t, resources(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(100))}
	}))
	expect(t, "67108864", memoryMax.read(t, c))
	expect(t, "100", pidsMax.read(t, c))
	for range 2 { // a value that is set already is none to complain of
		if err := c.Update(hull.UpdateOptions{Resources: &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20))},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "33554432", memoryMax.read(t, c))
	expect(t, "100", pidsMax.read(t, c))
	if err := c.Update(hull.UpdateOptions{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}}); err != nil {
		t.Fatal(err)
	}
	expect(t, "max", pidsMax.read(t, c))
	if _, err := os.Stat("/sys/fs/resctrl"); err != nil {
		refused(t, c.Update(hull.UpdateOptions{L3CacheSchema: "L3:0=f"}), hull.ErrUnsupported, "this host's CPU or kernel has no resctrl")
	}
}

func TestPidsLimitHolds(t *testing.T) {
	got := run(t, args("spawn", "50"), resources(func(r *specs.LinuxResources) {
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(20))}
	}))
	if got.Status == "0" || got.Out != "" {
		t.Errorf("%+v: 50 processes where 20 are allowed", got)
	}
}

func TestStats(t *testing.T) {
	out := newSpeaker(t)
	c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("hold", "20000000"))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.want("ready")
	s, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var seen struct {
		CPU    struct{ Usage struct{ Total uint64 } }
		Memory struct{ Usage struct{ Usage uint64 } }
		Pids   struct{ Current uint64 }
	}
	if err := json.Unmarshal(b, &seen); err != nil {
		t.Fatal(err)
	}
	if seen.CPU.Usage.Total == 0 || seen.Memory.Usage.Usage < 20_000_000 || seen.Pids.Current == 0 {
		t.Errorf("%+v of %s", seen, b)
	}
}

func TestOOM(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{}, args("hold", "200000000"), resources(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}
	}))
	events, err := c.OOMEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
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
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	select {
	case <-events:
		for range events {
		}
	case <-time.After(hulltest.Patient(10 * time.Second)):
		t.Error("the channel stays open when the container is gone")
	}
}

// A container with almost nothing works, or fails in words and soon: in five seconds, and where the machine is emulated
// fifty times longer than with no limits.
func TestTightLimits(t *testing.T) {
	hulltest.Bundle(t) // has its program built
	began := time.Now()
	create(t, newRuntime(t), hull.CreateOptions{})
	most := 5*time.Second + 50*time.Since(began)
	for name, edit := range map[string]func(*specs.LinuxResources){
		"1 % of a CPU": func(r *specs.LinuxResources) {
			r.CPU = &specs.LinuxCPU{Quota: ptr(int64(1000)), Period: ptr(uint64(100000))}
		},
		"one process": func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(1))} },
		"1 MiB":       func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: ptr(int64(1 << 20))} },
		"4 KiB":       func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: ptr(int64(4096))} },
		"no memory":   func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: ptr(int64(1))} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t)
			began := time.Now()
			c, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, resources(edit))})
			if took := time.Since(began); took > most {
				t.Errorf("it takes %v, more than %v", took, most)
			}
			if err != nil {
				t.Log(errorText(err))
				return
			}
			remove(t, r, c)
			wantStatus(t, c, hull.Created)
		})
	}
}

// A parked container is a few pages: it must not need more than that of its memory limit.
func TestParkedContainerIsSmall(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{})
	if rss := residentKiB(t, c.Init().Pid); rss > 4096 {
		t.Errorf("%d KiB are resident", rss)
	}
}

func TestExecUnderFullMemory(t *testing.T) {
	out := newSpeaker(t)
	c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("hold", "24000000"), resources(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(40 << 20)), Swap: ptr(int64(40 << 20))}
	}))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.want("ready")
	began := time.Now()
	_, err := tryExec(t, c, verb("true"))
	if err != nil {
		t.Log(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it takes %v", took)
	}
}

// A process that exec adds counts to the container's limits, and is in its cgroup.
func TestExecIsInTheCgroup(t *testing.T) {
	c := running(t)
	spec := c.ProcessSpec()
	spec.Args = hulltest.Args("sleep", "3600")
	p, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec})
	if err != nil {
		t.Fatal(err)
	}
	init, added := readFile(t, procPath(c.Init().Pid, "cgroup")), readFile(t, procPath(p.Pid, "cgroup"))
	expect(t, init, added)
	pids, err := c.Processes()
	if err != nil || len(pids) != 2 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	expect(t, "signal SIGKILL", wait(t, p))
}
