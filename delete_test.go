package hull_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/cgroup"
	"hull/internal/store"
)

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
