package cgroup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hull/hulltest"
	"hull/internal/fault"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// The library that tests compare with keeps a descriptor of the mount for good.
	_, _ = cgroups.ReadFile(mountRoot, procsFile)
	os.Exit(hulltest.NoLeaks(m))
}

// controller is the need of a controller that containers can be limited by.
func controller(name string) hulltest.Need {
	return hulltest.Need{Name: "controller-" + name, Check: func() error {
		g := &Group{mode: Detect()}
		if g.mode != V2 {
			var err error
			if g.paths, err = cgroupfsPaths(g.mode, "/x", "x"); err != nil {
				return err
			}
		}
		have, err := g.controllers()
		if err == nil && !have(name) {
			err = errors.New("this host has none")
		}
		return err
	}}
}

// v1 is the need of v1 hierarchies to put containers in.
var v1 = hulltest.Need{Name: "cgroup1", Check: func() error {
	if Detect() == V2 {
		return errors.New("this host has v2 alone")
	}
	return nil
}}

var testCgroups int

// newConfig returns a Config of a cgroup that no other test uses.
func newConfig(t testing.TB, r *specs.LinuxResources) Config {
	testCgroups++
	return Config{Path: fmt.Sprintf("/%s-%d", hulltest.Token(t), testCgroups), ID: "c", Resources: r}
}

// newGroup makes a group that is removed with the test, and whatever runs in it.
func newGroup(t testing.TB, c Config) *Group {
	t.Helper()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := g.Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := g.Destroy(ctx); err != nil {
			t.Error(err)
		}
		if g.Exists() {
			t.Error("cgroups are left")
		}
	})
	return g
}

