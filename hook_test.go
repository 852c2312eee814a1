package hull_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull"
	"hull/hulltest"
)

// hookRecord is what a hook saw.
type hookRecord struct {
	Name     string
	State    specs.State
	Cwd      string
	Env      []string
	Mount    string // its mount namespace
	Net      string // its network namespace
	InRootfs bool   // whether the container's root is its root
}

func init() {
	roles["hook"] = func(args []string) error {
		content, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		r := hookRecord{Name: args[1]}
		if err := json.Unmarshal(content, &r.State); err != nil {
			return fmt.Errorf("state %q: %w", content, err)
		}
		r.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, envRole+"=") })
		r.Cwd, _ = os.Getwd()
		r.Mount, _ = os.Readlink("/proc/self/ns/mnt")
		r.Net, _ = os.Readlink("/proc/self/ns/net")
		_, err = os.Stat(hulltest.ProgPath)
		r.InRootfs = err == nil
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
		if err != nil {
			return err
		}
		_, err = f.Write(append(line, '\n'))
		return errors.Join(err, f.Close())
	}
}

// hookDiary is the file that hooks write to, and how they are called.
type hookDiary struct {
	dir string
	exe string
}

func newDiary(t testing.TB) hookDiary {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	return hookDiary{t.TempDir(), staticTests.path(t)}
}

func (d hookDiary) hook(name string, env ...string) specs.Hook {
	return specs.Hook{Path: d.exe, Args: []string{"hook", filepath.Join(d.dir, "diary"), name}, Env: append(env, envRole+"=hook")}
}

// inside is a hook that is executed in the container's root.
func (d hookDiary) inside(name string, env ...string) specs.Hook {
	return specs.Hook{Path: actorPath, Args: []string{"hook", sharedDir + "/diary", name}, Env: append(env, envRole+"=hook")}
}

