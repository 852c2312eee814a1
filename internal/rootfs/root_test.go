package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

func itoa(n int) string { return strconv.Itoa(n) }

// mounts prints mount point, attributes, file system and source of all mounts but masks and read-only paths, which
// depend on the host.
const mounts = `sed -e 's/ - / /' -e 's/ [a-z]*:[0-9]* / /' /proc/self/mountinfo | cut -d' ' -f5,6,7,8 | grep -v '^/proc/\|^/sys/'`

const defaultMounts = `
/ ro,relatime EXT4 SOURCE
/proc rw,relatime proc proc
/dev rw,nosuid tmpfs tmpfs
/dev/pts rw,nosuid,noexec,relatime devpts devpts
/dev/shm rw,nosuid,nodev,noexec,relatime tmpfs shm
/dev/mqueue rw,nosuid,nodev,noexec,relatime mqueue mqueue
/sys ro,nosuid,nodev,noexec,relatime sysfs sysfs
`

// expectMounts compares what the container sees with want; the root's file system is what the test runs on.
func (c *container) expectMounts(t *testing.T, want string) {
	t.Helper()
	c.script = mounts
	got, err := c.run(t)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(got, "\n")
	if f := strings.Fields(first); len(f) == 4 {
		got = strings.Join([]string{f[0], f[1], "EXT4", "SOURCE"}, " ") + "\n" + rest
	}
	if diff := cmp.Diff(strings.TrimSpace(want), got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func (c *container) mount(m specs.Mount) { c.Spec.Mounts = append(c.Spec.Mounts, m) }

func (c *container) rootfs(path string) string { return filepath.Join(c.Bundle, "rootfs", path) }

// fails runs the container and compares the error's text.
func (c *container) fails(t *testing.T, errno error, want string) {
	t.Helper()
	_, err := c.run(t)
	if !errors.Is(err, errno) {
		t.Errorf("error = %v, want %v", err, errno)
	}
	if err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("error = %v\nwant  … %s …", err, want)
	}
}

// TestDefault also shows that nothing of the host is left: the list is complete.
func TestDefault(t *testing.T) {
	needRoot(t)
	newContainer(t).expectMounts(t, defaultMounts)
}

func TestDefaultNeedsFewCalls(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	n := 0
	c.trace = func(call stub.Call) {
		if call.Field != "" {
			n++
		}
	}
	if _, err := c.run(t); err != nil {
		t.Fatal(err)
	}
	if n > 135 {
		t.Errorf("%d system calls", n)
	}
}

func TestWithoutNewerCalls(t *testing.T) {
	needRoot(t)
	for name, f := range map[string]Features{
		"none": {}, "openat2": {Openat2: true}, "mount_setattr": {MountSetattr: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t)
			c.Kernel = f
			dir := t.TempDir()
			write(t, dir+"/file", "1")
			c.mount(specs.Mount{Destination: "/a/b", Source: dir, Options: []string{"rbind", "ro", "nosuid", "rprivate"}})
			c.mount(specs.Mount{Destination: "/f/g", Source: dir + "/file", Options: []string{"bind", "noexec"}})
			c.expectMounts(t, defaultMounts+`
/a/b ro,nosuid,relatime ext4 /dev/vda
/f/g rw,noexec,relatime ext4 /dev/vda
`[1:])
			c.expect(t, "cat /a/b/file /f/g; echo; (echo x >/proc/sys/kernel/domainname) 2>&1; touch /etc/x 2>&1; cat /proc/keys; ls /sys/firmware", `
11
sh: can't create /proc/sys/kernel/domainname: Read-only file system
touch: /etc/x: Read-only file system`)
		})
	}
}

func TestNoPivot(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.NoPivot = true
	c.expect(t, "ls /; grep -c ' / /[^ ]* .* - \\(proc\\|sysfs\\) ' /proc/self/mountinfo; touch /x 2>&1", "bin\ndev\netc\nproc\nsys\ntmp\n2\ntouch: /x: Read-only file system")
}

