package hull_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/cgroup"
	"hull/internal/store"
	"hull/internal/stub"
)

func TestLifeCycle(t *testing.T) {
	r := newRuntime(t)
	streams := newStreams(t)
	before := time.Now()
	c := create(t, r, hull.CreateOptions{Stdio: streams.stdio()}, args("do", "echo", "hello", ",", "exit", "3"),
		func(s *specs.Spec) { s.Annotations = map[string]string{"color": "blue"} })

	s, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	if s.Pid != c.Init().Pid || !alive(s.Pid) {
		t.Errorf("state has pid %d, init is %d", s.Pid, c.Init().Pid)
	}
	if s.Created.Before(before.Add(-time.Second)) || s.Created.After(time.Now().Add(time.Second)) {
		t.Errorf("created %v", s.Created)
	}
	expect(t, hull.State{
		OCIVersion: specs.Version, ID: "box", Pid: s.Pid, Status: hull.Created, Bundle: s.Bundle, Isolation: cmp.Or(r.Isolation, hull.Native),
		Rootfs: filepath.Join(s.Bundle, "rootfs"), Created: s.Created, Annotations: map[string]string{"color": "blue"}, Owner: "root",
	}, s)
	if out := readAll(t, streams.out); out != "" {
		t.Errorf("before start it says %q", out)
	}

	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, outcome{Status: "3", Out: "hello\n"}, streams.outcome(t, c.Init()))
	wantStatus(t, c, hull.Stopped)
	if s, err := c.State(); err != nil || s.Pid != 0 {
		t.Errorf("stopped, it has pid %d, %v", s.Pid, err)
	}
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("deleted, it is still found: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.Root, "box")); !os.IsNotExist(err) {
		t.Errorf("its state: %v", err)
	}
	if _, err := os.Stat(cgroupFile(t, c, "pids", "")); !os.IsNotExist(err) {
		t.Errorf("its cgroup: %v", err)
	}
}

// Another program, such as the next command of an engine, knows the container by its state alone.
func TestLifeCycleByOthers(t *testing.T) {
	r := newRuntime(t)
	other := &hull.Runtime{Root: r.Root}
	made := create(t, r, hull.CreateOptions{}, args("sleep", "3600"))
	find := func() *hull.Container {
		t.Helper()
		c, err := other.Container("box")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	wantStatus(t, find(), hull.Created)
	if err := find().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, made, hull.Running)
	if _, err := find().Init().Wait(); !errors.Is(err, hull.ErrBadUsage) {
		t.Errorf("another program's child can be waited for: %v", err)
	}
	if err := find().Signal(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	expect(t, "signal SIGKILL", wait(t, made.Init()))
	if err := find().Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func TestExitStatus(t *testing.T) {
	for _, status := range []string{"0", "1", "3", "127", "255"} {
		expect(t, outcome{Status: status}, run(t, args("exit", status)))
	}
}

func TestSignals(t *testing.T) {
	const shutdown = 37 // SIGRTMIN+3, by which engines end a systemd (systemd(1))
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGUSR1, unix.SIGINT, unix.SIGWINCH, shutdown} {
		name := cmp.Or(unix.SignalName(sig), strconv.Itoa(int(sig)))
		out := newSpeaker(t)
		c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("trap", name))
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		out.want("ready")
		if err := c.Signal(sig, false); err != nil {
			t.Error(err)
		}
		out.want(name)
		expect(t, "0", wait(t, c.Init()))
		refused(t, c.Signal(sig, false), hull.ErrBadState, "kill box", "not running")
		if err := c.Init().Signal(sig); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("the init has been waited for, but a signal says %v", err)
		}
	}
}

// A container that waits for its start ends by the signals that end a program, and no others.
func TestSignalsBeforeTheStart(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		c := create(t, newRuntime(t), hull.CreateOptions{})
		if err := c.Signal(unix.SIGWINCH, false); err != nil {
			t.Error(err)
		}
		wantStatus(t, c, hull.Created)
		if err := c.Signal(sig, false); err != nil {
			t.Error(err)
		}
		expect(t, strconv.Itoa(128+int(sig)), wait(t, c.Init()))
		wantStatus(t, c, hull.Stopped)
	}
}