func (d hookDiary) read(t testing.TB) []hookRecord {
	t.Helper()
	f, err := os.Open(filepath.Join(d.dir, "diary"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []hookRecord
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r hookRecord
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func (d hookDiary) names(t testing.TB) []string {
	t.Helper()
	var names []string
	for _, r := range d.read(t) {
		names = append(names, r.Name)
	}
	return names
}

func (d hookDiary) all(s *specs.Spec) {
	//nolint:staticcheck // prestart is deprecated, and still in use
	s.Hooks = &specs.Hooks{
		Prestart:        []specs.Hook{d.hook("prestart")},
		CreateRuntime:   []specs.Hook{d.hook("createRuntime 1"), d.hook("createRuntime 2")},
		CreateContainer: []specs.Hook{d.hook("createContainer 1"), d.hook("createContainer 2")},
		StartContainer:  []specs.Hook{d.inside("startContainer 1"), d.inside("startContainer 2")},
		Poststart:       []specs.Hook{d.hook("poststart")},
		Poststop:        []specs.Hook{d.hook("poststop 1"), d.hook("poststop 2")},
	}
}

// All six kinds: their order, where they run and what they are told (config.md, "POSIX-platform Hooks").
func TestHooks(t *testing.T) {
	d := newDiary(t)
	r := newRuntime(t)
	c := create(t, r, hull.CreateOptions{}, args("sleep", "3600"), withActor(t, d.dir), d.all,
		func(s *specs.Spec) { s.Annotations = map[string]string{"color": "blue"} })
	atCreate := []string{"prestart", "createRuntime 1", "createRuntime 2", "createContainer 1", "createContainer 2"}
	expect(t, atCreate, d.names(t))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	atStart := append(atCreate, "startContainer 1", "startContainer 2", "poststart")
	expect(t, atStart, d.names(t))
	pid := c.Init().Pid
	container, caller := namespacesOf(t, pid), namespacesOf(t, os.Getpid())
	s, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	all := d.read(t)
	expect(t, append(atStart, "poststop 1", "poststop 2"), d.names(t))
	for _, h := range all {
		t.Run(h.Name, func(t *testing.T) {
			want := hookRecord{Name: h.Name, Env: []string{}, State: specs.State{
				Version: s.OCIVersion, ID: "box", Pid: pid, Bundle: s.Bundle, Annotations: map[string]string{"color": "blue"},
			}}
			want.Mount, want.Net, want.Cwd = caller[specs.MountNamespace], caller[specs.NetworkNamespace], s.Bundle
			kind, _, _ := strings.Cut(h.Name, " ")
			switch kind {
			case "prestart": // it is older than the status creating
				want.State.Status = specs.StateCreated
			case "createRuntime":
				want.State.Status = specs.StateCreating
			case "createContainer":
				want.State.Status = specs.StateCreating
				want.Mount, want.Net = container[specs.MountNamespace], container[specs.NetworkNamespace]
				want.Cwd = s.Rootfs // where hooks for other runtimes expect to be; the specification leaves it open
			case "startContainer":
				want.State.Status, want.InRootfs = specs.StateCreated, true
				want.Mount, want.Net = container[specs.MountNamespace], container[specs.NetworkNamespace]
				want.Cwd = h.Cwd
			case "poststart":
				want.State.Status = specs.StateRunning
			case "poststop":
				want.State.Status, want.State.Pid = specs.StateStopped, 0
			}
			if h.Env == nil {
				h.Env = []string{}
			}
			expect(t, want, h)
		})
	}
}

func TestHookEnv(t *testing.T) {
	d := newDiary(t)
	run(t, withActor(t, d.dir), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			CreateRuntime:   []specs.Hook{d.hook("createRuntime", "A=1", "B=2")},
			CreateContainer: []specs.Hook{d.hook("createContainer", "A=2", "B=2")},
			StartContainer:  []specs.Hook{d.inside("startContainer", "A=3", "B=2")},
		}
	})
	for i, h := range d.read(t) {
		expect(t, []string{fmt.Sprintf("A=%d", i+1), "B=2"}, h.Env)
	}
	expect(t, 3, len(d.read(t)))
}

// A hook that fails stops what it belongs to (runtime.md, "Lifecycle"), says why, and leaves nothing; poststop hooks
// run nevertheless.
func TestHookThatFails(t *testing.T) {
	prog := hulltest.Prog(t)
	fails := []specs.Hook{{Path: prog, Args: []string{"testprog", "do", "sleep", "0.01", ",", "cat", "/nonexistent/reason"}}}
	missing := []specs.Hook{{Path: "/nonexistent/hook"}}
	for _, test := range []struct {
		name  string
		hooks specs.Hooks
		at    string // which command fails
		words []string
	}{
		//nolint:staticcheck // prestart is deprecated, and still in use
		{"prestart", specs.Hooks{Prestart: fails}, "create", []string{"hooks.prestart[0]", "exit status 1", "/nonexistent/reason"}},
		{"createRuntime", specs.Hooks{CreateRuntime: fails}, "create", []string{"hooks.createRuntime[0]", "exit status 1", "/nonexistent/reason"}},
		{"createContainer", specs.Hooks{CreateContainer: fails}, "create", []string{"hooks.createContainer[0]", "exit status 1", "/nonexistent/reason"}},
		{"startContainer", specs.Hooks{StartContainer: []specs.Hook{{Path: hulltest.ProgPath, Args: fails[0].Args}}}, "start",
			[]string{"hooks.startContainer[0]", "exit status 1", "/nonexistent/reason"}},
		{"poststart", specs.Hooks{Poststart: fails}, "start", []string{"hooks.poststart[0]", "exit status 1", "/nonexistent/reason"}},
		{"createRuntime missing", specs.Hooks{CreateRuntime: missing}, "create", []string{"hooks.createRuntime[0]", "no such file"}},
		{"createContainer missing", specs.Hooks{CreateContainer: missing}, "create", []string{"hooks.createContainer[0]", "no such file"}},
		{"startContainer missing", specs.Hooks{StartContainer: missing}, "start", []string{"hooks.startContainer[0]", "no such file"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDiary(t)
			test.hooks.Poststop = []specs.Hook{d.hook("poststop")}
			edit := func(s *specs.Spec) { s.Hooks = &test.hooks }
			r := newRuntime(t)
			if test.at == "create" {
				_, err := tryRun(t, r, edit)
				refused(t, err, nil, append(test.words, "run box")...)
				expect(t, []string{"poststop"}, d.names(t))
				return
			}
			c := create(t, r, hull.CreateOptions{}, args("sleep", "3600"), edit)
			refused(t, c.Start(t.Context()), nil, append(test.words, "start box")...)
			wait(t, c.Init())
			wantStatus(t, c, hull.Stopped)
			if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			expect(t, []string{"poststop"}, d.names(t))
		})
	}
}

// With Run, too, a hook that fails at the start takes the container along.
func TestHookThatFailsInRun(t *testing.T) {
	for name, hooks := range map[string]specs.Hooks{
		"startContainer": {StartContainer: []specs.Hook{{Path: hulltest.ProgPath, Args: []string{"testprog", "exit", "3"}}}},
		"poststart":      {Poststart: []specs.Hook{{Path: hulltest.Prog(t), Args: []string{"testprog", "exit", "3"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), args("sleep", "3600"), func(s *specs.Spec) { s.Hooks = &hooks })
			refused(t, err, nil, "run box", "hooks."+name+"[0]", "exit status 3")
		})
	}
}

// A hook has nothing open but its state and what it says, though the container's program is given more.
func TestHookDescriptors(t *testing.T) {
	extra, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	say := []string{"testprog", "do", "ls", "/proc/self/fdinfo", ",", "exit", "7"}
	for name, hooks := range map[string]specs.Hooks{
		"createRuntime":   {CreateRuntime: []specs.Hook{{Path: hulltest.Prog(t), Args: say}}},
		"createContainer": {CreateContainer: []specs.Hook{{Path: hulltest.Prog(t), Args: say}}},
		"startContainer":  {StartContainer: []specs.Hook{{Path: hulltest.ProgPath, Args: say}}},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := hulltest.Bundle(t, func(s *specs.Spec) { s.Hooks = &hooks })
			_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle, ExtraFiles: []*os.File{extra}})
			refused(t, err, nil, "exit status 7: 0; 1; 2; 3") // 3 is the directory itself
			if !strings.HasSuffix(err.Error(), "; 3") {
				t.Error(err)
			}
		})
	}
}

