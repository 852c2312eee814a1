package hulltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// A program is built at most once in a test process.
type program struct {
	pkg      string // its import path
	name     string // its file's name
	override string // the environment variable that names a built one

	once sync.Once
	path string
	err  error
}

var (
	testprog = program{pkg: "hull/hulltest/testprog", name: "testprog", override: envProg}
	hull     = program{pkg: "hull/cmd/hull", name: "hull", override: envBinary}
	sandbox  = program{pkg: "hull/cmd/hull-sandbox", name: "hull-sandbox", override: envSandboxBinary}
	hullNet  = program{pkg: "hull/cmd/hull-net", name: "hull-net", override: envNetBinary}
	shim     = program{pkg: "hull/cmd/containerd-shim-hull-v1", name: "containerd-shim-hull-v1", override: envShimBinary}
)

// HullBinary returns the path of hull's command line, built from this tree unless HULL_TEST_BINARY names another.
func HullBinary(t testing.TB) string {
	t.Helper()
	return hull.build(t)
}

// HullNetBinary returns the path of hull-net, built from this tree unless HULL_TEST_NET_BINARY names another.
func HullNetBinary(t testing.TB) string {
	t.Helper()
	return hullNet.build(t)
}

// ShimBinary returns the path of containerd's shim, built from this tree unless HULL_TEST_SHIM_BINARY names another.
func ShimBinary(t testing.TB) string {
	t.Helper()
	return shim.build(t)
}

// SandboxBinary returns the path of hull-sandbox, built from this tree unless HULL_TEST_SANDBOX_BINARY names another.
func SandboxBinary(t testing.TB) string {
	t.Helper()
	return sandbox.build(t)
}

// Prog returns the path of testprog on the host, for tests that run it without a container.
func Prog(t testing.TB) string {
	t.Helper()
	return testprog.build(t)
}

func (p *program) build(t testing.TB) string {
	t.Helper()
	dir := workDir(t)
	p.once.Do(func() {
		if p.path = os.Getenv(p.override); p.path != "" {
			p.path, p.err = filepath.Abs(p.path)
			return
		}
		p.path = filepath.Join(dir, p.name)
		p.err = build(p.pkg, p.path)
	})
	if p.err != nil {
		t.Fatalf("hulltest: %v", p.err)
	}
	return p.path
}

// build builds a static program for the architecture of this test, which may run under an emulator.
func build(pkg, out string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, output)
	}
	return nil
}
