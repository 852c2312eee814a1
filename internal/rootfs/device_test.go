package rootfs

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/mnt"
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

// Mounts are made in the order of the configuration, and the kernel lists them in it, also that of /dev, which the parent
// makes for a user namespace.
func TestUserNamespaceListsMountsInOrder(t *testing.T) {
	needRoot(t)
	hulltest.Require(t, hulltest.Kernel(6, 15)) // copies mounts that are attached nowhere
	c := newContainer(t)
	c.inUserNS(t)
	var want []string
	for _, m := range c.Spec.Mounts {
		want = append(want, m.Destination)
	}
	if i := slices.Index(want, "/dev"); i < 1 {
		t.Fatalf("/dev is not among %q, or the first", want)
	}
	c.expect(t, `cut -d' ' -f5 /proc/self/mountinfo | grep -v '^/$' | head -`+strconv.Itoa(len(want)), strings.Join(want, "\n"))
}

// Where the parent can make nodes, a user namespace has its own: its ids own them, and they have the modes of
// linux.devices. What can't be so is bound.
func TestDevicesOfAUserNamespace(t *testing.T) {
	needRoot(t)
	mode, uid, gid, far := os.FileMode(0o640), uint32(7), uint32(8), uint32(70000)
	devices := []specs.LinuxDevice{
		{Path: "/dev/a/b/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/fifo", Type: "p", UID: &uid},
		{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: &mode},
		{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, UID: &far},
	}
	const script = `stat -c '%n %F %t:%T %a %u:%g' /dev /dev/a/b /dev/a/b/null /dev/fifo /dev/kmsg /dev/full /dev/zero /dev/urandom
head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x >/dev/null && echo written; mknod /dev/mine c 1 3 2>&1; touch /dev/new && ls /dev/new
cut -d' ' -f5 /proc/self/mountinfo | grep ^/dev/`
	const own = `
/dev directory 0:0 755 0:0
/dev/a/b directory 0:0 755 0:0
/dev/a/b/null character special file 1:3 640 7:8
/dev/fifo fifo 0:0 666 7:0
/dev/kmsg character special file 1:b 640 0:0
/dev/full character special file 1:7 666 65534:65534
/dev/zero character special file 1:5 666 0:0
/dev/urandom character special file 1:9 666 0:0
4
4
written
mknod: /dev/mine: Operation not permitted
/dev/new
/dev/pts
/dev/shm
/dev/mqueue
/dev/full`
	t.Run("new", func(t *testing.T) {
		c := newContainer(t)
		c.inUserNS(t)
		c.Spec.Linux.Devices = devices
		old := unix.Umask(0o077) // the program's, which may be anyone's
		defer unix.Umask(old)
		c.expect(t, script, own)
	})
	t.Run("joined", func(t *testing.T) {
		c := newContainer(t)
		c.inUserNS(t)
		ns, err := openUserNamespace(source{ids: &mnt.IDMap{UID: ids, GID: ids}})
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = nil, nil
		c.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: "/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(int(ns.Fd()))}}
		c.Spec.Linux.Devices = devices
		c.expect(t, script, own)
	})
	for name, change := range map[string]func(m *specs.Mount){
		"of the image": func(m *specs.Mount) { m.Destination = "/elsewhere" },
		"with nodev":   func(m *specs.Mount) { m.Options = append(m.Options, "nodev") },
		"with an id":   func(m *specs.Mount) { m.Options = append(m.Options, "uid=3") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t)
			c.inUserNS(t)
			c.Spec.Root.Readonly = false
			change(&c.Spec.Mounts[1])
			c.expect(t, "stat -c '%F %t:%T %u' /dev/null; echo x >/dev/null && echo written", "character special file 1:3 65534\nwritten")
		})
	}
	t.Run("covered", func(t *testing.T) {
		c := newContainer(t)
		c.inUserNS(t)
		c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/shm/null", Type: "c", Major: 1, Minor: 3}}
		_, err := c.run(t)
		if err == nil || !strings.Contains(err.Error(), "/dev/shm/null") {
			t.Errorf("error = %v, want that the host has no such device", err)
		}
	})
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
