package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// A result replaces what has come to be at its place meanwhile, and leaves nothing beside it: with a file that has no name
// until it is complete, and on file systems that can't have one.
func TestResultFile(t *testing.T) {
	for _, named := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "r.json")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := openResultFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("the old result is still there: %v", err)
		}
		if named {
			if out.file != nil {
				out.file.Close()
			}
			out.file = nil
		}
		if err := os.WriteFile(path, []byte("another"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := out.write([]byte("new")); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != "new" {
			t.Errorf("got %q, %v", got, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("left: %v", entries)
		}
	}
}
