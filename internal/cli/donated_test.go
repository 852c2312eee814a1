package cli

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// TestDonatedMounts looks at what a sandbox has of the host's files: whatever descriptor it climbs from, it ends in the one tree that shows what the
// command may see.
func TestDonatedMounts(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr, hulltest.Kernel(5, 14))
	link := sandboxLink(t)
	if err := os.Symlink(hulltest.SandboxBinary(t), link); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(link)
	cmd := exec.Command(hulltest.HullBinary(t), "do", "--isolation", "sandbox", "sh", "-c", "echo ready; sleep 60")
	cmd.Dir = t.TempDir()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	roots := make(map[uint64]string)
	for _, path := range sandboxFiles(t, cmd.Process.Pid) {
		if fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			root := climb(t, fd)
			roots[mountID(t, root, "")] = path
			unix.Close(root)
		}
	}
	if len(roots) != 1 {
		t.Fatalf("%d trees", len(roots))
	}
	for _, path := range roots {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		root := climb(t, fd)
		defer unix.Close(root)
		checkTree(t, root)
	}
}

// sandboxFiles returns the paths of all descriptors of the kernel in a sandbox, which is below hull.
func sandboxFiles(t *testing.T, pid int) (paths []string) {
	t.Helper()
	for pids := []int{pid}; len(pids) > 0; pids = pids[1:] {
		proc := fmt.Sprintf("/proc/%d", pids[0])
		if comm, _ := os.ReadFile(proc + "/comm"); strings.TrimSpace(string(comm)) == "hull-sandbox" {
			paths, err := filepath.Glob(proc + "/fd/*")
			if err != nil {
				t.Fatal(err)
			}
			return paths
		}
		tasks, _ := filepath.Glob(proc + "/task/*/children")
		for _, task := range tasks {
			list, _ := os.ReadFile(task)
			for field := range strings.FieldsSeq(string(list)) {
				var child int
				if _, err := fmt.Sscan(field, &child); err == nil {
					pids = append(pids, child)
				}
			}
		}
	}
	t.Fatal("no sandbox")
	return nil
}

// climb goes up from a directory, which it closes, and returns the one that nothing is above.
func climb(t *testing.T, dir int) int {
	t.Helper()
	for {
		var here, above unix.Statx_t
		for name, st := range map[string]*unix.Statx_t{".": &here, "..": &above} {
			if err := unix.Statx(dir, name, 0, unix.STATX_MNT_ID|unix.STATX_INO, st); err != nil {
				t.Fatalf("statx %s: %v", name, err)
			}
		}
		if here.Mnt_id == above.Mnt_id && here.Ino == above.Ino {
			return dir
		}
		up, err := unix.Openat(dir, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(dir)
		if err != nil {
			t.Fatal(err)
		}
		dir = up
	}
}

func mountID(t *testing.T, dir int, name string) uint64 {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		t.Fatalf("statx %s: %v", name, err)
	}
	return st.Mnt_id
}

// checkTree checks that the root, and what is mounted in it, is of the kinds that hull has made, and that the host's kernel gives nothing away there.
func checkTree(t *testing.T, root int) {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", root))
	if err != nil {
		t.Fatal(err)
	}
	mounts := 0
	for _, name := range append([]string{"."}, dirNames(names)...) {
		if name != "." && mountID(t, root, name) == mountID(t, root, "") {
			continue
		}
		mounts++
		fd, err := unix.Openat(root, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var fs unix.Statfs_t
		err = unix.Fstatfs(fd, &fs)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		const noSymFollow = 0x2000 // ST_NOSYMFOLLOW, include/linux/statfs.h, Linux 5.14
		if want := int64(noSymFollow | unix.ST_NOSUID | unix.ST_NODEV); fs.Flags&want != want {
			t.Errorf("%s: flags %#x", name, fs.Flags)
		}
		if fs.Type != unix.OVERLAYFS_SUPER_MAGIC && fs.Type != unix.TMPFS_MAGIC {
			t.Errorf("%s: a file system of type %#x", name, fs.Type)
		}
	}
	if mounts < 2 { // the root and /usr at least
		t.Errorf("%d mounts", mounts)
	}
}

func dirNames(entries []os.DirEntry) (names []string) {
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}
