package rootfs

import (
	"os"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/fault"
	"hull/internal/mnt"
)

func TestBindTargets(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	dir := t.TempDir()
	write(t, dir+"/file", "content")
	c.Spec.Root.Readonly = false
	// As runc's tests have it: links that lead nowhere yet.
	link(t, "/tmp/foo/bar", c.rootfs("jump"))
	link(t, "/jump/baz/hosts", c.rootfs("etc/hosts"))
	link(t, "/tmp/dir", c.rootfs("etc/dir"))
	link(t, "../../../../../../escaped", c.rootfs("etc/up"))
	write(t, c.rootfs("etc/old"), "old")
	for to, from := range map[string]string{
		"/etc/hosts": "/file", "/etc/dir": "", "/a/b/c/file": "/file", "/etc/old": "/file", "/etc/up/x": "",
	} {
		c.mount(specs.Mount{Destination: to, Source: dir + from, Options: []string{"bind"}})
	}
	c.expect(t, "cat /tmp/foo/bar/baz/hosts /tmp/dir/file /a/b/c/file /etc/old /escaped/x/file; stat -c %a /a/b/c /tmp/foo/bar", strings.Repeat("content", 5)+"755\n755")
}

func TestBindAttributes(t *testing.T) {
	needRoot(t)
	dir := tempDir(t)
	tmpfs(t, dir, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME)
	for _, tt := range []struct{ options, want, userns string }{
		{"bind", "rw,nosuid,nodev,noatime", "rw,nosuid,nodev,noatime"},
		{"bind,defaults", "rw,nosuid,nodev,noatime", "rw,nosuid,nodev,noatime"},
		{"bind,ro", "ro,noatime", "ro,nosuid,nodev,noatime"},
		{"bind,async", "rw,noatime", "rw,nosuid,nodev,noatime"},
		{"bind,atime", "rw,noatime", "rw,nosuid,nodev,noatime"},
		{"bind,relatime", "rw,relatime", "operation not permitted"},
		{"bind,strictatime", "rw", "operation not permitted"},
		{"bind,nodiratime", "rw,nodiratime,relatime", "operation not permitted"},
		{"bind,dev", "rw,noatime", "operation not permitted"},
		{"bind,noexec,nosymfollow", "rw,noexec,noatime,nosymfollow", "rw,nosuid,nodev,noexec,noatime,nosymfollow"},
		{"rbind,rro,rnoexec", "ro,nosuid,nodev,noexec,noatime", "ro,nosuid,nodev,noexec,noatime"},
		{"rbind,rrelatime", "rw,nosuid,nodev,relatime", "operation not permitted"},
	} {
		for _, userns := range []bool{false, true} {
			t.Run(tt.options+",userns="+strconv.FormatBool(userns), func(t *testing.T) {
				if strings.Contains(tt.options, "rbind") || strings.Contains(tt.options, "nosymfollow") {
					hulltest.Require(t, hulltest.MountSetattr)
				}
				c := newContainer(t)
				if userns {
					c.inUserNS(t)
					tt.want = tt.userns
				}
				c.mount(specs.Mount{Destination: "/etc", Source: dir, Options: strings.Split(tt.options, ",")})
				c.script = "grep ' /etc ' /proc/self/mountinfo | cut -d' ' -f6"
				got, err := c.run(t)
				if err != nil {
					got = err.(*fault.Error).Err.Error()
				}
				if got != tt.want {
					t.Errorf("%s: %s, want %s", tt.options, got, tt.want)
				}
			})
		}
	}
}

func tmpfs(t testing.TB, dir string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestRecursiveReadonly(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mkdir(t, dir+"/sub")
	tmpfs(t, dir+"/sub", 0)
	hulltest.Require(t, hulltest.MountSetattr)
	for option, want := range map[string]string{"ro": "ro rw", "rro": "ro ro"} {
		c := newContainer(t)
		c.mount(specs.Mount{Destination: "/etc", Source: dir, Options: []string{"rbind", option}})
		c.expect(t, "grep ' /etc' /proc/self/mountinfo | cut -d' ' -f6 | cut -c1-2 | xargs", want)
	}
}

func TestRemount(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.mount(specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"remount", "size=4096k", "noexec"}})
	c.mount(specs.Mount{Destination: "/sys", Options: []string{"bind", "remount", "ro", "noexec"}})
	c.expect(t, "grep ' /dev/shm ' /proc/self/mounts | sed s/,inode64//; grep ' /sys ' /proc/self/mounts", "shm /dev/shm tmpfs rw,noexec,relatime,size=4096k 0 0\nsysfs /sys sysfs ro,noexec,relatime 0 0")
}