// After a hook that fails, those behind it don't run.
func TestHooksStopAtTheFirstFailure(t *testing.T) {
	d := newDiary(t)
	_, err := tryRun(t, newRuntime(t), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{d.hook("1"), {Path: hulltest.Prog(t), Args: []string{"testprog", "false"}}, d.hook("3")}}
	})
	refused(t, err, nil, "hooks.createRuntime[1]", "exit status 1")
	expect(t, []string{"1"}, d.names(t))
}

// The failure of a poststop hook is a warning, and the next runs (runtime.md, "Lifecycle", step 13).
func TestPoststopThatFails(t *testing.T) {
	d := newDiary(t)
	r := newRuntime(t)
	var warnings []string
	r.Warn = func(line string) { warnings = append(warnings, line) }
	got, err := tryRun(t, r, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: hulltest.Prog(t), Args: []string{"testprog", "false"}}, d.hook("2")}}
	})
	if err != nil {
		t.Fatal(err)
	}
	says(t, got)
	expect(t, []string{"2"}, d.names(t))
	if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, "hooks.poststop[0]") }) {
		t.Errorf("warnings %q", warnings)
	}
}

func TestHookTimeout(t *testing.T) {
	slow := specs.Hook{Path: hulltest.Prog(t), Args: []string{"testprog", "sleep", "3600"}, Timeout: ptr(1)}
	slowInside := slow
	slowInside.Path = hulltest.ProgPath
	for name, hooks := range map[string]specs.Hooks{
		"createRuntime":   {CreateRuntime: []specs.Hook{slow}},
		"createContainer": {CreateContainer: []specs.Hook{slow}},
		"startContainer":  {StartContainer: []specs.Hook{slowInside}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := tryRun(t, newRuntime(t), func(s *specs.Spec) { s.Hooks = &hooks })
			refused(t, err, nil, "hooks."+name+"[0]", "timeout")
			if took := time.Since(began); took < time.Second || took > 10*time.Second {
				t.Errorf("it takes %v", took)
			}
		})
	}
}

// What a hook says has no end that hull would wait for, and is not kept for ever.
func TestHookThatSaysMuch(t *testing.T) {
	loud := specs.Hook{Path: hulltest.Prog(t), Args: []string{"testprog", "do", "cat", "/proc/self/exe", ",", "exit", "5"}, Timeout: ptr(5)}
	inside := loud
	inside.Path = hulltest.ProgPath
	for name, hooks := range map[string]specs.Hooks{
		"createRuntime":   {CreateRuntime: []specs.Hook{loud}},
		"createContainer": {CreateContainer: []specs.Hook{loud}},
		"startContainer":  {StartContainer: []specs.Hook{inside}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), func(s *specs.Spec) { s.Hooks = &hooks })
			refused(t, err, nil, "hooks."+name+"[0]", "exit status 5")
		})
	}
}

// A hook may change what the configuration limits: limits are there before it runs, and stay as it leaves them.
func TestHookChangesLimits(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	limited := resources(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(100))} })
	c := create(t, newRuntime(t), hull.CreateOptions{}, limited, func(s *specs.Spec) {
		// All that the hook is told is its pid; but here it is known where the cgroup will be.
		file := filepath.Join("/sys/fs/cgroup/pids", s.Linux.CgroupsPath, "pids.max")
		if hulltest.CgroupV2.Check() == nil {
			file = filepath.Join("/sys/fs/cgroup", s.Linux.CgroupsPath, "pids.max")
		}
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: hulltest.Prog(t), Args: hulltest.Args("write", file, "50")}}}
	})
	expect(t, "50", pidsMax.read(t, c))
}

// createRuntime hooks set up the network by the pid that they are told: it is of the container's namespaces.
func TestHookSeesTheNamespaces(t *testing.T) {
	d := newDiary(t)
	c := create(t, newRuntime(t), hull.CreateOptions{}, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{d.hook("createRuntime")}}
	})
	expect(t, c.Init().Pid, d.read(t)[0].State.Pid)
}