// Without a pid namespace the end of the init doesn't end the others.
func TestSignalAll(t *testing.T) {
	for _, own := range []bool{true, false} {
		t.Run(fmt.Sprintf("pid namespace %v", own), func(t *testing.T) {
			out := newSpeaker(t)
			c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("spawn", "3"), func(s *specs.Spec) {
				if !own {
					s.Linux.Namespaces = without(s.Linux.Namespaces, specs.PIDNamespace)
				}
			})
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			out.want("ready")
			pids, err := c.Processes()
			if err != nil || len(pids) != 4 {
				t.Fatalf("processes %v, %v, want 4", pids, err)
			}
			if err := c.Signal(unix.SIGKILL, true); err != nil {
				t.Error(err)
			}
			expect(t, "signal SIGKILL", wait(t, c.Init()))
			for _, pid := range pids {
				gone(t, pid)
			}
			if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func without(all []specs.LinuxNamespace, kind specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var rest []specs.LinuxNamespace
	for _, ns := range all {
		if ns.Type != kind {
			rest = append(rest, ns)
		}
	}
	return rest
}

// Processes that outlive an init without a pid namespace are the container's until it is deleted.
func TestDeleteEndsWhatTheInitLeaves(t *testing.T) {
	out := newSpeaker(t)
	c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("spawn", "2"), func(s *specs.Spec) {
		s.Linux.Namespaces = without(s.Linux.Namespaces, specs.PIDNamespace)
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.want("ready")
	pids, err := c.Processes()
	if err != nil || len(pids) != 3 {
		t.Fatalf("processes %v, %v", pids, err)
	}
	if err := c.Init().Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init())
	wantStatus(t, c, hull.Stopped)
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		gone(t, pid)
	}
}

func TestWrongState(t *testing.T) {
	ctx := t.Context()
	ops := map[string]func(c *hull.Container) error{
		"start":  func(c *hull.Container) error { return c.Start(ctx) },
		"pause":  func(c *hull.Container) error { return c.Pause() },
		"resume": func(c *hull.Container) error { return c.Resume() },
		"update": func(c *hull.Container) error { return c.Update(hull.UpdateOptions{}) },
		"kill":   func(c *hull.Container) error { return c.Signal(0, false) },
		"delete": func(c *hull.Container) error { return c.Delete(ctx, hull.DeleteOptions{}) },
		"exec": func(c *hull.Container) error {
			_, err := c.Exec(ctx, hull.ExecOptions{Process: c.ProcessSpec()})
			return err
		},
	}
	for _, test := range []struct {
		status hull.Status
		get    func(t *testing.T) *hull.Container
		wrong  []string
	}{
		{hull.Created, func(t *testing.T) *hull.Container { return create(t, newRuntime(t), hull.CreateOptions{}) }, []string{"resume"}},
		{hull.Running, func(t *testing.T) *hull.Container { return running(t) }, []string{"start", "resume", "delete"}},
		{hull.Paused, func(t *testing.T) *hull.Container {
			c := running(t)
			if err := c.Pause(); err != nil {
				t.Fatal(err)
			}
			return c
		}, []string{"start", "pause", "exec", "delete"}},
		{hull.Stopped, func(t *testing.T) *hull.Container {
			c := running(t)
			if err := c.Signal(unix.SIGKILL, false); err != nil {
				t.Fatal(err)
			}
			wait(t, c.Init())
			return c
		}, []string{"start", "pause", "resume", "update", "kill", "exec"}},
	} {
		t.Run(string(test.status), func(t *testing.T) {
			c := test.get(t)
			for _, op := range test.wrong {
				err := ops[op](c)
				if !errors.Is(err, hull.ErrBadState) || !strings.HasPrefix(err.Error(), op+" box: ") {
					t.Errorf("%s: %v, want the wrong state", op, err)
				}
				wantStatus(t, c, test.status)
			}
		})
	}
}

func TestUnknownContainer(t *testing.T) {
	r := newRuntime(t)
	_, err := r.Container("nobody")
	refused(t, err, hull.ErrNotExist, "nobody", "does not exist")
	refused(t, r.Delete(t.Context(), "nobody", hull.DeleteOptions{}), hull.ErrNotExist, "delete nobody")
	if err := r.Delete(t.Context(), "nobody", hull.DeleteOptions{Force: true}); err != nil {
		t.Errorf("delete by force: %v", err)
	}
	if all, err := r.List(); len(all) > 0 || err != nil {
		t.Errorf("list: %v, %v", all, err)
	}
}

// A handle outlives its container.
func TestDeletedContainer(t *testing.T) {
	c := running(t)
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"start":  c.Start(t.Context()),
		"delete": c.Delete(t.Context(), hull.DeleteOptions{}),
		"pause":  c.Pause(),
	} {
		if !errors.Is(err, hull.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIDs(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t)
	for _, id := range []string{"", ".", "..", "a/b", "/", "../x", strings.Repeat("x", 1000), "a b", "a\x00b", "ä", "a\n", "@"} {
		_, err := r.Create(t.Context(), id, hull.CreateOptions{Bundle: bundle})
		refused(t, err, hull.ErrBadUsage, "container id")
		_, err = r.Container(id)
		refused(t, err, hull.ErrBadUsage, "container id")
		refused(t, r.Delete(t.Context(), id, hull.DeleteOptions{Force: true}), hull.ErrBadUsage)
	}
	for _, id := range []string{"a", "A.b_c+d-1", "...", "-", strings.Repeat("y", 255)} {
		c, err := r.Run(t.Context(), id, hull.CreateOptions{Bundle: bundle})
		if err != nil {
			t.Errorf("%.20s: %v", id, err)
			continue
		}
		wait(t, c.Init())
		if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestIDTaken(t *testing.T) {
	r := newRuntime(t)
	c := runningIn(t, r)
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	refused(t, err, hull.ErrExist, "create box", "exists")
	wantStatus(t, c, hull.Running)
}

// Who forgets that the container is there is told so, and not about the cgroup that the bundle's second one would have.
func TestSameBundleTwice(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("sleep", "3600"))
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, r, c) })
	_, err = r.Create(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	refused(t, err, hull.ErrExist, "create box", "exists")
	wantStatus(t, c, hull.Running)
}

// Without systemd its driver is refused before anything is made that it would be needed for to take away.
func TestSystemdDriverWithoutSystemd(t *testing.T) {
	if hulltest.Systemd.Check() == nil {
		t.Skip("needs a machine without systemd")
	}
	r := newRuntime(t)
	r.SystemdCgroup = true
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, func(s *specs.Spec) { s.Linux.CgroupsPath = "" })})
	refused(t, err, hull.ErrUnsupported, "create box", "systemd")
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Error(err)
	}
}

