package rdt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/fault"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// fake is a tree of directories that looks like resctrl and does what the kernel does to new groups. What is written to
// a schemata file replaces it.
type fake struct {
	resctrl
	refuse map[string]error // by file or directory, what writing or making it gives
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{refuse: make(map[string]error)}
	root := t.TempDir()
	f.resctrl = resctrl{root: root, mkdir: f.makeGroup, rmdir: f.removeGroup, write: f.writeFile}
	for name, text := range map[string]string{
		"schemata":               "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n",
		"tasks":                  "1\n",
		"info/last_cmd_status":   "ok\n",
		"info/L3/cbm_mask":       "7ff\n",
		"info/MB/bandwidth_gran": "10\n",
		"mon_groups/README":      "",
	} {
		f.put(t, name, text)
	}
	return f
}

func (f *fake) put(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(f.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) makeGroup(dir string) error {
	if err := f.refuse[f.rel(dir)]; err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if filepath.Base(filepath.Dir(dir)) != "mon_groups" {
		if err := os.Mkdir(filepath.Join(dir, "mon_groups"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "schemata"), []byte("    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n"), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "tasks"), nil, 0o644)
}

func (f *fake) removeGroup(dir string) error {
	if err := f.refuse["rmdir "+f.rel(dir)]; err != nil {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	if !exists(dir) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: unix.ENOENT}
	}
	return os.RemoveAll(dir)
}

func (f *fake) writeFile(file, text string) error {
	if err := f.refuse[f.rel(file)]; err != nil {
		return &os.PathError{Op: "write", Path: file, Err: err}
	}
	return os.WriteFile(file, []byte(text), 0)
}

func (f *fake) rel(path string) string {
	rel, err := filepath.Rel(f.root, path)
	if err != nil {
		panic(err)
	}
	return rel
}

// groups returns the groups other than the default one, with what is in their schemata if hull has written it.
func (f *fake) groups(t *testing.T) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(f.root, func(path string, _ os.DirEntry, err error) error {
		if rel := f.rel(path); filepath.Base(path) == "tasks" && rel != "tasks" {
			s.WriteString(filepath.Dir(rel))
			if text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "schemata")); err == nil && !strings.HasPrefix(string(text), " ") {
				s.WriteString(": " + strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", " "))
			}
			s.WriteByte('\n')
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

type rdtSpec = specs.LinuxIntelRdt

func TestGroup(t *testing.T) {
	gold := map[string]string{"gold/schemata": "    MB:0= 20;1= 70\n    L3:0=7f0;1=01f\n", "gold/tasks": "7\n", "gold/mon_groups/x": ""}
	tests := map[string]struct {
		before  map[string]string // files
		spec    rdtSpec
		created string // groups
		tasks   string
		left    string // groups after Destroy
	}{
		"empty": {nil, rdtSpec{}, "web1\n", "web1/tasks", ""},
		"schemas": {nil, rdtSpec{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", Schemata: []string{"L3:1=f", "MB:1=30"}},
			"web1: L3:0=f MB:0=20 L3:1=f MB:1=30\n", "web1/tasks", ""},
		"monitored":                {nil, rdtSpec{EnableMonitoring: true}, "web1/mon_groups/web1\nweb1\n", "web1/tasks web1/mon_groups/web1/tasks", ""},
		"another's":                {map[string]string{"web1/schemata": " ", "web1/tasks": ""}, rdtSpec{L3CacheSchema: "L3:0=f"}, "web1: L3:0=f\n", "web1/tasks", "web1: L3:0=f\n"},
		"default class":            {nil, rdtSpec{ClosID: "/"}, "", "tasks", ""},
		"default class, monitored": {nil, rdtSpec{ClosID: "/", EnableMonitoring: true}, "mon_groups/web1\n", "tasks mon_groups/web1/tasks", ""},
		"default class, as it is":  {nil, rdtSpec{ClosID: "/", Schemata: []string{"L3:1=7ff"}}, "", "tasks", ""},
		"new class":                {nil, rdtSpec{ClosID: "gold", Schemata: []string{"L3:0=f"}}, "gold: L3:0=f\n", "gold/tasks", "gold: L3:0=f\n"},
		"new class, monitored": {nil, rdtSpec{ClosID: "gold", Schemata: []string{"L3:0=f"}, EnableMonitoring: true},
			"gold/mon_groups/web1\ngold: L3:0=f\n", "gold/tasks gold/mon_groups/web1/tasks", "gold: L3:0=f\n"},
		"class":              {gold, rdtSpec{ClosID: "gold"}, "gold\n", "gold/tasks", "gold\n"},
		"class, monitored":   {gold, rdtSpec{ClosID: "gold", EnableMonitoring: true}, "gold/mon_groups/web1\ngold\n", "gold/tasks gold/mon_groups/web1/tasks", "gold\n"},
		"class as wanted":    {gold, rdtSpec{ClosID: "gold", L3CacheSchema: "L3:1=1F;0=0x7f0", MemBwSchema: "MB:0=20"}, "gold\n", "gold/tasks", "gold\n"},
		"class, rounded":     {gold, rdtSpec{ClosID: "gold", MemBwSchema: "MB:0=11;1=70"}, "gold\n", "gold/tasks", "gold\n"},
		"class, last value":  {gold, rdtSpec{ClosID: "gold", L3CacheSchema: "L3:0=1", Schemata: []string{"L3:0=7f0"}}, "gold\n", "gold/tasks", "gold\n"},
		"class with a space": {nil, rdtSpec{ClosID: "a b.c", Schemata: []string{"MB:0=50"}}, "a b.c: MB:0=50\n", "a b.c/tasks", "a b.c: MB:0=50\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			for file, text := range test.before {
				f.put(t, file, text)
			}
			before := f.groups(t)
			g, err := plan(f.resctrl, "web1", &test.spec)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, f.groups(t)); diff != "" {
				t.Errorf("planning has changed the groups (-before +after):\n%s", diff)
			}
			if err := g.Create(context.Background()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.created, f.groups(t)); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
			var tasks []string
			for _, file := range g.TaskFiles() {
				if !exists(file) {
					t.Errorf("there is no %s", file)
				}
				tasks = append(tasks, f.rel(file))
			}
			if got := strings.Join(tasks, " "); got != test.tasks {
				t.Errorf("task files %q, want %q", got, test.tasks)
			}
			// Another command deletes it.
			g = reopen(f, g.State())
			if err := g.Destroy(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.left, f.groups(t)); diff != "" {
				t.Errorf("groups after Destroy (-want +got):\n%s", diff)
			}
			if err := g.Destroy(); err != nil {
				t.Errorf("Destroy once more: %v", err)
			}
		})
	}
}

