package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
)

func pidsLimit(n int64) Config {
	return Config{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}}}
}

// newTransient returns the group, made, and its directory of the pids controller.
func newTransient(t *testing.T, n int64) (*Group, string) {
	t.Helper()
	g, err := NewTransient(pidsLimit(n))
	if err == nil {
		err = g.Create()
	}
	if err != nil {
		if Absent(err) {
			t.Skipf("needs the pids controller: %v", err)
		}
		t.Fatal(err)
	}
	for _, d := range g.dirs() {
		return g, d.path
	}
	t.Fatal("no directory")
	return nil, ""
}

func TestTransientHasWhatItNeeds(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	g, path := newTransient(t, 7)
	if ds := g.dirs(); len(ds) != 1 || !strings.HasPrefix(filepath.Base(path), transientPrefix) {
		t.Errorf("directories %v", ds)
	}
	if err := g.Create(); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := g.Limit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v, err := readValue(path, "pids.max"); err != nil || v != "7" {
		t.Errorf("pids.max %q, %v", v, err)
	}
	if err := g.Destroy(t.Context()); err != nil || exists(path) {
		t.Errorf("destroyed: %v", err)
	}
}

func TestSweepTellsTheDeadFromTheLiving(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	g, path := newTransient(t, 7)
	// One whose maker was killed, though a process has its pid; and one whose processes are still ending.
	dead := filepath.Join(filepath.Dir(path), transientPrefix+"1-1")
	busy := filepath.Join(filepath.Dir(path), transientPrefix+"1-2")
	other := filepath.Join(filepath.Dir(path), hulltest.Token(t))
	for _, p := range []string{dead, busy, other} {
		if err := unix.Mkdir(p, 0o700); err != nil {
			t.Fatal(err)
		}
		defer unix.Rmdir(p)
	}
	sleep := exec.Command("sleep", "100")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	if err := writePid(busy, sleep.Process.Pid); err != nil {
		t.Error(err)
	}
	Sweep()
	if exists(dead) {
		t.Error("a dead one is left")
	}
	for _, p := range []string{path, busy, other} {
		if !exists(p) {
			t.Errorf("%s was swept", p)
		}
	}
	_ = sleep.Process.Kill()
	_ = sleep.Wait()
	Sweep()
	if exists(busy) {
		t.Error("one without processes is left")
	}
	if err := g.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whoever sweeps as others make theirs never keeps them from it.
func TestSweepRacesWithMakers(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	g, _ := newTransient(t, 7) // or skip
	if err := g.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for time.Now().Before(deadline) {
				Sweep()
			}
		})
		wg.Go(func() {
			for time.Now().Before(deadline) {
				g, err := NewTransient(pidsLimit(7))
				if err == nil {
					err = g.Create()
				}
				if err == nil {
					err = g.Limit(t.Context())
				}
				if err == nil {
					err = g.Destroy(t.Context())
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A maker that has lost its directory to a sweeper takes another name.
func TestTransientTakesAnotherName(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	g, path := newTransient(t, 7)
	defer g.Destroy(t.Context())
	if err := g.lock(filepath.Join(filepath.Dir(path), "nothing")); err != errSwept {
		t.Errorf("removed before it is opened: %v", err)
	}
	// Another process has the lock: it is about to remove the directory.
	if err := g.lock(path); err != errSwept {
		t.Errorf("locked: %v", err)
	}
	if g.lock(os.TempDir()) != nil {
		t.Error("not locked by anybody")
	}
}
