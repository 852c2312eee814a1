// Package hulltest has what the tests of hull share: saying what a test needs, bundles to run, the programs to run them
// with, and a check that a package's tests leave nothing behind.
//
// A package whose tests start containers begins with
//
//	func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }
//
// Environment variables:
//
//	HULL_TEST_REQUIRE  names of needs, separated by commas, or "all": a test that would be skipped for want of one fails
//	HULL_TEST_PROG     a built testprog, where there is no Go toolchain
//	HULL_TEST_BINARY   the hull to test; default: cmd/hull of this tree
package hulltest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

const (
	envRequire       = "HULL_TEST_REQUIRE"
	envProg          = "HULL_TEST_PROG"
	envBinary        = "HULL_TEST_BINARY"
	envNetBinary     = "HULL_TEST_NET_BINARY"
	envShimBinary    = "HULL_TEST_SHIM_BINARY"
	envSandboxBinary = "HULL_TEST_SANDBOX_BINARY"
)

// prefix begins the name of everything that tests make outside their directory.
const prefix = "hulltest-"

// work is the directory of this test process, set by NoLeaks.
var work struct {
	sync.Mutex
	dir string
}

// workDir returns the directory of this test process. Whatever tests make is below it, or has its name in its own, and
// so can be told from what other processes make at the same time.
func workDir(t testing.TB) string {
	t.Helper()
	work.Lock()
	defer work.Unlock()
	if work.dir == "" {
		t.Fatal("hulltest: this package's TestMain must call hulltest.NoLeaks")
	}
	return work.dir
}

// Token returns a name that no other test process has, such as "hulltest-123456". Tests put it into the names of what
// they make in places that all share, such as cgroups and network interfaces, so that NoLeaks finds what is left.
func Token(t testing.TB) string {
	t.Helper()
	return filepath.Base(workDir(t))
}

// makeWorkDir makes the directory and makes it the place of temporary files. Users without privileges, and users of a
// user namespace, may pass through it.
func makeWorkDir() (string, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return "", err
	}
	work.Lock()
	defer work.Unlock()
	work.dir = dir
	return dir, nil
}
