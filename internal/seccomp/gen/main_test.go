package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hull/hulltest"
)

// TestTables fails if tables.go isn't what gen makes of the x/sys in go.mod.
func TestTables(t *testing.T) {
	hulltest.Require(t, hulltest.Command("go"))
	file := filepath.Join(t.TempDir(), "tables.go")
	if out, err := exec.Command("go", "run", ".", "-o", file).CombinedOutput(); err != nil {
		t.Fatalf("gen: %v\n%s", err, out)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../tables.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("tables.go is out of date: go generate ./internal/seccomp")
	}
}