func reopen(f *fake, s State) *Group {
	g := Open(s)
	if g != nil {
		g.fs.mkdir, g.fs.rmdir, g.fs.write = f.mkdir, f.rmdir, f.write
	}
	return g
}

func TestOpenFindsRoot(t *testing.T) {
	f := newFake(t)
	for _, id := range []string{"/", "gold"} {
		g, err := plan(f.resctrl, "web1", &rdtSpec{ClosID: id, Schemata: []string{"L3:0=7ff"}})
		if err != nil {
			t.Fatal(err)
		}
		if o := Open(g.State()); o.fs.root != f.root {
			t.Errorf("closID %q: root %s, want %s", id, o.fs.root, f.root)
		}
	}
}

func TestNone(t *testing.T) {
	g, err := New("web1", nil)
	if g != nil || err != nil {
		t.Fatalf("New without intelRdt = %v, %v", g, err)
	}
	if s := g.State(); s != (State{}) || Open(s) != nil {
		t.Errorf("State = %v", s)
	}
	if err := errors.Join(g.Create(context.Background()), g.Set("", ""), g.Destroy(), g.Abandon()); err != nil {
		t.Error(err)
	}
	if files := g.TaskFiles(); files != nil {
		t.Errorf("TaskFiles = %q", files)
	}
}

