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

// TestDonatedMounts looks at what a sandbox has of the host's files: a descriptor of each mount, from which nothing of
// another is reached.
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
	mounts := 0
	for _, fd := range sandboxFiles(t, cmd.Process.Pid) {
		if mountAlone(t, fd) {
			mounts++
		}
	}
	if mounts < 3 { // the root, /usr and the working tree at least
		t.Errorf("%d mounts", mounts)
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

// mountAlone tells whether the descriptor is of a mount's root, and checks that there is nothing above and nothing mounted below.
func mountAlone(t *testing.T, path string) bool {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	id := func(name string) (uint64, uint64) {
		var st unix.Statx_t
		if err := unix.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID|unix.STATX_INO, &st); err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		return st.Mnt_id, st.Ino
	}
	mount, ino := id(".")
	above, up := id("..")
	if mount != above {
		t.Errorf("%s: above it is another mount", path)
	}
	names, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		if below, _ := id(e.Name()); below != mount {
			t.Errorf("%s: %s is another mount", path, e.Name())
		}
	}
	if ino != up {
		return false
	}
	const noSymFollow = 0x2000 // ST_NOSYMFOLLOW, include/linux/statfs.h, Linux 5.14
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&noSymFollow == 0 {
		t.Errorf("%s: links in it are followed", path)
	}
	return true
}