// The section linux is optional: without it the container has all namespaces of the caller.
func TestWithoutLinuxSection(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("sleep", "3600"), func(s *specs.Spec) { s.Linux, s.Mounts, s.Hostname = nil, nil, "" })
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	wantStatus(t, c, hull.Running)
}

// Killing and deleting in a row works, however busy the machine is.
func TestDeleteRightAfterKill(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("sleep", "3600"))
	for range 20 {
		c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		remove(t, r, c)
		if err := c.Signal(unix.SIGKILL, false); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// What a hull that was killed has left before there was an init is stopped, and deleted as such.
func TestDeleteHalfMade(t *testing.T) {
	r := newRuntime(t)
	dir, lock, err := store.Store{Root: r.Root}.Create("box")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(hulltest.Bundle(t), "config.json"))
	if err == nil {
		err = errors.Join(dir.SaveConfig(config), dir.Save(&store.Record{ID: "box", Cgroup: cgroup.None().State()}))
	}
	lock.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Container("box")
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, hull.Stopped)
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// Of two that want the same id at the same time one gets it.
func TestIDTakenAtTheSameTime(t *testing.T) {
	r := newRuntime(t)
	const n = 8
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		bundle := hulltest.Bundle(t, args("sleep", "3600"))
		group.Go(func() {
			var c *hull.Container
			if c, errs[i] = r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle}); errs[i] == nil {
				remove(t, r, c)
			}
		})
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, hull.ErrExist) {
			t.Error(err)
		}
	}
	expect(t, 1, won)
}

func TestConfigurationThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		name  string
		edit  func(*specs.Spec)
		kind  error
		words []string
	}{
		{"no root file system", func(s *specs.Spec) { s.Root.Path = "nowhere" }, unix.ENOENT, []string{"root.path", "nowhere"}},
		{"no arguments", func(s *specs.Spec) { s.Process.Args = nil }, hull.ErrBadSpec, []string{"process.args"}},
		{"no version", func(s *specs.Spec) { s.Version = "" }, hull.ErrBadSpec, []string{"ociVersion"}},
		{"another version", func(s *specs.Spec) { s.Version = "2.0.0" }, nil, []string{"ociVersion", "2.0.0"}},
		{"unknown namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "x"})
		}, hull.ErrBadSpec, []string{"linux.namespaces"}},
		{"bind of nothing", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/nonexistent/x", Options: []string{"bind"}})
		}, unix.ENOENT, []string{"mounts[7]", "/nonexistent/x"}},
		{"selinux", func(s *specs.Spec) { s.Process.SelinuxLabel = "x" }, hull.ErrUnsupported, []string{"process.selinuxLabel"}},
		{"apparmor", func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }, nil, []string{"process.apparmorProfile"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), test.edit)
			refused(t, err, test.kind, append(test.words, "run box")...)
		})
	}
}