func TestPlanRefuses(t *testing.T) {
	tests := map[string]struct {
		before map[string]string
		remove string
		id     string
		spec   rdtSpec
		want   string // lines; ROOT is the root
	}{
		"no such class": {nil, "", "web1", rdtSpec{ClosID: "gold"}, `linux.intelRdt.closID: there is no class "gold" in ROOT`},
		"no such class, monitored": {nil, "", "web1", rdtSpec{ClosID: "gold", EnableMonitoring: true},
			`linux.intelRdt.closID: there is no class "gold" in ROOT`},
		"a directory of resctrl's": {nil, "", "web1", rdtSpec{ClosID: "info"}, `linux.intelRdt.closID: ROOT/info is not a class but a directory of resctrl's own`},
		"an id like one":           {nil, "", "mon_groups", rdtSpec{}, `linux.intelRdt.closID: ROOT/mon_groups is not a class but a directory of resctrl's own`},
		"another mask": {map[string]string{"gold/schemata": "L3:0=7ff;1=7f\n", "gold/tasks": ""}, "", "web1", rdtSpec{ClosID: "gold", L3CacheSchema: "L3:0=7ff;1=7ff"},
			`linux.intelRdt.closID: ROOT/gold/schemata: the class exists and has L3:1=7f, want 7ff`},
		"another bandwidth": {map[string]string{"gold/schemata": "MB:0=20\n", "gold/tasks": ""}, "", "web1", rdtSpec{ClosID: "gold", MemBwSchema: "MB:0=21"},
			`linux.intelRdt.closID: ROOT/gold/schemata: the class exists and has MB:0=20, want 21`},
		"a cache that isn't there": {map[string]string{"gold/schemata": "L3:0=7ff\n", "gold/tasks": ""}, "", "web1", rdtSpec{ClosID: "gold", Schemata: []string{"L3:4=7ff"}},
			`linux.intelRdt.closID: ROOT/gold/schemata: the class exists and has L3:4=, want 7ff`},
		"the host's values": {nil, "", "web1", rdtSpec{ClosID: "/", MemBwSchema: "MB:0=50"},
			`linux.intelRdt.closID: ROOT/schemata: the class exists and has MB:0=100, want 50`},
		"resources that aren't there": {nil, "", "web1", rdtSpec{L3CacheSchema: "L3CODE:0=f", MemBwSchema: "MBA:0=1", Schemata: []string{"L3:0=f", "L2:0=1", "x"}},
			"linux.intelRdt.l3CacheSchema: this host's resctrl has no resource \"L3CODE\"\n" +
				"linux.intelRdt.memBwSchema: this host's resctrl has no resource \"MBA\"\n" +
				"linux.intelRdt.schemata[1]: this host's resctrl has no resource \"L2\"\n" +
				"linux.intelRdt.schemata[2]: this host's resctrl has no resource \"x\""},
		"no monitoring": {nil, "mon_groups", "web1", rdtSpec{EnableMonitoring: true}, `linux.intelRdt.enableMonitoring: this host's CPU or kernel has no resctrl monitoring`},
		"monitored already": {map[string]string{"mon_groups/web1/tasks": ""}, "", "web1", rdtSpec{ClosID: "/", EnableMonitoring: true},
			`linux.intelRdt.enableMonitoring: ROOT/mon_groups/web1: file already exists`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			for file, text := range test.before {
				f.put(t, file, text)
			}
			if test.remove != "" {
				if err := os.RemoveAll(filepath.Join(f.root, test.remove)); err != nil {
					t.Fatal(err)
				}
			}
			before := f.groups(t)
			g, err := plan(f.resctrl, test.id, &test.spec)
			if g != nil || err == nil {
				t.Fatalf("plan = %v, %v", g, err)
			}
			if diff := cmp.Diff(test.want, strings.ReplaceAll(err.Error(), f.root, "ROOT")); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, f.groups(t)); diff != "" {
				t.Errorf("groups have changed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCreateFails has the kernel refuse each of the steps.
func TestCreateFails(t *testing.T) {
	all := rdtSpec{Schemata: []string{"L3:0=5"}, EnableMonitoring: true}
	class := all
	class.ClosID = "gold"
	tests := map[string]struct {
		spec   rdtSpec
		refuse string
		errno  unix.Errno
		status string
		want   string
	}{
		"group":            {all, "web1", unix.ENOSPC, "Out of CLOSIDs\n", "linux.intelRdt: make the control group: Out of CLOSIDs: mkdir ROOT/web1: no space left on device"},
		"schemata":         {all, "web1/schemata", unix.EINVAL, "Mask 5 has non-consecutive 1-bits\n", `linux.intelRdt: write "L3:0=5\n" to schemata: Mask 5 has non-consecutive 1-bits: write ROOT/web1/schemata: invalid argument`},
		"class's schemata": {class, "gold/schemata", unix.EINVAL, "ok\n", `linux.intelRdt: write "L3:0=5\n" to schemata: write ROOT/gold/schemata: invalid argument`},
		"monitoring":       {all, "web1/mon_groups/web1", unix.ENOSPC, "Out of RMIDs\n", "linux.intelRdt.enableMonitoring: make the monitoring group: Out of RMIDs: mkdir ROOT/web1/mon_groups/web1: no space left on device"},
		"class's":          {class, "gold/mon_groups/web1", unix.ENOSPC, "", "linux.intelRdt.enableMonitoring: make the monitoring group: mkdir ROOT/gold/mon_groups/web1: no space left on device"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			g, err := plan(f.resctrl, "web1", &test.spec)
			if err != nil {
				t.Fatal(err)
			}
			f.refuse[test.refuse] = test.errno
			f.put(t, "info/last_cmd_status", test.status)
			err = g.Create(context.Background())
			if !errors.Is(err, test.errno) {
				t.Fatalf("Create: %v", err)
			}
			if diff := cmp.Diff(test.want, strings.ReplaceAll(err.Error(), f.root, "ROOT")); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if s := f.groups(t); s != "" {
				t.Errorf("left:\n%s", s)
			}
			if err := g.Abandon(); err != nil {
				t.Errorf("Abandon: %v", err)
			}
		})
	}
}

// TestAbandon removes what a hull that was killed has left, with the state that it recorded before it began.
func TestAbandon(t *testing.T) {
	all := rdtSpec{Schemata: []string{"L3:0=f"}, EnableMonitoring: true}
	class, existing := all, rdtSpec{ClosID: "silver", EnableMonitoring: true}
	class.ClosID = "gold"
	silver := "silver\n"
	tests := map[string]struct {
		spec  rdtSpec
		tasks string // who is in the control group
		left  string
	}{
		"own":               {all, "", silver},
		"class":             {class, "", silver},
		"class with others": {class, "17\n", "gold: L3:0=f\n" + silver},
		"existing class":    {existing, "", silver},
		"existing, others":  {existing, "17\n", silver},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.put(t, "silver/schemata", " ")
			f.put(t, "silver/tasks", "")
			f.put(t, "silver/mon_groups/x", "")
			g, err := plan(f.resctrl, "web1", &test.spec)
			if err != nil {
				t.Fatal(err)
			}
			recorded := g.State()
			if err := reopen(f, recorded).Abandon(); err != nil {
				t.Errorf("before Create: %v", err)
			}
			if err := g.Create(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(g.TaskFiles()[0], []byte(test.tasks), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := reopen(f, recorded).Abandon(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.left, f.groups(t)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

// Between plan and Create another has made the group: it is not ours to remove.
func TestCreateRaces(t *testing.T) {
	for name, spec := range map[string]rdtSpec{
		"own":             {Schemata: []string{"L3:0=f"}},
		"class":           {ClosID: "web1", Schemata: []string{"L3:0=7ff"}},
		"class, differs":  {ClosID: "web1", Schemata: []string{"L3:0=f"}},
		"class, fails on": {ClosID: "web1", Schemata: []string{"L3:0=7ff"}, EnableMonitoring: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			g, err := plan(f.resctrl, "web1", &spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.makeGroup(filepath.Join(f.root, "web1")); err != nil {
				t.Fatal(err)
			}
			f.refuse["web1/mon_groups/web1"] = unix.ENOSPC
			err = g.Create(context.Background())
			if fails := name == "class, differs" || name == "class, fails on"; (err != nil) != fails {
				t.Errorf("Create: %v", err)
			}
			if err := errors.Join(g.Abandon(), g.Destroy()); err != nil {
				t.Error(err)
			}
			if !strings.HasPrefix(f.groups(t), "web1") {
				t.Error("the other's group is gone")
			}
		})
	}
}

func TestDestroyFails(t *testing.T) {
	f := newFake(t)
	g, err := plan(f.resctrl, "web1", &rdtSpec{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.refuse["rmdir web1"] = unix.EBUSY
	if err := g.Destroy(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("Destroy = %v", err)
	}
}

func TestSet(t *testing.T) {
	f := newFake(t)
	g, err := plan(f.resctrl, "web1", &rdtSpec{Schemata: []string{"L3:0=f"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	g = reopen(f, g.State())
	for _, test := range []struct{ l3, mb, want string }{
		{"", "", "L3:0=f"},
		{"L3:0=1", "", "L3:0=1"},
		{"", "MB:0=20", "MB:0=20"},
		{"L3:0=3", "MB:0=30", "L3:0=3 MB:0=30"},
	} {
		if err := g.Set(test.l3, test.mb); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff("web1: "+test.want+"\n", f.groups(t)); diff != "" {
			t.Errorf("groups (-want +got):\n%s", diff)
		}
	}
	if err := g.Set("L3:0=1\nMB:0=1", ""); !errors.Is(err, fault.BadUsage) {
		t.Errorf("two lines: %v", err)
	}
	root, err := plan(f.resctrl, "web2", &rdtSpec{ClosID: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if err := reopen(f, root.State()).Set("L3:0=1", ""); !errors.Is(err, fault.Unsupported) {
		t.Errorf("the default class: %v", err)
	}
}

// A group that is made later gets all threads of the container, those that appear meanwhile too.
func TestMove(t *testing.T) {
	f := newFake(t)
	g, err := plan(f.resctrl, "web1", &rdtSpec{L3CacheSchema: "L3:0=f"})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	var wrote []string
	g.fs.write = func(file, text string) error {
		if file != filepath.Join(f.root, "web1/tasks") {
			t.Errorf("wrote to %s", file)
		}
		wrote = append(wrote, text)
		if len(wrote) == 1 {
			return unix.ESRCH // it has ended just now
		}
		return nil
	}
	self := strconv.Itoa(os.Getpid())
	asked := 0
	err = g.Move(func() ([]int, error) {
		if asked++; asked == 1 {
			return []int{os.Getppid(), 1 << 30}, nil
		}
		return []int{os.Getppid(), os.Getpid()}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(wrote, self) || !slices.Contains(wrote, strconv.Itoa(os.Getppid())) || asked < 3 {
		t.Errorf("asked %d times, wrote %q; want the threads of %d and %s", asked, wrote, os.Getppid(), self)
	}
	if again := slices.Compact(slices.Sorted(slices.Values(wrote))); len(again) != len(wrote) {
		t.Errorf("wrote some more than once: %q", wrote)
	}
	g.fs.write = func(string, string) error { return unix.EPERM }
	if err := g.Move(func() ([]int, error) { return []int{os.Getpid()}, nil }); !errors.Is(err, unix.EPERM) {
		t.Errorf("error = %v, want EPERM", err)
	}
	if _, err := NewLater("web2", "L3:0=1\nMB:0=1", ""); !errors.Is(err, fault.BadUsage) {
		t.Errorf("two lines: %v", err)
	}
}

// TestLock has another program hold the lock that programs use with resctrl.
func TestLock(t *testing.T) {
	f := newFake(t)
	g, err := plan(f.resctrl, "web1", &rdtSpec{})
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := f.lock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g.Create(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create under another's lock: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, unlock)
	if err := g.Create(context.Background()); err != nil {
		t.Errorf("Create when the lock is free again: %v", err)
	}
}

func TestMountedAt(t *testing.T) {
	const info = `22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw
31 22 0:27 / /mnt/my\040rdt rw,relatime shared:9 - resctrl resctrl rw
32 22 0:28 / /resctrl rw - tmpfs resctrl rw
`
	for in, want := range map[string]string{"": "", "bad\n": "", info[:40]: "", info: "/mnt/my rdt", " - resctrl x y\n": ""} {
		if got := mountedAt([]byte(in)); got != want {
			t.Errorf("mountedAt(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestHost(t *testing.T) {
	g, err := New("web1", &rdtSpec{ClosID: "/"})
	if exists(mountPoint) {
		hulltest.Require(t, hulltest.IntelRDT)
		if err != nil {
			t.Fatal(err)
		}
		if g.state.Dir != mountPoint && !exists(filepath.Join(g.state.Dir, "tasks")) {
			t.Errorf("the default class is %s", g.state.Dir)
		}
		return
	}
	if !errors.Is(err, fault.Unsupported) || err.Error() != "linux.intelRdt: this host's CPU or kernel has no resctrl" {
		t.Errorf("New = %v", err)
	}
}

func FuzzDifference(f *testing.F) {
	f.Add("    L3:0=7ff;1=7ff\n    MB:0=100\n", "L3:0=7ff")
	f.Add("MB:0=  20;1=70", "MB:0=15;;=")
	f.Add("", ":")
	f.Fuzz(func(t *testing.T, file, line string) {
		line, _, _ = strings.Cut(line, "\n")
		step := func(name string) uint64 { return uint64(len(name) % 3 * 5) }
		difference(file, []string{line}, step)
		// A file of the wanted line alone differs only where the kernel could not have written the line.
		if d := difference(line, []string{line}, step); d != "" && wellFormed(line) {
			t.Errorf("%q differs from itself: %s", line, d)
		}
	})
}

// wellFormed tells whether all values of the line are numbers in both bases.
func wellFormed(line string) bool {
	for _, values := range parse([]string{line}) {
		for _, v := range values {
			if v == "" || len(v) > 15 || strings.Trim(v, "0123456789") != "" {
				return false
			}
		}
	}
	return true
}
