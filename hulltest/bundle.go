package hulltest

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"hull/spec"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ProgPath is where testprog is in the root file system of a bundle; testprog/main.go says what it can do.
const ProgPath = "/bin/testprog"

// Args returns the arguments of a process that runs a verb of testprog in a bundle.
func Args(verb string, args ...string) []string {
	return append([]string{ProgPath, verb}, args...)
}

// bundles counts the bundles of this process.
var bundles atomic.Int64

// Bundle makes a bundle and returns its directory, which goes away with the test. Its root file system, in rootfs, has
// testprog and empty directories to mount on; all may read it, so that it works in a user namespace too.
//
// Its configuration is hull's example, without a terminal and with a writable root, that runs testprog's verb true in a
// cgroup of its own; the edits are applied to it in their order.
func Bundle(t testing.TB, edits ...func(*specs.Spec)) string {
	t.Helper()
	dir, err := os.MkdirTemp(workDir(t), "bundle-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	makeRootFS(t, filepath.Join(dir, "rootfs"))
	s := configuration(t)
	for _, edit := range edits {
		edit(s)
	}
	if err := spec.Write(dir, s); err != nil {
		t.Fatal(err)
	}
	return dir
}

// configuration returns what Bundle starts from.
func configuration(t testing.TB) *specs.Spec {
	t.Helper()
	s := spec.Example(spec.Options{Args: Args("true")})
	s.Process.Terminal = false
	s.Root.Readonly = false
	s.Linux.CgroupsPath = "/" + Token(t) + "-" + strconv.FormatInt(bundles.Add(1), 10)
	return s
}

// makeRootFS makes a root file system of directories and testprog.
func makeRootFS(t testing.TB, root string) {
	t.Helper()
	for _, dir := range []string{"", "bin", "dev", "etc", "proc", "sys", "tmp"} {
		path := filepath.Join(root, dir)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	if err := copyProgram(testprog.build(t), filepath.Join(root, ProgPath)); err != nil {
		t.Fatal(err)
	}
}

// copyProgram copies a program. A link would be cheaper, but the root of a container may write to what it finds.
func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Chmod(0o755); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