// startIn starts a process and moves it into g.
func startIn(t testing.TB, g *Group, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(args[0], args[1:]...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	if err := g.Add(context.Background(), c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return c
}

func ptr[T any](v T) *T { return &v }

func TestLife(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	ctx := context.Background()
	g := newGroup(t, newConfig(t, nil))
	if err := g.Limit(ctx); err != nil {
		t.Fatal(err)
	}
	c := startIn(t, g, "sleep", "100")
	pids, err := g.Pids(true)
	if err != nil || !slices.Equal(pids, []int{c.Process.Pid}) {
		t.Fatalf("Pids = %v, %v, want %d", pids, err, c.Process.Pid)
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(c.Process.Pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for controller, path := range parseCgroupFile(data) {
		if g.Path(controller) != "" && filepath.Base(path) != filepath.Base(g.Path(controller)) {
			t.Errorf("in hierarchy %q the process is in %s, want %s", controller, path, g.Path(controller))
		}
	}

	// Another command opens what was saved.
	saved, err := json.Marshal(g.State())
	if err != nil {
		t.Fatal(err)
	}
	var state State
	if err := json.Unmarshal(saved, &state); err != nil {
		t.Fatal(err)
	}
	other, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Fatalf("Frozen = %v, %v after Freeze", frozen, err)
	}
	if err := other.Thaw(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || frozen {
		t.Fatalf("Frozen = %v, %v after Thaw", frozen, err)
	}
	s, err := other.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Pids.Current != 1 {
		t.Errorf("Stats say %d processes, want 1", s.Pids.Current)
	}
	if err := other.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	go c.Process.Wait()
	if err := other.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(true); err != nil || len(pids) > 0 {
		t.Fatalf("Pids = %v, %v after Kill", pids, err)
	}
	for range 2 { // a second time is no mistake
		if err := other.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if g.Exists() {
		t.Error("cgroups are left after Destroy")
	}
}

// A cgroup that another container is in is refused before anything is made, and stays as it is.
func TestRefuseInUse(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	c := newConfig(t, nil)
	g := newGroup(t, c)
	again, err := New(c)
	if err != nil {
		t.Fatalf("New on an existing empty cgroup: %v", err)
	}
	startIn(t, g, "sleep", "100")
	if _, err := New(c); !errors.Is(err, fault.BadState) || !errors.Is(err, errNotEmpty) {
		t.Errorf("New on a cgroup in use: %v", err)
	}
	if err := again.Create(); !errors.Is(err, errNotEmpty) {
		t.Errorf("Create on a cgroup in use: %v", err)
	}
	if !g.Exists() {
		t.Error("the refused Create removed the cgroup")
	}
}

func TestRefuseFrozen(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	c := newConfig(t, nil)
	g := newGroup(t, c)
	if err := g.Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer g.Thaw()
	if _, err := New(c); !errors.Is(err, errFrozen) {
		t.Errorf("New on a frozen cgroup: %v", err)
	}
}

// A container that makes cgroups of its own and forks on and on is killed, and all of it removed.
func TestKillForkingTree(t *testing.T) {
	hulltest.Require(t, hulltest.Root, controller("pids"))
	ctx := context.Background()
	g := newGroup(t, newConfig(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(50))}}))
	if err := g.Limit(ctx); err != nil {
		t.Fatal(err)
	}
	startIn(t, g, "sh", "-c", `while :; do sleep 1 & sleep 0.01; done 2>/dev/null`)
	sub := g.any() + "/own"
	if err := os.MkdirAll(sub+"/deeper", 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sleep", "100")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := writePid(sub+"/deeper", c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	go c.Process.Wait()
	time.Sleep(50 * time.Millisecond)
	if pids, err := g.Pids(true); err != nil || !slices.Contains(pids, c.Process.Pid) {
		t.Errorf("Pids(true) = %v, %v, without %d of a cgroup below", pids, err, c.Process.Pid)
	}
	if pids, err := g.Pids(false); err != nil || slices.Contains(pids, c.Process.Pid) {
		t.Errorf("Pids(false) = %v, %v, with %d of a cgroup below", pids, err, c.Process.Pid)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
}

// A container that has frozen processes in cgroups of its own is killed all the same: on v1 those don't die while they
// are frozen.
func TestKillFrozenBelow(t *testing.T) {
	hulltest.Require(t, hulltest.Root, v1, controller("freezer"))
	g := newGroup(t, newConfig(t, nil))
	c := startIn(t, g, "sleep", "100")
	sub := filepath.Join(g.Path("freezer"), "own", "deeper")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writePid(sub, c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := freezeV1(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	defer writeFile(sub, "freezer.state", "THAWED")
	go c.Process.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		t.Error(err)
	}
}

// In cgroup.procs of v2, processes from outside of the reader's pid namespace are 0, which to kill(2) is the caller's
// process group.
func TestSignalSparesTheCaller(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{procsFile: "0\n0\n", "cgroup.freeze": "0\n", "cgroup.events": "frozen 1\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan os.Signal, 1)
	signal.Notify(got, unix.SIGWINCH)
	defer signal.Stop(got)
	g := &Group{mode: V2, paths: map[string]string{unified: dir}}
	if err := g.Signal(t.Context(), unix.SIGWINCH); !errors.Is(err, fault.Unsupported) {
		t.Errorf("%v, want that they can't be reached", err)
	}
	select {
	case <-got:
		t.Error("the caller got the signal")
	case <-time.After(20 * time.Millisecond):
	}
}

// TestMoveSelf joins as the stub does: "0" to each of TaskFiles, by a process of one thread.
func TestMoveSelf(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	hulltest.Require(t, v1)
	g := newGroup(t, newConfig(t, nil))
	script := "for f in " + strings.Join(g.TaskFiles(), " ") + "; do echo 0 >$f || exit 1; done; exec cat /proc/self/cgroup"
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	own := parseCgroupFile(out)
	for _, d := range g.dirs() {
		if c := d.controllers[0]; c != unified && filepath.Base(d.path) != filepath.Base(own[c]) {
			t.Errorf("the process is in %s of %s, want %s", own[c], c, d.path)
		}
	}
}

func TestJoinSub(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	ctx := context.Background()
	g := newGroup(t, newConfig(t, nil))
	startIn(t, g, "sleep", "100")
	for _, d := range g.dirs() {
		if err := mkdir(d.path + "/sub"); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(d.controllers, "cpuset") {
			if err := inheritCpuset(d.path + "/sub"); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := exec.Command("sleep", "100")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go c.Process.Wait()
	in := func(dir string) bool {
		pids, err := readPids(dir)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(pids, c.Process.Pid)
	}
	if _, err := g.Join(ctx, c.Process.Pid, 0, "/sub"); err != nil {
		t.Fatal(err)
	}
	for _, d := range g.dirs() {
		if !in(d.path + "/sub") {
			t.Errorf("not in %s/sub", d.path)
		}
	}
	if g.mode != V2 {
		if _, err := g.Join(ctx, c.Process.Pid, 0, "cpu,memory:/", "pids:sub"); err != nil {
			t.Fatal(err)
		}
		if !in(g.Path("cpu")) || !in(g.Path("memory")) || !in(g.Path("pids")+"/sub") || !in(g.Path("blkio")) {
			t.Error("not where the controllers' own sub-cgroups say")
		}
	}
	for _, bad := range []string{"../..", "/sub/../../x", "nosuch:/sub"} {
		if _, err := g.Join(ctx, c.Process.Pid, 0, bad); err == nil {
			t.Errorf("Join %q is accepted", bad)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, s := range []State{
		{Mode: "v3"},
		{Mode: "v2", Paths: map[string]string{"": "sys/fs/cgroup/a"}},
		{Mode: "v2", Paths: map[string]string{"": "/sys/fs/cgroup/../../etc"}},
		{Mode: "v1", Paths: map[string]string{"cpu": "/"}},
		{Mode: "v2", Paths: map[string]string{"": "/sys/fs/cgroup"}},
		{Mode: "v2", Paths: map[string]string{"": "/etc/passwd"}},
	} {
		if g, err := Open(s); err == nil {
			t.Errorf("Open(%+v) = %+v", s, g)
		}
	}
}

// Who names a unit where systemd isn't asked is told that it is taken for a path, as other runtimes take it.
func TestUnitWithoutSystemd(t *testing.T) {
	for path, told := range map[string]bool{
		"kubepods-pod1.slice:cri-containerd:c1": true,
		":hull:c1":                              true,
		"machine.slice::c1.slice":               true,
		"/machine.slice:hull:c1":                false,
		"machine.slice/c1":                      false,
		"a:b:c":                                 false,
		"machine.slice:c1":                      false,
	} {
		g := &Group{mode: Detect()}
		if err := g.locate(Config{Path: path, ID: "c1"}); err != nil {
			t.Errorf("%q: %v", path, err)
		}
		warnings := g.Warnings()
		if got := len(warnings) == 1; got != told {
			t.Errorf("%q: warnings %q, want one: %t", path, warnings, told)
		} else if told && !(strings.HasPrefix(warnings[0], "linux.cgroupsPath: "+quote(path)) && strings.Contains(warnings[0], "--systemd-cgroup")) {
			t.Errorf("%q: %s", path, warnings[0])
		}
	}
}

// A cgroup that is known by a configuration alone may not be one with others in it than a container's.
func TestNamedRefuses(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	for path, why := range map[string]string{
		"":                          "is relative",
		"relative":                  "is relative",
		"/":                         "is not below",
		"/../..":                    "is not below",
		"system.slice:x:a.slice":    "",
		":x:user.slice":             "",
		"system.slice/../x:y:z":     "",
		"no-slice:x:hulltest-named": "",
	} {
		if g, err := Named(path, false); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("Named(%q) = %+v, %v; want %q", path, g, err, why)
		}
	}
	own, err := ownCgroups()
	if err != nil {
		t.Fatal(err)
	}
	for controller, path := range own {
		if path == "/" {
			continue
		}
		if g, err := Named(path, false); err == nil && g.Exists() {
			t.Errorf("of this process in %q, Named(%q) = %+v", controller, path, g)
		}
	}
	g, err := Named("/hulltest-named", false)
	if err != nil || g.Exists() {
		t.Fatalf("of none: %+v, %v", g, err)
	}
	for path, want := range map[string]bool{"": true, "/below": true, "-other": false} {
		s := State{Paths: map[string]string{"x": g.dirs()[0].path + path}}
		if g.Overlaps(s) != want {
			t.Errorf("Overlaps(%v), want %v", s, want)
		}
	}
	if !g.Overlaps(State{Paths: map[string]string{"x": filepath.Dir(g.dirs()[0].path)}}) {
		t.Error("what it is in doesn't overlap")
	}
}

// The weight of an idle group comes back with another in the same update.
func TestUnidle(t *testing.T) {
	hulltest.Require(t, hulltest.Root, controller("cpu"))
	ctx := context.Background()
	g := newGroup(t, newConfig(t, &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(100))}}))
	if err := g.Limit(ctx); err != nil {
		t.Fatal(err)
	}
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(0)), Shares: ptr(uint64(2048))}}
	if err := g.Set(ctx, r); err != nil {
		t.Fatal(err)
	}
	dir, file, want := g.Path("cpu"), "cpu.shares", uint64(2048)
	if g.mode == V2 {
		dir, file, want = g.Path(unified), "cpu.weight", weightOfShares(2048)
	}
	if n, err := readUint(dir, file); err != nil || n != want {
		t.Errorf("%s = %d, %v, want %d", file, n, err, want)
	}
}

// A limit that the host has no controller or file for is an error with its field, before anything is made or as the
// kernel says.
func TestAbsent(t *testing.T) {
	hulltest.Require(t, hulltest.Root, v1)
	if _, err := New(newConfig(t, &specs.LinuxResources{
		Rdma: map[string]specs.LinuxRdma{"mlx": {HcaHandles: ptr(uint32(1))}}})); Detect() != V2 && mounted("rdma") == "" {
		if !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), `linux.resources.rdma["mlx"]: `) {
			t.Errorf("rdma without its controller: %v", err)
		}
	}
	g := newGroup(t, newConfig(t, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(10))}}))
	if exists(g.Path("blkio") + "/blkio.leaf_weight") {
		t.Skip("this kernel has leaf weights")
	}
	err := g.Limit(context.Background())
	if !errors.Is(err, fault.Unsupported) || !strings.HasPrefix(err.Error(), "linux.resources.blockIO.leafWeight: ") {
		t.Errorf("leaf weight without its file: %v", err)
	}
}