func TestMissingConfig(t *testing.T) {
	r := newRuntime(t)
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: t.TempDir()})
	refused(t, err, os.ErrNotExist, "create box", "config.json")
	_, err = r.Create(t.Context(), "box", hull.CreateOptions{Bundle: "/nonexistent"})
	refused(t, err, os.ErrNotExist, "/nonexistent")
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Error(err)
	}
}

// A spec that is given replaces the file, by the same rules.
func TestSpecInsteadOfConfig(t *testing.T) {
	r := newRuntime(t)
	var given *specs.Spec
	bundle := hulltest.Bundle(t, args("exit", "1"), func(s *specs.Spec) { given = s })
	c := *given
	p := *given.Process
	p.Args, c.Process = hulltest.Args("echo", "given"), &p
	got, err := tryRunWith(t, r, hull.CreateOptions{Bundle: bundle, Spec: &c})
	if err != nil {
		t.Fatal(err)
	}
	says(t, got, "given")
	c.Hostname, p.Cwd = "x", "relative"
	_, err = r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Spec: &c})
	refused(t, err, hull.ErrBadSpec, "process.cwd")
}

// The configuration is that of the creation, whatever becomes of the bundle.
func TestConfigIsKept(t *testing.T) {
	r := newRuntime(t)
	c := create(t, r, hull.CreateOptions{}, args("sleep", "3600"))
	s, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Bundle, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := r.Container("box")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, c.Spec(), again.Spec())
	if err := again.Start(t.Context()); err != nil {
		t.Error(err)
	}
	spec := again.Spec()
	spec.Process.Args[0] = "changed"
	if again.Spec().Process.Args[0] == "changed" {
		t.Error("Spec is no copy")
	}
}

func TestRunIsStarted(t *testing.T) {
	r := newRuntime(t)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, args("sleep", "3600"))})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	wantStatus(t, c, hull.Running)
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	expect(t, "signal SIGKILL", wait(t, c.Init()))
}

func TestStdin(t *testing.T) {
	r := newRuntime(t)
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out := newSpeaker(t)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{
		Bundle: hulltest.Bundle(t, args("cat")), Stdio: hull.Stdio{In: in, Out: out.W},
	})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	fmt.Fprintln(feed, "the input")
	feed.Close()
	expect(t, "the input\n", out.rest())
	expect(t, "0", wait(t, c.Init()))
}

// A container that does nothing meanwhile is paused several times, and works.
func TestPauseAndResume(t *testing.T) {
	c := running(t)
	for range 3 {
		if err := c.Pause(); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c, hull.Paused)
		if err := c.Resume(); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c, hull.Running)
	}
	says(t, exec1(t, c, verb("echo", "still")), "still")
	wantStatus(t, c, hull.Running)
}

// Nothing may get stuck on a paused container.
func TestPausedContainerDies(t *testing.T) {
	for name, end := range map[string]func(c *hull.Container) error{
		"kill":     func(c *hull.Container) error { return c.Signal(unix.SIGKILL, false) },
		"kill all": func(c *hull.Container) error { return c.Signal(unix.SIGKILL, true) },
		"delete":   func(c *hull.Container) error { return c.Delete(context.Background(), hull.DeleteOptions{Force: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := running(t)
			if err := c.Pause(); err != nil {
				t.Fatal(err)
			}
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			expect(t, "signal SIGKILL", wait(t, c.Init()))
		})
	}
}

func TestPauseCreated(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{})
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, hull.Paused)
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, hull.Created)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, "0", wait(t, c.Init()))
}