func TestMaskedAndReadonlyPaths(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	mkdir(t, c.rootfs("etc/dir"))
	write(t, c.rootfs("etc/dir/secret"), "s")
	write(t, c.rootfs("etc/file"), "s")
	link(t, "dir", c.rootfs("etc/link"))
	c.Spec.Root.Readonly = false
	c.Spec.Linux.MaskedPaths = []string{"/etc/file", "/etc/link", "/etc/none", "/etc/file/none", "/etc/file"}
	c.Spec.Linux.ReadonlyPaths = []string{"/bin", "/etc/none", "/etc/file/none"}
	c.expect(t, "cat /etc/file; ls /etc/dir; touch /etc/dir/x /bin/x 2>&1; stat -c '%t,%T' /etc/file; touch /etc/rw && echo ok", `
touch: /etc/dir/x: Read-only file system
touch: /bin/x: Read-only file system
1,3
ok`)
}

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
	c := newContainer(t)
	c.Terminal = true
	c.console = true
	c.expect(t, "stat -c '%F %t:%T' /dev/console; grep ' /dev/console ' /proc/self/mounts | cut -d' ' -f1,3", "character special file 88:0\ndevpts devpts")
}

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
			unix.Chmod(src+"/empty", 0o4710)
			for i := range 300 {
				write(t, src+"/sub/f"+itoa(i), itoa(i))
			}
			vol := t.TempDir()
			write(t, vol+"/marker", "m")
			if userns {
				c.inUserNS(t)
			}
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
	c.expect(t, "grep ' /dev/shm ' /proc/self/mounts; grep ' /sys ' /proc/self/mounts", "shm /dev/shm tmpfs rw,noexec,relatime,size=4096k 0 0\nsysfs /sys sysfs ro,noexec,relatime 0 0")
}

func TestPropagation(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	tmpfs(t, dir, 0)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	const script = `grep -o ' \(/\|/etc\) r[wo],.*-' /proc/self/mountinfo | sed 's/:[0-9]*//' | cut -d' ' -f2,4`
	for _, tt := range []struct{ root, option, want string }{
		{"", "rprivate", "/ -\n/etc -"},
		{"", "", "/ -\n/etc master"},
		{"", "rshared", "/ -\n/etc shared"},
		{"", "unbindable", "/ -\n/etc unbindable"},
		{"rshared", "", "/ shared\n/etc shared"},
		{"shared", "", "/ shared\n/etc shared"},
		{"private", "", "/ -\n/etc shared"},
		{"rprivate", "", "/ -\n/etc -"},
		{"rslave", "", "/ -\n/etc master"},
		{"unbindable", "", "/ unbindable\n/etc shared"},
	} {
		c := newContainer(t)
		c.Spec.Linux.RootfsPropagation = tt.root
		options := []string{"rbind"}
		if tt.option != "" {
			options = append(options, tt.option)
		}
		c.mount(specs.Mount{Destination: "/etc", Source: dir, Options: options})
		t.Run(tt.root+","+tt.option, func(t *testing.T) { c.expect(t, script, tt.want) })
	}
}

// A hook's mounts below the root file system on the host must still appear in the container (between Prepare and
// Enter), and the masks must come after them.
func TestHookSeesRootOnTheHost(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.hook = func(pid int) {
		if _, err := os.Stat("/proc/" + itoa(pid) + "/root" + c.rootfs("proc/uptime")); err != nil {
			t.Error(err)
		}
	}
	c.expect(t, "true", "")
}

func TestIDMap(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
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

func TestIDMapRefused(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.mount(specs.Mount{Destination: "/etc", Source: "/tmp", Options: []string{"bind", "idmap"}})
	c.fails(t, fault.BadSpec, "idmap needs uidMappings")
}

func TestUserNamespace(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.inUserNS(t)
	vol := t.TempDir() // 0700 above, so the namespace's root can't reach it
	mkdir(t, vol+"/closed/in")
	write(t, vol+"/closed/in/file", "reached\n")
	os.Chmod(vol+"/closed", 0o700)
	c.mount(specs.Mount{Destination: "/etc", Source: vol + "/closed/in", Options: []string{"rbind", "ro"}})
	c.expect(t, "cat /etc/file; stat -c '%n %t:%T %u' /dev/null; ls -d /proc/1; cat /proc/keys; stat -c %u /dev/shm", "reached\n/dev/null 1:3 65534\n/proc/1\n0")
}

func TestGIDNotMapped(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.inUserNS(t)
	c.ids = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1}}
	c.Spec.Linux.GIDMappings = c.ids
	_, err := c.run(t)
	p, _ := New(c.Config)
	if err = p.Explain(err); !errors.Is(err, unix.EINVAL) || fault.Hint(err) != "the group of the option gid= is not in linux.gidMappings" {
		t.Errorf("error = %v, hint %q", err, fault.Hint(err))
	}
}

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

// The root may be the root of the host.
func TestRootIsHostRoot(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.Spec.Root.Path = "/"
	c.Spec.Linux.MaskedPaths = nil
	c.Spec.Linux.ReadonlyPaths = nil
	c.Spec.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}}
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"})
	c.expect(t, "echo $$ && touch /x 2>&1", "1\ntouch: /x: Read-only file system")
}

func TestRootMissing(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	os.RemoveAll(c.rootfs(""))
	c.fails(t, unix.ENOENT, "root.path: openat")
	write(t, c.rootfs(""), "")
	c.fails(t, unix.ENOTDIR, "root.path: openat")
}
