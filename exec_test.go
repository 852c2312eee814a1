package hull_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// The init of a pid namespace stays until the last zombie in it is reaped, which is up to whoever has started that one.
func TestDeleteAmongZombies(t *testing.T) {
	c := running(t)
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	added, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
	if err != nil {
		t.Fatal(err)
	}
	if err := added.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, added.Pid)
	began := time.Now()
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it takes %v", took)
	}
	expect(t, "signal SIGKILL", wait(t, added))
}

// An exec in a container that is deleted under it says that of the container, not what of it was gone first.
func TestExecAmidDelete(t *testing.T) {
	for round := range 20 {
		r := newRuntime(t)
		c := runningIn(t, r)
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				spec := c.ProcessSpec()
				spec.Args = hulltest.Args("true")
				for {
					p, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec})
					if err == nil {
						p.Wait() // maybe killed
						continue
					}
					if !errors.Is(err, hull.ErrBadState) && !errors.Is(err, hull.ErrNotExist) {
						t.Errorf("round %d: %v", round, err)
					}
					return
				}
			})
		}
		time.Sleep(time.Duration(round) * time.Millisecond)
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
		group.Wait()
	}
}

// A container that was not started has processes of exec, too; its own program waits all the same.
func TestExecBeforeStart(t *testing.T) {
	streams := newStreams(t)
	c := create(t, newRuntime(t), hull.CreateOptions{Stdio: streams.stdio()}, args("do", "echo", "first", ",", "trap", "TERM"))
	stays := c.ProcessSpec()
	stays.Args = hulltest.Args("sleep", "3600")
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: stays})
	if err != nil {
		t.Fatal(errorText(err))
	}
	says(t, exec1(t, c, verb("echo", "early")), "early")
	wantStatus(t, c, hull.Created)
	expect(t, "", readAll(t, streams.out))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	eventually(t, "the program runs", func() bool { return readAll(t, streams.out) == "first\nready\n" })
	wantStatus(t, c, hull.Running)
	if err := proc.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	expect(t, "signal SIGKILL", wait(t, proc))
	if err := c.Signal(unix.SIGTERM, false); err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, outcome{"0", "first\nready\nSIGTERM\n", ""}, streams.outcome(t, c.Init()))
}

// What is deprecated in the configuration is told once, and not at each exec.
func TestExecRepeatsNoWarning(t *testing.T) {
	var warnings []string
	r := newRuntime(t)
	r.Warn = func(line string) { warnings = append(warnings, line) }
	c := runningIn(t, r, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "relative", Type: "tmpfs", Source: "tmpfs"})
	})
	if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, "deprecated") }) {
		t.Fatalf("warnings %q", warnings)
	}
	warnings = nil
	p := c.ProcessSpec()
	p.Args = hulltest.Args("true")
	process, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process.Wait(); err != nil || len(warnings) > 0 {
		t.Errorf("warnings %q, error %v", warnings, err)
	}
}
