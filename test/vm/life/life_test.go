package life

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestRun(t *testing.T) {
	got := newBox(t, "id -u; hostname; exit 7").run()
	equal(t, "run", got, outcome{7, "0\nhull", ""})
	got = newBox(t, "kill -TERM $$").run()
	if got.status != 128+15 && got.status != 0 { // an init that doesn't handle a signal doesn't get its own
		t.Errorf("run of what kills itself: %+v", got)
	}
}

func TestLife(t *testing.T) {
	b := newBox(t, "exec sleep 3600")
	b.ok("create", "--bundle", b.bundle, b.id)
	b.wantStatus("created")
	b.ok("start", b.id)
	b.wantStatus("running")
	cgroup := b.cgroup()
	contains(t, "cgroup", cgroup, b.id)
	equal(t, "exec", b.sh("echo 5"), "5")
	contains(t, "ps", b.ok("ps", b.id), "sleep 3600")
	contains(t, "list", b.ok("list", "--quiet"), b.id)

	b.ok("pause", b.id)
	b.wantStatus("paused")
	b.wantFiles(map[string]string{"cgroup.freeze": "1"})
	contains(t, "cgroup.events", b.read(cgroup+"/cgroup.events"), "frozen 1")
	if got := b.do("exec", b.id, "true"); got.status == 0 {
		t.Error("exec in a paused container succeeds")
	}
	b.ok("resume", b.id)
	b.wantStatus("running")
	b.wantFiles(map[string]string{"cgroup.freeze": "0"})

	b.ok("kill", b.id, "KILL")
	b.wantStatus("stopped")
	b.ok("delete", b.id)
	noCgroup(t, cgroup)
	if got := b.do("state", b.id); got.status == 0 {
		t.Errorf("state of what is deleted: %s", got.out)
	}
}

// noCgroup waits until a cgroup is gone: systemd removes its own when it gets to it.
func noCgroup(t *testing.T, dir string) {
	t.Helper()
	gone := func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	}
	if systemd() {
		eventually(t, dir+" is removed", gone)
	} else if !gone() {
		t.Errorf("%s is left", dir)
	}
}

func TestDeleteForce(t *testing.T) {
	for _, how := range []string{"created", "running", "paused"} {
		t.Run(how, func(t *testing.T) {
			b := newBox(t, "sleep 3600 & sleep 3600")
			b.ok("create", "--bundle", b.bundle, b.id)
			if how != "created" {
				b.ok("start", b.id)
			}
			if how == "paused" {
				b.ok("pause", b.id)
			}
			cgroup := b.cgroup()
			b.ok("delete", "--force", b.id)
			noCgroup(t, cgroup)
		})
	}
}

// Without a pid namespace nothing dies with the container's init.
func TestKillAll(t *testing.T) {
	b := newBox(t, "sleep 3600 & sleep 3600 & exec sleep 3600", without(specs.PIDNamespace), hostProc)
	b.ok("create", "--bundle", b.bundle, b.id)
	b.ok("start", b.id)
	cgroup := b.cgroup()
	pids := func() []string {
		data, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		if err != nil && !os.IsNotExist(err) { // systemd removes it when it is empty
			t.Fatal(err)
		}
		return strings.Fields(string(data))
	}
	eventually(t, "three processes", func() bool { return len(pids()) == 3 })
	b.ok("kill", "--all", b.id, "KILL")
	b.wantStatus("stopped")
	eventually(t, "no process is left", func() bool { return len(pids()) == 0 })
	b.ok("delete", b.id)
	noCgroup(t, cgroup)
}

// A container may make cgroups of its own in its; they go with it.
func TestOwnCgroups(t *testing.T) {
	b := running(t, writableCgroup)
	cgroup := b.cgroup()
	b.sh("mkdir -p /sys/fs/cgroup/a/b && echo $$ >/sys/fs/cgroup/a/b/cgroup.procs && (sleep 3600 >/dev/null 2>&1 &)")
	if b.read(cgroup+"/a/b/cgroup.procs") == "" {
		t.Error("nothing is in the cgroup that the container has made")
	}
	equal(t, "exec in one of them", cgroupLine(b.ok("exec", "--cgroup", "a", b.id, "cat", "/proc/self/cgroup")), "/a")
	b.ok("delete", "--force", b.id)
	noCgroup(t, cgroup)
}

func cgroupLine(file string) string { return strings.TrimPrefix(file, "0::") }

// An init that moves to a cgroup below, to use controllers there as systemd does, makes the container's own take no
// processes any more ("no internal processes", cgroups(7)). exec follows the init.
func TestExecFollowsInit(t *testing.T) {
	const script = `cd /sys/fs/cgroup && mkdir init && echo 1 >init/cgroup.procs && echo +pids >cgroup.subtree_control &&
		touch /tmp/moved && exec sleep 3600`
	b := newBox(t, script, writableCgroup)
	b.ok("create", "--bundle", b.bundle, b.id)
	b.ok("start", b.id)
	eventually(t, "the init has moved", func() bool { return strings.HasSuffix(b.cgroup(), "/init") })
	eventually(t, "the controllers are on", func() bool {
		return b.read(filepath.Join(filepath.Dir(b.cgroup()), "cgroup.subtree_control")) == "pids"
	})
	equal(t, "cgroup of exec", cgroupLine(b.ok("exec", b.id, "cat", "/proc/self/cgroup")), "/init")
}

func TestExecJoins(t *testing.T) {
	b := running(t)
	cgroup := b.cgroup()
	pidFile := filepath.Join(b.bundle, "pid")
	b.ok("exec", "--detach", "--pid-file", pidFile, b.id, "sleep", "3600")
	var pid int
	if _, err := fmt.Sscan(b.read(pidFile), &pid); err != nil {
		t.Fatal(err)
	}
	equal(t, "cgroup of exec", cgroupOf(t, pid), cgroup)
	equal(t, "cgroup seen from inside", b.sh("cat /proc/self/cgroup"), "0::/")
}

// linux.cgroupsPath in the form of each driver.
func TestCgroupsPath(t *testing.T) {
	b := newBox(t, "exec sleep 3600")
	path, want := "hulltest-deep.slice:box:"+b.id, "/hulltest.slice/hulltest-deep.slice/box-"+b.id+".scope"
	if !systemd() {
		above := filepath.Join(filepath.Dir(cgroupOf(t, os.Getpid())), b.id)
		t.Cleanup(func() { // after the container's
			if err := errors.Join(os.Remove(above+"/deep"), os.Remove(above)); err != nil {
				t.Error(err)
			}
		})
		want = strings.TrimPrefix(above, "/sys/fs/cgroup") + "/deep/er"
		path = want
	}
	b = newBox(t, "exec sleep 3600", func(s *specs.Spec) { s.Linux.CgroupsPath = path })
	b.ok("create", "--bundle", b.bundle, b.id)
	cgroup := b.cgroup()
	contains(t, "cgroup", cgroup, want)
	b.ok("delete", "--force", b.id)
	noCgroup(t, cgroup)
}
