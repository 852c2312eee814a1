package linux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenBeneath(t *testing.T) {
	top := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(top, "in/a/b"), 0o755))
	must(os.WriteFile(filepath.Join(top, "out"), nil, 0o644))
	must(os.WriteFile(filepath.Join(top, "in/a/file"), nil, 0o644))
	for link, target := range map[string]string{"up": "../out", "abs": top, "magic": "/proc/self/root", "a/self": "b"} {
		must(os.Symlink(target, filepath.Join(top, "in", link)))
	}
	dir, err := os.Open(filepath.Join(top, "in"))
	must(err)
	defer dir.Close()
	for path, want := range map[string]error{
		".": nil, "a": nil, "a/b": nil, "a/file": nil,
		"none": unix.ENOENT, "a/file/x": unix.ENOTDIR,
		"..": unix.EXDEV, "../out": unix.EXDEV, "/etc": unix.EXDEV, "a/../../out": unix.EXDEV,
		"up": unix.ELOOP, "abs/out": unix.ELOOP, "magic/etc": unix.ELOOP, "a/self": unix.ELOOP,
	} {
		f, err := OpenBeneath(dir, path, unix.O_RDONLY, 0)
		if !errors.Is(err, want) && (HaveOpenat2() || want != unix.ELOOP || !errors.Is(err, unix.ENOTDIR)) {
			t.Errorf("openat2 %s: %v, want %v", path, err, want)
		}
		f.Close()
		fd, err := walkBeneath(int(dir.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		// Without openat2 a link on the way is something that is no directory.
		if !errors.Is(err, want) && (want != unix.ELOOP || err != unix.ENOTDIR) {
			t.Errorf("walk %s: %v, want %v", path, err, want)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
}

func TestOpenBeneathStaysInMount(t *testing.T) {
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := OpenBeneath(root, "proc/version", unix.O_PATH, unix.RESOLVE_NO_XDEV); !errors.Is(err, unix.EXDEV) {
		t.Errorf("openat2: %v", err)
	}
	if _, err := walkBeneath(int(root.Fd()), "proc/version", unix.O_PATH, unix.RESOLVE_NO_XDEV); err != unix.EXDEV {
		t.Errorf("walk: %v", err)
	}
}
