package life

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
)

func owner(info fs.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// The user's ranges of /etc/subuid and /etc/subgid, by newuidmap and newgidmap.
func TestSubordinateIDs(t *testing.T) {
	hulltest.Require(t, hulltest.NonRoot, hulltest.Command("newuidmap"))
	ids := func(own int) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(own), Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65536}}
	}
	b := running(t, func(s *specs.Spec) {
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids(os.Geteuid()), ids(os.Getegid())
	})
	want := fmt.Sprintf("0 %d 1\n1 100000 65536", os.Geteuid())
	var lines []string
	for line := range strings.Lines(b.sh("cat /proc/1/uid_map")) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	equal(t, "uid_map", strings.Join(lines, "\n"), want)
	equal(t, "another user", b.ok("exec", "--user", "5:6", b.id, "sh", "-c", "id -u; id -g"), "5\n6")
}

// undelegated is the need of a cgroup in which the user may make none.
var undelegated = hulltest.Need{Name: "a cgroup that is not the user's", Check: func() error {
	if os.Getenv("HULL_LIFE_UNDELEGATED") == "" {
		return errors.New("HULL_LIFE_UNDELEGATED is not set")
	}
	return nil
}}

// A user who was given no cgroup gets a container without, and a warning; but no limits, and no path.
func TestUndelegated(t *testing.T) {
	hulltest.Require(t, undelegated)
	got := newBox(t, "id -u").run()
	equal(t, "run", got, outcome{out: "0", err: got.err})
	contains(t, "warning", got.err, "no cgroup", "permission denied")

	b := running(t)
	equal(t, "exec", b.sh("echo 5"), "5")
	equal(t, "cgroup", b.cgroup(), cgroupOf(t, os.Getpid()))
	b.ok("kill", b.id, "KILL")
	b.wantStatus("stopped")
	b.ok("delete", b.id)

	got = newBox(t, "true", resources(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(5))} })).run()
	equal(t, "exit status with a limit", got.status, 1)
	contains(t, "message", got.err, "linux.resources.pids.limit", "delegated")

	// In the cgroup of the user's manager cgroups can be made, but nothing from here can be moved there.
	path := fmt.Sprintf("/user.slice/user-%d.slice/user@%[1]d.service/%s", os.Geteuid(), hulltest.Token(t))
	got = newBox(t, "true", func(s *specs.Spec) { s.Linux.CgroupsPath = path }).run()
	equal(t, "exit status with a path", got.status, 1)
	contains(t, "message", got.err, "join the cgroup", "permission denied")
	if _, err := os.Stat("/sys/fs/cgroup" + path); err == nil {
		t.Errorf("%s is left", path)
	}
}
