package stub

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// A stub starts in the cgroup that it is given, or, where it can't, in the caller's, and says which.
func TestStartInCgroup(t *testing.T) {
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	haveClone3 := errno == unix.EINVAL // and not forbidden
	for _, tt := range []struct {
		name string
		dir  func(*testing.T) string
		in   bool
	}{
		{"cgroup", unifiedCgroup, haveClone3},
		{"no cgroup", func(t *testing.T) string { return t.TempDir() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tt.dir(t)
			f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			s, err := Start(Config{Cgroup: f})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Kill()
			if s.InCgroup != tt.in {
				t.Errorf("InCgroup is %v", s.InCgroup)
			}
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if in := strings.Contains(string(data), "/"+filepath.Base(dir)+"\n"); in != tt.in {
				t.Errorf("the stub's cgroups are\n%s", data)
			}
		})
	}
}

// unifiedCgroup makes a cgroup of v2.
func unifiedCgroup(t *testing.T) string {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(mount, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir := filepath.Join(mount, fmt.Sprintf("hulltest-stub-%d", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	t.Skip("no cgroup v2 is mounted")
	return ""
}
