package rootfs

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
)

func TestCgroup1(t *testing.T) {
	needRoot(t)
	hulltest.Require(t, hulltest.CgroupV1)
	for _, ns := range []bool{false, true} {
		for _, ro := range []string{"ro", "rw"} {
			c := newContainer(t)
			c.Cgroups = Cgroups{NewNamespace: ns, Hierarchies: []Hierarchy{
				{Name: "memory", Options: []string{"memory"}, Dir: "/sys/fs/cgroup/memory"},
				{Name: "systemd", Options: []string{"name=systemd"}, Dir: "/sys/fs/cgroup/systemd"},
			}}
			c.mount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro}})
			c.expect(t, "ls /sys/fs/cgroup; ls /sys/fs/cgroup/memory/tasks /sys/fs/cgroup/systemd/tasks; grep cgroup /proc/self/mountinfo | cut -d' ' -f5,6", strings.ReplaceAll(`
memory
systemd
/sys/fs/cgroup/memory/tasks
/sys/fs/cgroup/systemd/tasks
/sys/fs/cgroup RO,nosuid,nodev,noexec,relatime
/sys/fs/cgroup/memory RO,nosuid,nodev,noexec,relatime
/sys/fs/cgroup/systemd RO,nosuid,nodev,noexec,relatime`, "RO", ro))
		}
	}
}

// An ordinary user may have no cgroup in most hierarchies: what isn't there is not shown, and is no mistake.
func TestCgroup1Rootless(t *testing.T) {
	needRoot(t)
	hulltest.Require(t, hulltest.CgroupV1)
	c := newContainer(t)
	c.Cgroups = Cgroups{Missing: true, Hierarchies: []Hierarchy{
		{Name: "memory", Options: []string{"memory"}, Dir: "/sys/fs/cgroup/memory/nonexistent"},
		{Name: "pids", Options: []string{"pids"}, Dir: "/sys/fs/cgroup/pids"},
	}}
	c.mount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	c.expect(t, "ls /sys/fs/cgroup /sys/fs/cgroup/memory; ls /sys/fs/cgroup/pids/tasks", `
/sys/fs/cgroup:
memory
pids

/sys/fs/cgroup/memory:
/sys/fs/cgroup/pids/tasks`)
}

func TestCgroup2(t *testing.T) {
	needRoot(t)
	host := "nosuid,nodev,noexec,relatime cgroup2" // what is at /sys/fs/cgroup
	if hulltest.CgroupV2.Check() != nil {
		hulltest.Require(t, hulltest.Need{Name: "cgroup2", Check: func() error {
			_, err := os.Stat("/sys/fs/cgroup/unified/cgroup.controllers")
			return err
		}})
		host = "nosuid,relatime tmpfs"
	}
	for _, tt := range []struct {
		ns, userns, rootless bool
		want                 string
	}{
		{ns: true, want: "rw,nosuid,relatime cgroup2"},
		{ns: false, want: "rw,nosuid,relatime cgroup2"},
		{ns: true, userns: true, want: "rw,nosuid,relatime cgroup2"},
		{ns: false, userns: true, want: "rw," + host},
		{ns: false, userns: true, rootless: true, want: "ro," + host},
	} {
		c := newContainer(t)
		if tt.userns {
			c.inUserNS(t)
		}
		c.Cgroups = Cgroups{V2: true, NewNamespace: tt.ns, Missing: tt.rootless}
		c.mount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid"}})
		c.expect(t, `sed -n 's/ - / /; s/ [a-z]*:[0-9]* / /; s, /sys/fs/cgroup \([^ ]* [^ ]*\) .*,=\1,p' /proc/self/mountinfo | cut -d= -f2`, tt.want)
	}
}
