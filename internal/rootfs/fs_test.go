package rootfs

import (
	"os"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
)

func TestTmpfs(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	mkdir(t, c.rootfs("m710"))
	os.Chmod(c.rootfs("m710"), 0o710)
	c.Spec.Root.Readonly = false
	c.mount(specs.Mount{Destination: "/m710", Type: "tmpfs", Source: "tmpfs"})
	c.mount(specs.Mount{Destination: "/new/a", Type: "tmpfs", Source: "tmpfs"})
	c.mount(specs.Mount{Destination: "/ro", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro,mode=700"}})
	c.mount(specs.Mount{Destination: "/ro2", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "mode=700"}})
	c.mount(specs.Mount{Destination: "/ro2/in", Type: "tmpfs", Source: "tmpfs", Options: []string{"silent", "mode=701"}})
	c.Spec.Mounts = append(c.Spec.Mounts[:len(c.Spec.Mounts)-3], c.Spec.Mounts[len(c.Spec.Mounts)-2:]...)
	c.expect(t, "stat -c '%n %a' /m710 /new /new/a /ro2 /ro2/in; grep -o 'm710.*mode=710' /proc/self/mounts; touch /ro2/x 2>&1; touch /ro2/in/x && echo ok", `
/m710 710
/new 755
/new/a 1777
/ro2 700
/ro2/in 701
m710 tmpfs rw,relatime,mode=710
touch: /ro2/x: Read-only file system
ok`)
}

func TestTmpCopyUp(t *testing.T) {
	hulltest.Require(t, hulltest.Openat2)
	needRoot(t)
	for _, userns := range []bool{false, true} {
		t.Run("userns="+strconv.FormatBool(userns), func(t *testing.T) {
			c := newContainer(t)
			src := c.rootfs("etc")
			mkdir(t, src+"/sub/deep")
			write(t, src+"/sub/deep/file", strings.Repeat("x", 100_000))
			write(t, src+"/empty", "")
			link(t, "../../outside", src+"/link")
			unix.Mkfifo(src+"/fifo", 0o640)
			for i := range 300 {
				write(t, src+"/sub/f"+itoa(i), itoa(i))
			}
			vol := t.TempDir()
			write(t, vol+"/marker", "m")
			if userns {
				c.inUserNS(t)
			}
			unix.Chmod(src+"/empty", 0o4710) // chown has taken the bit away
			os.Lchown(src+"/sub/deep/file", 100003, 100004)
			mkdir(t, src+"/vol")
			write(t, src+"/vol/not-copied", "")
			c.mount(specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "ro"}})
			c.mount(specs.Mount{Destination: "/etc/vol", Source: vol, Options: []string{"bind"}})
			id := map[bool]string{true: "3:4", false: "100003:100004"}[userns]
			c.expect(t, "cd /etc; ls sub | wc -l; wc -c <sub/deep/file; stat -c '%u:%g' sub/deep/file; stat -c '%a %F' empty fifo; readlink link; ls vol; cat sub/f299; touch x 2>&1", `
301
100000
`+id+`
4710 regular empty file
640 fifo
../../outside
marker
299touch: x: Read-only file system`)
			if names, _ := os.ReadDir(vol); len(names) != 1 {
				t.Errorf("the volume has %v", names)
			}
		})
	}
}

func TestFileSystems(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	dir := tempDir(t)
	tmpfs(t, dir, 0) // overlayfs wants an upper layer that is no overlay
	for _, d := range []string{"lower", "upper", "work", strings.Repeat("long", 60)} {
		mkdir(t, dir+"/"+d)
	}
	write(t, dir+"/lower/file", "lower")
	c.Spec.Mounts[0].Options = []string{"hidepid=2", "nosuid"}
	layers := []string{"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"}
	c.mount(specs.Mount{Destination: "/etc", Type: "overlay", Source: "overlay", Options: layers})
	c.mount(specs.Mount{Destination: "/tmp", Type: "overlay", Source: "overlay", // too long for fsconfig(2)
		Options: []string{"ro", "lowerdir=" + dir + "/lower:" + dir + "/" + strings.Repeat("long", 60)}})
	c.expect(t, "cat /etc/file /tmp/file; echo upper >/etc/file; grep -o '^proc .proc proc.*hidepid=[a-z0-9]*' /proc/self/mounts; touch /tmp/x 2>&1", `
lowerlowerproc /proc proc rw,nosuid,relatime,hidepid=invisible
touch: /tmp/x: Read-only file system`)
	if data, _ := os.ReadFile(dir + "/upper/file"); string(data) != "upper\n" {
		t.Errorf("upper layer: %q", data)
	}
}

func TestUnknownFileSystem(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.mount(specs.Mount{Destination: "/etc", Type: "nofs", Source: "x"})
	c.fails(t, unix.ENODEV, `mounts[6] "/etc": fsopen nofs: no such device`)
	c.Spec.Mounts[6] = specs.Mount{Destination: "/etc", Type: "tmpfs", Options: []string{"nosuch=1"}}
	c.fails(t, unix.EINVAL, `mounts[6] "/etc": fsconfig nosuch=1: invalid argument`)
}