func TestExecInPaused(t *testing.T) {
	c := running(t)
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	_, err := tryExec(t, c, verb("true"))
	refused(t, err, hull.ErrBadState, "exec box", "paused")
	// One that was begun before.
	refused(t, c.EndedMeanwhile(t.Context(), stub.ErrTimeout), hull.ErrBadState, "exec in a paused container")
	ended := make(chan error)
	go func() { ended <- execTrue(t.Context(), c) }()
	select {
	case err := <-ended:
		t.Errorf("an exec ends in a paused container: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	says(t, exec1(t, c, verb("echo", "again")), "again")
}

func TestDelete(t *testing.T) {
	t.Run("created", func(t *testing.T) {
		c := create(t, newRuntime(t), hull.CreateOptions{})
		if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		expect(t, "signal SIGKILL", wait(t, c.Init()))
	})
	t.Run("running", func(t *testing.T) {
		c := running(t)
		refused(t, c.Delete(t.Context(), hull.DeleteOptions{}), hull.ErrBadState, "delete box", "running", "--force")
		if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
		expect(t, "signal SIGKILL", wait(t, c.Init()))
	})
	t.Run("without its bundle", func(t *testing.T) {
		r := newRuntime(t)
		c := runningIn(t, r)
		s, err := c.State()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(s.Bundle); err != nil {
			t.Fatal(err)
		}
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})
}

// A file of the state that is damaged keeps nobody from deleting the container, and no process or cgroup goes with it.
func TestDeleteDamagedState(t *testing.T) {
	damages := map[string]struct {
		file   string
		damage func(t *testing.T, path string)
	}{
		"an empty record":       {"state", func(t *testing.T, path string) { write(t, path, "") }},
		"a record of junk":      {"state", func(t *testing.T, path string) { write(t, path, "junk\n") }},
		"half a record":         {"state", func(t *testing.T, path string) { write(t, path, readFile(t, path)[:60]) }},
		"no record":             {"state", func(t *testing.T, path string) { rm(t, path) }},
		"half a configuration":  {"config.json", func(t *testing.T, path string) { write(t, path, "{") }},
		"no configuration":      {"config.json", func(t *testing.T, path string) { rm(t, path) }},
		"no copy of the record": {"state.copy", func(t *testing.T, path string) { rm(t, path) }},
	}
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t)
			marker := filepath.Join(t.TempDir(), "poststop")
			c := runningIn(t, r, func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo >" + marker}}}}
			})
			pid, group := c.Init().Pid, cgroupFile(t, c, "pids", "cgroup.procs")
			d.damage(t, filepath.Join(c.Dir(), d.file))
			err := r.Delete(t.Context(), "box", hull.DeleteOptions{})
			if err == nil {
				t.Fatal("a container that runs is deleted without force")
			}
			if d.file != "state.copy" && hull.Hint(err) == "" {
				t.Errorf("%v: no hint", errorText(err))
			}
			if !alive(pid) {
				t.Fatal("delete without force has killed it")
			}
			if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
				t.Error(errorText(err))
			}
			if alive(pid) {
				t.Error("its process is left")
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			if exists(filepath.Dir(group)) {
				t.Error("its cgroup is left")
			}
			if d.file == "state" && !exists(marker) {
				t.Error("poststop hooks didn't run")
			}
			if exists(c.Dir()) {
				t.Error("its state directory is left")
			}
		})
	}
}

