package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hull/hulltest"
)

// A name is not used again, also by a maker that has the pid of an earlier one and has made as many: what was swept is in a record
// still, whose container would be taken for the new one.
func TestParkedNamesAreNew(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	seen := make(map[string]bool)
	for range 3 {
		transients.Store(0)
		g, err := CreateParked()
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(g.any())
		if err := g.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
		if seen[name] || !strings.HasPrefix(name, parkedPrefix) {
			t.Errorf("name %q, after %v", name, seen)
		}
		seen[name] = true
	}
}

// On v2 a container keeps the name of the parked cgroup that it was given. When it has stopped, that is as empty and as little locked as
// one whose maker was killed, and not for sweepers all the same: delete and statistics look for it.
func TestSweepLeavesContainers(t *testing.T) {
	parent := t.TempDir()
	left, taken := filepath.Join(parent, parkedPrefix+"1-a"), filepath.Join(parent, parkedPrefix+"1-b")
	for _, dir := range []string{left, taken} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g := &Group{mode: V2, paths: map[string]string{unified: filepath.Join(parent, "web1")}}
	if err := g.adoptDir(t.Context(), g.dirs()[0], taken); err != nil || g.paths[unified] != taken {
		t.Fatalf("adopted: %v, %v", g.paths, err)
	}
	sweep(parent, parkedPrefix, isParked)
	if exists(left) || !exists(taken) {
		t.Errorf("after the sweep: that of a maker which was killed %v, a container's %v", exists(left), exists(taken))
	}
}
