package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/engine"
)

// TestLogIsNoLink has links of an image's maker where CRIU is to write.
func TestLogIsNoLink(t *testing.T) {
	path := t.TempDir()
	for _, name := range []string{restoreLog, "stats-restore"} {
		if err := os.Symlink("/elsewhere", filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s := &service{log: restoreLog}
	if err := s.setOptions(&launch{image: &engine.Image{Dir: dir}, spec: new(specs.Spec)}, 5); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{restoreLog, "stats-restore"} {
		if _, err := os.Lstat(filepath.Join(path, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// TestHintOf has what a CRIU says that is too old for the kernel, and what it says of an option.
func TestHintOf(t *testing.T) {
	for why, want := range map[string]string{
		"vdso: Unexpected rt vDSO area bounds":                   "newer CRIU",
		"Connected TCP socket, consider using --tcp-established": "--tcp-established",
		"something else": "",
	} {
		if got := hintOf(why); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", why, got, want)
		}
	}
}