// A container of whose record both files are damaged is known by its configuration alone: what is in the cgroup that this names
// ends, unless that may be another's.
func TestDeleteDamagedRecord(t *testing.T) {
	const killed, left = "the processes of the cgroup %s, which config.json names, are killed", "its process and its cgroup, if it has any, are left"
	relative := func(s *specs.Spec) { s.Linux.CgroupsPath = s.Linux.CgroupsPath[1:] }
	for _, test := range []struct {
		name   string
		edits  []func(*specs.Spec)
		damage func(t *testing.T, dir string)
		says   string // or nothing
	}{
		{"named by an absolute path", nil, nil, killed},
		{"named by a path that depends on who asks", []func(*specs.Spec){relative}, nil, left},
		{"that another container has", nil, func(t *testing.T, dir string) {
			other := filepath.Join(filepath.Dir(dir), "other")
			if err := os.Mkdir(other, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(other, "state"), readFile(t, filepath.Join(dir, "state"))+"\n")
			t.Cleanup(func() { os.RemoveAll(other) })
		}, left},
		{"that another container of another directory has", nil, func(t *testing.T, dir string) { // of whom nothing is known but that it is younger
			long := time.Now().Add(-time.Hour)
			if err := os.Chtimes(filepath.Join(dir, "config.json"), long, long); err != nil {
				t.Fatal(err)
			}
		}, left},
		{"of a creation that was killed before its process was there", nil, func(t *testing.T, dir string) { rm(t, filepath.Join(dir, "state.copy")) }, left},
		{"of one that was killed before it had a record", nil, func(t *testing.T, dir string) {
			rm(t, filepath.Join(dir, "state"))
			rm(t, filepath.Join(dir, "state.copy"))
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRuntime(t)
			var said []string
			c := runningIn(t, r, test.edits...)
			r = &hull.Runtime{Root: r.Root, Warn: func(line string) { said = append(said, line) }}
			var groups []string
			for line := range strings.Lines(readFile(t, filepath.Join(c.Dir(), "state"))) {
				if name, values, _ := strings.Cut(line, " "); name == "cgroup.path" {
					groups = append(groups, strings.Split(values, `"`)[3])
				}
			}
			if test.damage != nil {
				test.damage(t, c.Dir())
			}
			for _, name := range []string{"state", "state.copy"} {
				if path := filepath.Join(c.Dir(), name); exists(path) {
					write(t, path, "junk\n")
				}
			}
			if err := r.Delete(t.Context(), "box", hull.DeleteOptions{}); err == nil || hull.Hint(err) == "" || !alive(c.Init().Pid) {
				t.Errorf("without force: %v", errorText(err))
			}
			if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
				t.Error(errorText(err))
			}
			if exists(c.Dir()) {
				t.Error("its state directory is left")
			}
			stays := test.says != killed
			if got := alive(c.Init().Pid); got != stays {
				t.Errorf("its process is left: %v", got)
			}
			_ = unix.Kill(c.Init().Pid, unix.SIGKILL)
			_, _ = c.Init().Wait()
			for _, dir := range groups {
				if got := exists(dir); got != stays {
					t.Errorf("%s is left: %v", dir, got)
				}
				_ = unix.Rmdir(dir)
			}
			want := strings.ReplaceAll(test.says, "%s", c.Spec().Linux.CgroupsPath)
			if want == "" && len(said) > 0 || want != "" && (len(said) != 1 || !strings.Contains(said[0], want)) {
				t.Errorf("it says %q, want %q", said, want)
			}
		})
	}
}

// A container whose pod isn't there doesn't get another isolation than it may count on without a word.
func TestPodGone(t *testing.T) {
	var warnings []string
	r := newRuntime(t)
	r = &hull.Runtime{Root: r.Root, Warn: func(line string) { warnings = append(warnings, line) }}
	bundle := hulltest.Bundle(t, args("sleep", "3600"))
	for _, said := range []bool{false, true} {
		s := unshared(t, bundle)
		s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "gone"}
		if said {
			r.Isolation = hull.Native
		}
		warnings = nil
		c, err := r.Create(t.Context(), fmt.Sprint("member-", said), hull.CreateOptions{Spec: s, Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		remove(t, r, c)
		const want = `annotations.io.kubernetes.cri.sandbox-id: there is no container "gone", in whose sandbox this one would be: it has native isolation`
		if got := slices.Contains(warnings, want); got == said {
			t.Errorf("isolation said: %v; warnings %q", said, warnings)
		}
	}
}

func TestList(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("sleep", "3600"))
	for _, id := range []string{"c", "a", "broken", "b"} {
		c, err := r.Create(t.Context(), id, hull.CreateOptions{Spec: unshared(t, bundle), Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		remove(t, r, c)
	}
	var warnings []string
	r = &hull.Runtime{Root: r.Root, Warn: func(line string) { warnings = append(warnings, line) }}
	record := filepath.Join(r.Root, "broken", "state")
	content := readFile(t, record)
	write(t, record, "junk\n")
	defer write(t, record, content+"\n") // to be found by delete
	all, err := r.List()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range all {
		ids = append(ids, s.ID+" "+string(s.Status))
	}
	expect(t, []string{"a created", "b created", "c created"}, ids)
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0], "broken: ") {
		t.Errorf("warnings %q", warnings)
	}
}

func rm(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

var unsharedCount int

// unshared returns a bundle's configuration with another cgroup, so that it can be used more than once.
func unshared(t testing.TB, bundle string) *specs.Spec {
	t.Helper()
	s := readSpec(t, bundle)
	unsharedCount++
	s.Linux.CgroupsPath += "-" + strconv.Itoa(unsharedCount)
	return s
}

func TestPidFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := create(t, newRuntime(t), hull.CreateOptions{PidFile: file})
	expect(t, strconv.Itoa(c.Init().Pid), readFile(t, file))
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 1 {
		t.Errorf("files %v", left)
	}
}

