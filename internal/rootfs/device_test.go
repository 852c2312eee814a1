package rootfs

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestDevices(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.Terminal = true
	mode, uid, gid := os.FileMode(0o640), uint32(7), uint32(8)
	c.Spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/a/b/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/opt/fifo", Type: "p"},
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode},
		{Path: "/dev/ptmx", Type: "c", Major: 5, Minor: 2},
		{Path: "/dev/disk", Type: "b", Major: 254, Minor: 0},
	}
	c.expect(t, `cd /; stat -c '%n %F %t:%T %a %u:%g' dev/a/b/null opt/fifo dev/null dev/zero dev/disk dev/console dev/ptmx; readlink dev/fd; readlink dev/ptmx`, `
dev/a/b/null character special file 1:3 640 7:8
opt/fifo fifo 0:0 666 0:0
dev/null character special file 1:3 640 0:0
dev/zero character special file 1:5 666 0:0
dev/disk block special file fe:0 666 0:0
dev/console regular empty file 0:0 600 0:0
dev/ptmx symbolic link 0:0 777 0:0
/proc/self/fd
pts/ptmx`)
}

// Without a mount on /dev, nodes are made in the image's directory.
func TestDevOfTheImage(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.Spec.Mounts = c.Spec.Mounts[:1]
	write(t, c.rootfs("dev/ptmx"), "")
	c.expect(t, "stat -c '%F %t:%T' /dev/null; readlink /dev/ptmx", "character special file 1:3\npts/ptmx")
}

func TestBoundDevIsLeftAlone(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	dir := t.TempDir()
	c.Spec.Mounts[1] = specs.Mount{Destination: "/dev", Source: dir, Options: []string{"bind"}}
	c.Spec.Mounts = c.Spec.Mounts[:2]
	c.expect(t, "ls /dev", "")
}

func TestConsole(t *testing.T) {
	needRoot(t)
	const script = "stat -c '%F %t:%T' /dev/console; grep ' /dev/console ' /proc/self/mounts | cut -d' ' -f1,3"
	const want = "character special file 88:0\ndevpts devpts"
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			c := newContainer(t)
			c.Terminal, c.console = true, when
			c.Spec.Mounts[1].Options = append(c.Spec.Mounts[1].Options, "ro")
			c.expect(t, script, want)

			dir := t.TempDir() // bound as /dev, without a console
			mkdir(t, dir+"/pts")
			c.Spec.Mounts[1] = specs.Mount{Destination: "/dev", Source: dir, Options: []string{"bind"}}
			c.Spec.Mounts = c.Spec.Mounts[:3]
			c.expect(t, script, want)
		})
	}
}