// needIDMap skips the test if the file system that it runs on can't be idmapped.
func needIDMap(t *testing.T, dir string) {
	t.Helper()
	m := mnt.Mount{Source: dir, IDMap: &mnt.IDMap{UID: ids, GID: ids}}
	f, err := new(Plan).open(source{tree: &m})
	if err != nil {
		t.Skip("needs idmapped mounts: ", err)
	}
	f.Close()
}

func TestIDMap(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	needIDMap(t, dir)
	write(t, dir+"/file", "")
	os.Chmod(dir, 0o755)
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 1000}}
	c := newContainer(t)
	c.mount(specs.Mount{Destination: "/a", Source: dir, Options: []string{"bind", "idmap"}, UIDMappings: m, GIDMappings: m})
	c.mount(specs.Mount{Destination: "/b", Source: dir, Options: []string{"bind", "ro"}, UIDMappings: m, GIDMappings: m})
	c.expect(t, "stat -c %u:%g /a/file /b/file", "5000:5000\n5000:5000")

	c = newContainer(t)
	c.inUserNS(t)
	c.mount(specs.Mount{Destination: "/etc", Source: dir, Options: []string{"bind", "idmap"}})
	c.expect(t, "stat -c %u:%g /etc/file", "0:0")
}

// Mounts are made in order, and a source may be what an earlier one has made.
func TestMountOrder(t *testing.T) {
	needRoot(t)
	for _, userns := range []bool{false, true} {
		for _, options := range []string{"rbind", "rbind,idmap"} {
			t.Run(options+",userns="+strconv.FormatBool(userns), func(t *testing.T) {
				c := newContainer(t)
				if strings.Contains(options, "idmap") {
					needIDMap(t, c.Bundle)
				}
				src := c.Bundle + "/src"
				for _, dir := range []string{"a/x", "b/y", "c/z"} {
					mkdir(t, src+"/"+dir)
					write(t, src+"/"+dir+"/file", dir)
				}
				link(t, "b", src+"/to-b")
				link(t, "a", src+"/to-a")
				os.Chmod(src, 0o750)
				if userns {
					c.inUserNS(t)
				}
				bind := func(from, to, options string) {
					m := specs.Mount{Source: from, Destination: to, Options: strings.Split(options, ",")}
					if strings.Contains(options, "idmap") {
						m.UIDMappings, m.GIDMappings = ids, ids
					}
					c.mount(m)
				}
				mkdir(t, c.rootfs("final"))
				bind(src+"/a", "/mnt", "bind")
				bind(src+"/to-b", "/mnt/x", "bind")
				bind(src+"/c", "/mnt/x/y", "bind")
				bind(src+"/to-a", "/mnt/x/y/z", "bind")
				bind(c.rootfs("mnt/x"), c.rootfs("mnt/x/y/z/x"), options)
				bind(c.rootfs("mnt/x/y"), c.rootfs("mnt/x/y/z"), options)
				bind(c.rootfs("mnt"), c.rootfs("final"), options)
				c.expect(t, "cat /final/x/y/z/z/x/y/z/x/file", "a/x")
			})
		}
	}
}

func TestIDMapRefused(t *testing.T) {
	hulltest.Require(t, hulltest.MountSetattr)
	needRoot(t)
	c := newContainer(t)
	c.mount(specs.Mount{Destination: "/etc", Source: "/tmp", Options: []string{"bind", "idmap"}})
	c.fails(t, fault.BadSpec, "idmap needs uidMappings")
}

func TestFileOnDirectory(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.mount(specs.Mount{Destination: "/etc", Source: busybox, Options: []string{"bind"}})
	_, err := c.run(t)
	p, _ := New(c.Config)
	if err = p.Explain(err); !strings.Contains(fault.Hint(err), "nor a file on a directory") {
		t.Errorf("error = %v, hint %q", err, fault.Hint(err))
	}
}

// With many mounts descriptors are closed in time.
func TestManyMounts(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	dir := t.TempDir()
	for i := range 300 {
		c.mount(specs.Mount{Destination: "/m/a/b/" + itoa(i), Source: dir, Options: []string{"rbind", "ro", "rprivate"}})
	}
	c.hook = func(pid int) {
		if fds, err := os.ReadDir("/proc/" + itoa(pid) + "/fd"); err != nil || len(fds) > 100 {
			t.Errorf("%d descriptors, %v", len(fds), err)
		}
	}
	c.expect(t, "grep -c ' /m/a/b/' /proc/self/mountinfo", "300")
}