// Neither what a creation has left that was killed, nor a place where no file can be, is in the way for good.
func TestPidFileAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pid")
	write(t, filepath.Join(dir, ".pid"), "1")
	c := create(t, newRuntime(t), hull.CreateOptions{PidFile: file})
	expect(t, strconv.Itoa(c.Init().Pid), readFile(t, file))
	mkdir(t, filepath.Join(dir, "taken"), 0o755)
	_, err := newRuntime(t).Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t), PidFile: filepath.Join(dir, "taken")})
	refused(t, err, unix.EEXIST, "pid file")
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

func TestPidFileThatCannotBe(t *testing.T) {
	r := newRuntime(t)
	_, err := tryRunWith(t, r, hull.CreateOptions{Bundle: hulltest.Bundle(t), PidFile: "/nonexistent/pid"})
	refused(t, err, os.ErrNotExist, "run box", "pid file", "/nonexistent")
}

func TestPidfdSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	received := make(chan int, 1)
	go func() {
		defer close(received)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		if f := receiveFile(conn); f != nil {
			defer f.Close()
			received <- pidOf(f)
		}
	}()
	c := create(t, newRuntime(t), hull.CreateOptions{PidfdSocket: path})
	expect(t, c.Init().Pid, <-received)
}

// receiveFile receives a descriptor.
func receiveFile(conn *net.UnixConn) *os.File {
	_, f := receiveMessage(conn)
	return f
}

// receiveMessage receives a message with a descriptor.
func receiveMessage(conn *net.UnixConn) (string, *os.File) {
	p, oob := make([]byte, 4096), make([]byte, 64)
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, oobn, _, _, err := conn.ReadMsgUnix(p, oob)
	if err != nil {
		return "", nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return string(p[:n]), nil
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return string(p[:n]), nil
	}
	unix.CloseOnExec(fds[0])
	return string(p[:n]), os.NewFile(uintptr(fds[0]), "received")
}

// pidOf returns the process that a pidfd names.
func pidOf(f *os.File) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, _ := strconv.Atoi(strings.TrimSpace(v))
			return pid
		}
	}
	return 0
}

func TestStateDirectoryThatCannotBe(t *testing.T) {
	r := newRuntime(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Root = filepath.Join(file, "state")
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	refused(t, err, unix.ENOTDIR, "create box", "state directory")
}

// A state directory without room must not cost more than the creation.
func TestStateDirectoryFull(t *testing.T) {
	for _, options := range []string{"size=4k,nr_inodes=100", "nr_inodes=3", "ro"} {
		t.Run(options, func(t *testing.T) {
			r := newRuntime(t)
			if err := os.Mkdir(r.Root, 0o700); err != nil {
				t.Fatal(err)
			}
			var flags uintptr
			data := options
			if options == "ro" {
				flags, data = unix.MS_RDONLY, ""
			}
			if err := unix.Mount("none", r.Root, "tmpfs", flags, data); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := unix.Unmount(r.Root, 0); err != nil {
					t.Error(err)
				}
			}()
			_, err := tryRun(t, r)
			want := unix.ENOSPC
			if options == "ro" {
				want = unix.EROFS
			}
			refused(t, err, want, "run box")
		})
	}
}

// What is cancelled before it is done leaves nothing.
func TestCreateCancelled(t *testing.T) {
	r := newRuntime(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := r.Create(ctx, "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	if err == nil {
		remove(t, r, c)
		t.Fatal("a creation goes on when its context has ended")
	}
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.Root, "[^@]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// So does what is cancelled while it is done, up to its last step.
func TestCreateCancelledMeanwhile(t *testing.T) {
	bundle := hulltest.Bundle(t, args("sleep", "3600"))
	for name, create := range map[string]func(*hull.Runtime, context.Context, string, hull.CreateOptions) (*hull.Container, error){
		"create": (*hull.Runtime).Create, "run": (*hull.Runtime).Run,
	} {
		t.Run(name, func(t *testing.T) {
			lines := 0
			for _, part := range []int{0, 1, 2, 3, 4} {
				r := newRuntime(t)
				ctx, cancel := context.WithCancel(t.Context())
				told, last := 0, lines*part/4
				r.Trace = func(string) {
					if told++; part > 0 && told == last {
						cancel()
					}
				}
				c, err := create(r, ctx, "box", hull.CreateOptions{Bundle: bundle})
				cancel()
				if part == 0 {
					lines = told
					if err != nil {
						t.Fatal(errorText(err))
					}
				} else if !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled at line %d of %d: %v", last, lines, err)
				} else if left, _ := filepath.Glob(filepath.Join(r.Root, "*")); len(left) > 0 {
					t.Errorf("cancelled at line %d of %d: left %v", last, lines, left)
				}
				if err == nil {
					if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
						t.Error(err)
					}
					_, _ = c.Init().Wait()
				}
			}
		})
	}
}

