package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"hull/hulltest"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const rootlessCase = "HULL_TEST_ROOTLESS_CASE"

// TestRootless has an ordinary user, to whom nothing is delegated, make cgroups: this test runs once more as such a one.
func TestRootless(t *testing.T) {
	if name := os.Getenv(rootlessCase); name != "" {
		rootless(t, name)
		return
	}
	hulltest.Require(t, hulltest.Root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Where an ordinary user may execute it.
	dir, err := os.MkdirTemp("/var/tmp", hulltest.Token(t))
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/test", data, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tolerated", "path", "limit"} {
		c := exec.Command(dir+"/test", "-test.run=^TestRootless$")
		c.Dir = dir
		c.Env = append(os.Environ(), rootlessCase+"="+name, "TMPDIR=/tmp")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// rootless is a case of TestRootless.
func rootless(t *testing.T, name string) {
	ctx := context.Background()
	c := Config{ID: hulltest.Token(t), Rootless: true}
	switch name {
	case "path":
		c.Path = "/" + hulltest.Token(t)
	case "limit":
		c.Resources = &specs.LinuxResources{Unified: map[string]string{"cgroup.max.depth": "5"}}
		if Detect() != V2 {
			c.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}
		}
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = g.Create()
	if err == nil {
		err = g.Limit(ctx)
	}
	switch name {
	case "tolerated":
		warnings := g.Warnings()
		if err != nil || len(warnings) != 1 || g.Exists() {
			t.Errorf("no path and no limits: %v, want one warning, got %q", err, warnings)
		}
		if again := g.Warnings(); len(again) > 0 {
			t.Errorf("warnings come twice: %q", again)
		}
		// All that follows goes on without cgroups.
		pids, perr := g.Pids(true)
		frozen, ferr := g.Frozen()
		_, serr := g.Stats()
		if err := errors.Join(perr, ferr, serr, g.Add(ctx, os.Getpid()), g.Destroy(ctx)); err != nil || len(pids) > 0 || frozen {
			t.Errorf("without cgroups: %v, %v, %v", err, pids, frozen)
		}
		saved, err := Open(g.State())
		if err != nil || saved.Destroy(ctx) != nil {
			t.Errorf("Open without cgroups: %v", err)
		}
	case "path":
		if !errors.Is(err, os.ErrPermission) {
			t.Errorf("a path of its own: %v, want a refusal", err)
		}
	case "limit":
		if err == nil || !strings.HasPrefix(err.Error(), "linux.resources.") {
			t.Errorf("a limit: %v, want an error with its field", err)
		}
	}
}

// What a caller killed at any point after New leaves, is removed by Open with the state it saved before Create.
func TestKilledBetween(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	all := len(mustNew(t, newConfig(t, nil)).dirs())
	for n := range all + 1 {
		g := mustNew(t, newConfig(t, nil))
		state := g.State()
		for _, d := range g.dirs()[:n] {
			if err := mkdir(d.path); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Open(state)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Destroy(context.Background()); err != nil || again.Exists() {
			t.Errorf("killed after %d of %d directories: %v, left behind: %v", n, all, err, again.Exists())
		}
	}
}

func mustNew(t *testing.T, c Config) *Group {
	t.Helper()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A process of exec that may not be moved into the container's cgroup runs outside of it, and that is said.
func TestJoinDenied(t *testing.T) {
	dir := t.TempDir()
	// A file that the kernel lets nobody open for writing, root included.
	if err := os.Symlink("/proc/sys/kernel/ostype", dir+"/cgroup.procs"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []Mode{V1, V2} {
		paths := map[string]string{unified: dir}
		if mode == V1 {
			paths = map[string]string{"cpu": dir}
		}
		g := &Group{mode: mode, paths: paths, rootless: true}
		w, err := g.Join(t.Context(), os.Getpid(), 0)
		if err != nil || !strings.Contains(w, "not in the container's cgroup") || !strings.Contains(w, "permission denied") {
			t.Errorf("%v: %v, warning %q; want one", mode, err, w)
		}
		g.rootless = false
		if _, err := g.Join(t.Context(), os.Getpid(), 0); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%v: error = %v, want a refusal", mode, err)
		}
	}
	none := &Group{mode: V2, paths: map[string]string{}, rootless: true}
	if w, err := none.Join(t.Context(), os.Getpid(), 0); err != nil || w != "" {
		t.Errorf("without a cgroup: %v, warning %q", err, w)
	}
}