func mounted(controller string) string {
	hs, _ := hierarchies()
	return mountedAt(hs, controller)
}

func TestCheckBeforeUpdate(t *testing.T) {
	hulltest.Require(t, hulltest.Root, controller("memory"))
	g := newGroup(t, newConfig(t, nil))
	startIn(t, g, "sh", "-c", `x=$(head -c 10000000 /dev/zero | tr '\0' a); sleep 100`)
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		s, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.Memory.Usage.Usage > 4<<20 {
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("the shell uses %d bytes only", s.Memory.Usage.Usage)
		}
	}
	err := g.Set(context.Background(), &specs.LinuxResources{Memory: &specs.LinuxMemory{
		Limit: ptr(int64(1 << 20)), CheckBeforeUpdate: ptr(true)}})
	if !errors.Is(err, fault.BadSpec) || !strings.Contains(err.Error(), "linux.resources.memory.limit: 1048576: the container uses") {
		t.Errorf("a limit below what is in use: %v", err)
	}
}

func TestStatsJSON(t *testing.T) {
	s := Stats{Hugetlb: map[string]HugetlbStats{}, IntelRdt: struct{}{}}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cpu":{},"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,` +
		`"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,` +
		`"sched_relax_domain_level":0},"memory":{},"pids":{},"blkio":{},"hugetlb":{},"intel_rdt":{},` +
		`"network_interfaces":null}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkStart(b *testing.B) {
	hulltest.Require(b, hulltest.Root)
	ctx := context.Background()
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	if Detect() != V2 {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(512 << 20)), Swap: ptr(int64(512 << 20))}
		r.CPU = &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(100))}
	}
	var plan, create, limit, destroy time.Duration
	for b.Loop() {
		t0 := time.Now()
		g, err := New(newConfig(b, r))
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := g.Create(); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		if err := g.Limit(ctx); err != nil {
			b.Fatal(err)
		}
		t3 := time.Now()
		if err := g.Destroy(ctx); err != nil {
			b.Fatal(err)
		}
		plan, create, limit, destroy = plan+t1.Sub(t0), create+t2.Sub(t1), limit+t3.Sub(t2), destroy+time.Since(t3)
	}
	for _, p := range []struct {
		name string
		d    time.Duration
	}{{"plan", plan}, {"create", create}, {"limit", limit}, {"destroy", destroy}} {
		b.ReportMetric(float64(p.d.Microseconds())/float64(b.N), p.name+"-µs/op")
	}
}

// TestEmptyParents gives a cpuset below others that somebody made and left empty what they should have had.
func TestEmptyParents(t *testing.T) {
	hulltest.Require(t, hulltest.Root, controller("cpuset"))
	c := newConfig(t, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}})
	top := c.Path
	c.Path += "/a/b"
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if g.paths["cpuset"] == "" {
		t.Skip("needs cgroup v1's cpuset")
	}
	t.Cleanup(func() {
		for _, d := range g.dirs() {
			for dir := filepath.Dir(d.path); strings.Contains(dir, top); dir = filepath.Dir(dir) {
				os.Remove(dir)
			}
		}
	})
	if err := os.MkdirAll(filepath.Dir(g.paths["cpuset"]), 0o755); err != nil {
		t.Fatal(err)
	}
	g = newGroup(t, c)
	startIn(t, g, "sleep", "100")
	if got, err := readFile(g.paths["cpuset"], "cpuset.cpus"); err != nil || strings.TrimSpace(got) != "0" {
		t.Errorf("cpuset.cpus %q, %v", got, err)
	}
}