// 100 containers, 8 at a time: each does its work, none leaves a thing.
func TestManyContainers(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("echo", "done"))
	n := 100
	if testing.Short() {
		n = 24
	}
	work := make(chan int)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range work {
				if err := oneOfMany(t.Context(), r, bundle, i); err != nil {
					t.Errorf("container %d: %v", i, err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	group.Wait()
	if left, _ := filepath.Glob(filepath.Join(r.Root, "[^@]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func oneOfMany(ctx context.Context, r *hull.Runtime, bundle string, i int) error {
	s, err := loadSpec(bundle)
	if err != nil {
		return err
	}
	s.Linux.CgroupsPath += fmt.Sprintf("-%d", i)
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	id := fmt.Sprintf("many-%d", i)
	c, err := r.Create(ctx, id, hull.CreateOptions{Bundle: bundle, Spec: s, Stdio: hull.Stdio{Out: w}})
	w.Close()
	if err != nil {
		return err
	}
	defer r.Delete(ctx, id, hull.DeleteOptions{Force: true})
	if err := c.Start(ctx); err != nil {
		return err
	}
	if ws, err := c.Init().Wait(); err != nil || ws != 0 {
		return fmt.Errorf("wait: %v, %w", ws, err)
	}
	p := make([]byte, 100)
	if n, err := out.Read(p); err != nil || string(p[:n]) != "done\n" {
		return fmt.Errorf("it says %q, %w", p[:n], err)
	}
	return c.Delete(ctx, hull.DeleteOptions{})
}

// Commands on one container, all at the same time: each answers, none breaks another.
func TestFiftyCommandsAtOnce(t *testing.T) {
	r := newRuntime(t)
	c := runningIn(t, r)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			mine, err := r.Container("box")
			if err != nil {
				t.Error(err)
				return
			}
			switch i % 5 {
			case 0, 1:
				err = execTrue(t.Context(), mine)
			case 2:
				if _, err = mine.State(); err == nil {
					_, err = mine.Processes()
				}
			case 3:
				pids := int64(500 + i)
				err = mine.Update(hull.UpdateOptions{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}})
			case 4:
				if _, err = r.List(); err == nil {
					_, err = mine.Stats()
				}
			}
			if err != nil {
				t.Errorf("command %d: %v", i, errorText(err))
			}
		})
	}
	group.Wait()
	wantStatus(t, c, hull.Running)
}

func execTrue(ctx context.Context, c *hull.Container) error {
	spec := c.ProcessSpec()
	spec.Args = hulltest.Args("true")
	p, err := c.Exec(ctx, hull.ExecOptions{Process: spec, IgnorePaused: true})
	if err != nil {
		return err
	}
	if ws, err := p.Wait(); err != nil || ws != 0 {
		return fmt.Errorf("wait: %v, %w", ws, err)
	}
	return nil
}

// Deleting while others work on the container: they are done, or are told that it is gone.
func TestDeleteAmongOthers(t *testing.T) {
	r := newRuntime(t)
	c := runningIn(t, r)
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			var err error
			switch i % 3 {
			case 0:
				err = execTrue(t.Context(), c)
			case 1:
				err = c.Pause()
			case 2:
				err = c.Resume()
			}
			if err != nil {
				t.Logf("%d: %v", i, err)
			}
		})
	}
	if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	group.Wait()
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Error(err)
	}
	gone(t, c.Init().Pid)
}

// A parked init has its standard streams and the fifo that it waits at; no socket to a hull that has long gone.
func TestParkedDescriptors(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{})
	var fds []string
	for range 100 { // until it has come to rest
		fds = nil
		entries, err := os.ReadDir(procPath(c.Init().Pid, "fd"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			fds = append(fds, e.Name())
		}
		if len(fds) == 4 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	expect(t, "0 1 2 5", strings.Join(fds, " "))
}
