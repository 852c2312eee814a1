package cgroup

import (
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
