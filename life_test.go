package hull_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
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
