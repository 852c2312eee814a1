package rootfs

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestCgroup1(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat("/sys/fs/cgroup/memory/tasks"); err != nil {
		t.Skip("needs cgroup v1")
	}
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

func TestCgroup2(t *testing.T) {
	needRoot(t)
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup/unified", &st); st.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Skip("needs cgroup v2")
	}
	for _, tt := range []struct {
		ns, userns, rootless bool
		want                 string
	}{
		{ns: true, want: "rw,nosuid,relatime cgroup2"},
		{ns: false, want: "rw,nosuid,relatime cgroup2"},
		{ns: true, userns: true, want: "rw,nosuid,relatime cgroup2"},
		{ns: false, userns: true, want: "rw,nosuid,relatime tmpfs"}, // what the host of a test with v1 has there
		{ns: false, userns: true, rootless: true, want: "ro,nosuid,relatime tmpfs"},
	} {
		c := newContainer(t)
		if tt.userns {
			c.inUserNS(t)
		}
		c.Rootless = tt.rootless
		c.Cgroups = Cgroups{V2: true, NewNamespace: tt.ns}
		c.mount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid"}})
		c.expect(t, `sed -n 's/ - / /; s/ [a-z]*:[0-9]* / /; s, /sys/fs/cgroup \([^ ]* [^ ]*\) .*,=\1,p' /proc/self/mountinfo | cut -d= -f2`, tt.want)
	}
}
