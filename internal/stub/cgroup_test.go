package stub

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// clone3 is there, and not forbidden.
var clone3 = hulltest.Need{Name: "clone3", Check: func() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.EINVAL {
		return errno
	}
	return nil
}}

// A stub starts in the cgroup that it is given, or, where it can't, in the caller's, and says which.
func TestStartInCgroup(t *testing.T) {
	haveClone3 := clone3.Check() == nil
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

// A cgroup that is frozen, with what is started in it, stops nothing of this program, which may be the one to thaw it.
func TestStartInFrozenCgroup(t *testing.T) {
	hulltest.Require(t, clone3)
	dir := unifiedCgroup(t)
	freeze := filepath.Join(dir, "cgroup.freeze")
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(freeze, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	// Should the program be stopped, this lets it get on.
	rescue := exec.Command("sh", "-c", `sleep 10; echo 0 >"$0"`, freeze)
	if err := rescue.Start(); err != nil {
		t.Fatal(err)
	}
	defer rescue.Wait()
	defer rescue.Process.Kill()

	began := time.Now()
	started := make(chan error)
	go func() {
		s, err := Start(Config{Cgroup: f})
		if err == nil {
			b := new(Batch)
			b.Call(unix.SYS_GETPID)
			err = s.Do(b)
			s.Kill()
		}
		started <- err
	}()
	for pids := []byte(nil); len(pids) == 0 && time.Since(began) < 5*time.Second; { // until it is in the cgroup
		if pids, err = os.ReadFile(filepath.Join(dir, "cgroup.procs")); err != nil {
			t.Error(err)
		}
	}
	runtime.GC()
	if err := exec.Command("true").Run(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("the program has stood still, for %v", took)
	}
	if err := os.WriteFile(freeze, []byte("0"), 0); err != nil {
		t.Error(err)
	}
	if err := <-started; err != nil {
		t.Error(err)
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

// A process that is frozen on cgroup v1 doesn't die when it is killed; hull doesn't wait for somebody to thaw it.
func TestKillFrozen(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir := filepath.Join("/sys/fs/cgroup/freezer", fmt.Sprintf("hulltest-stub-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("needs a freezer of cgroup v1: %v", err)
	}
	defer func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}()
	s, err := Start(Config{})
	if err != nil {
		t.Fatal(err)
	}
	pid := s.Pid
	for file, content := range map[string]string{"cgroup.procs": fmt.Sprint(pid), "freezer.state": "FROZEN"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0); err != nil {
			t.Error(err)
		}
	}
	defer func(d time.Duration) { reapTimeout = d }(reapTimeout)
	reapTimeout = 50 * time.Millisecond
	killed := make(chan struct{})
	go func() {
		s.Kill()
		close(killed)
	}()
	select {
	case <-killed:
	case <-time.After(3 * time.Second):
		t.Error("Kill waits for a process that is frozen")
	}
	if err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0); err != nil {
		t.Error(err)
	}
	<-killed
	for range 1000 { // it is reaped when it ends
		if unix.Kill(pid, 0) == unix.ESRCH {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("it is left as a zombie")
}
