package hulltest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(envLeak) != "" {
		settle = 200 * time.Millisecond // nothing that leaks on purpose goes away
	}
	os.Exit(NoLeaks(m))
}

func TestTokenNamesTheDirectoryOfTemporaryFiles(t *testing.T) {
	token := Token(t)
	if !strings.HasPrefix(token, prefix) || len(token) < len(prefix)+4 {
		t.Errorf("token %q", token)
	}
	if dir := t.TempDir(); !strings.Contains(dir, "/"+token+"/") {
		t.Errorf("a temporary directory is at %s", dir)
	}
}

func TestBuildProg(t *testing.T) {
	prog := Prog(t)
	if again := Prog(t); again != prog {
		t.Errorf("built twice: %s, %s", prog, again)
	}
	out, err := exec.Command(prog, "echo", "hello").CombinedOutput()
	if err != nil || string(out) != "hello\n" {
		t.Errorf("%q, %v", out, err)
	}
	// A static program names no interpreter, and runs where there are no libraries.
	if out, err := exec.Command("go", "version", "-m", prog).Output(); err != nil || !strings.Contains(string(out), "CGO_ENABLED=0") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestBuildSaysWhyNot(t *testing.T) {
	out := t.TempDir() + "/x"
	err := build("hull/hulltest/nonexistent", out)
	if err == nil || !strings.Contains(err.Error(), "go build") || !strings.Contains(err.Error(), "hulltest/nonexistent") {
		t.Errorf("%v", err)
	}
}

func TestBuildOverride(t *testing.T) {
	t.Setenv("HULLTEST_OVERRIDE", "some/prog")
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	p := program{pkg: "hull/hulltest/nonexistent", name: "x", override: "HULLTEST_OVERRIDE"}
	if got, want := p.build(t), dir+"/some/prog"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestHullBinary(t *testing.T) {
	if os.Getenv(envBinary) == "" {
		if _, err := os.Stat("../cmd/hull/main.go"); err != nil {
			t.Skip(err)
		}
	}
	if out, err := exec.Command(HullBinary(t), "--version").CombinedOutput(); err != nil || len(out) == 0 {
		t.Errorf("%q, %v", out, err)
	}
}
