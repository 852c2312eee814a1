// Package oci runs the validation programs of OCI's runtime-tools against a runtime.
//
//	RUNTIME=/path/to/hull go test -v -count=1
//
// Each program is a subtest that fails when the program exits non-zero or prints "not ok". The table known has those
// that fail for a reason that isn't the runtime's; one of them that begins to pass is a failure too, so that the table
// stays true. Without RUNTIME the test looks for bin/hull of this checkout.
//
// The programs want root and cgroup v1. They run in a mount namespace that shows them the host's v1 hierarchies, and
// those that the kernel has but the host didn't mount, without a v2 beside them: programs and peers take a mixed set-up
// for v2.
package oci

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	tools   = "github.com/opencontainers/runtime-tools"
	timeout = 3 * time.Minute // of one program; they wait for states in steps of a second
	inside  = "HULL_OCI_NAMESPACE"
)

// TestMain runs the tests again in a mount namespace of their own.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Go makes the mounts of the new namespace private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestValidation(t *testing.T) {
	if os.Getuid() != 0 {
		skip(t, "root", "the validation programs want root")
	}
	rt := runtimePath(t)
	began, err := showCgroupV1()
	if err != nil {
		skip(t, "cgroup1", err.Error())
	}
	t.Cleanup(func() {
		if err := restoreCgroups(began); err != nil {
			t.Errorf("cgroups: %v", err)
		}
	})
	dir := build(t)
	programs := validations(t, filepath.Join(dir, "runtimetest"))
	for name := range known {
		if !slices.Contains(programs, name) {
			t.Errorf("known has %s, which is no validation program", name)
		}
	}
	for _, name := range programs {
		t.Run(name, func(t *testing.T) { validate(t, rt, dir, name) })
	}
}

// skip skips t for want of need; where HULL_TEST_REQUIRE names need, that is a failure.
func skip(t *testing.T, need, reason string) {
	required := strings.Split(os.Getenv("HULL_TEST_REQUIRE"), ",")
	if slices.Contains(required, need) || slices.Contains(required, "all") {
		t.Fatalf("HULL_TEST_REQUIRE has %s: %s", need, reason)
	}
	t.Skip(reason)
}

func runtimePath(t *testing.T) string {
	name := cmp.Or(os.Getenv("RUNTIME"), "../../bin/hull")
	file, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("no runtime to test: %v; make build, or set RUNTIME", err)
	}
	file, err = filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// build puts the programs, runtimetest and the root file system into one directory, as the programs expect to be
// started in it. The directory is kept, so that the next run links only what changed.
func build(t *testing.T) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "hull-test", "oci")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// The pattern tool is the tools of go.mod. runtimetest runs in the container, so it must be static.
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir+"/", "tool")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build tool: %v\n%s", err, out)
	}
	if err := makeRootfs(filepath.Join(dir, fmt.Sprintf("rootfs-%s.tar.gz", runtime.GOARCH))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// makeRootfs copies the module's root file system for this architecture or, as it has none for arm64, makes one from
// busybox.
func makeRootfs(file string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", tools).Output()
	if err != nil {
		return fmt.Errorf("go list %s: %w", tools, err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), filepath.Base(file)))
	if err == nil {
		return os.WriteFile(file, data, 0o644)
	}
	root, err := os.MkdirTemp("", "hull-oci-rootfs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	const script = `mkdir -p bin dev etc proc sys tmp root && cp "$(command -v busybox)" bin/busybox &&
		for a in $(bin/busybox --list); do ln -sf busybox bin/$a; done && echo root:x:0:0:root:/root:/bin/sh >etc/passwd &&
		tar -czf "$0" .`
	cmd := exec.Command("sh", "-ec", script, file)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("root file system from busybox: %w: %s", err, out)
	}
	return nil
}

// validations are the names of the validation programs, read from the module's own list of tools.
func validations(t *testing.T, runtimetest string) []string {
	if _, err := buildinfo.ReadFile(runtimetest); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "tool").Output()
	if err != nil {
		t.Fatalf("go list tool: %v", err)
	}
	var names []string
	for pkg := range strings.FieldsSeq(string(out)) {
		if path.Dir(pkg) == tools+"/validation" {
			names = append(names, path.Base(pkg))
		}
	}
	if len(names) == 0 {
		t.Fatal("go.mod names no validation program")
	}
	return names
}

func validate(t *testing.T, rt, dir, name string) {
	out, err := execute(t, rt, dir, name)
	if err == nil {
		err = verdict(out)
	}
	e := known[name]
	switch {
	case err == nil && e.applies() && !e.racy:
		t.Errorf("passes, but known says: %s", e.reason)
	case err != nil && e.applies():
		t.Skipf("known failure: %s\n%v\n%s", e.reason, err, out)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	}
}

// execute runs one program and returns what it printed.
func execute(t *testing.T, rt, dir, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, name))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNTIME="+rt, "TMPDIR="+tempDir(t))
	// Some containers have no mount namespace of their own. Their mounts go with the program's, before the temporary
	// directory is removed; else that would be a removal of what is below the mounts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.WaitDelay = 5 * time.Second // a container that was left behind may hold the pipe
	return cmd.CombinedOutput()
}

var (
	checked = regexp.MustCompile(`(?m)^\s*ok\b`)
	notOK   = regexp.MustCompile(`(?m)^\s*not ok\b`)
	problem = regexp.MustCompile(`(?m)^\s*"error":.*`)
)

// tempDir is t.TempDir for users of other ids too: the root of a user namespace has to reach the bundles below it.
func tempDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "hull-oci")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// verdict reads the TAP of a program that exited with 0: nothing may be "not ok". Some of the programs, those about
// failing hooks and rlimits, check nothing when all is well; the others of their kind print a diagnostic with an error
// in it instead of a check.
func verdict(out []byte) error {
	if notOK.Match(out) {
		return errors.New("a check is not ok")
	}
	if line := problem.Find(out); line != nil && !checked.Match(out) {
		return fmt.Errorf("no check, and %s", bytes.TrimSpace(line))
	}
	return nil
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		name, out string
		ok        bool
	}{
		{"passes", "TAP version 13\nok 1 - a\nok 2 - b # SKIP no\n1..2\n", true},
		{"fails", "ok 1 - a\nnot ok 2 - b\n", false},
		{"fails inside", "ok 1 - a\n  ---\n    not ok 2 - b\n", false},
		{"plans nothing", "TAP version 13\n1..0\n", true},
		{"plans nothing and complains", "TAP version 13\n  ---\n  {\n    \"error\": \"no hook\"\n  }\n1..0\n", false},
		{"checks and explains", "ok 1 - a\n  ---\n  {\n    \"error\": \"exit status 1\"\n  }\n1..1\n", true},
		{"says nothing", "", true},
		{"word that begins so", "not okay\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := verdict([]byte(tt.out)); (err == nil) != tt.ok {
				t.Errorf("verdict(%q) = %v", tt.out, err)
			}
		})
	}
}
