package rootfs

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/fault"
	"hull/internal/stub"
)

// TestDefault also shows that nothing of the host is left: the list is complete.
func TestDefault(t *testing.T) {
	needRoot(t)
	newContainer(t).expectMounts(t, defaultMounts)
}

func TestDefaultNeedsFewCalls(t *testing.T) {
	hulltest.Require(t, hulltest.Openat2, hulltest.MountSetattr)
	needRoot(t)
	c := newContainer(t)
	n := 0
	c.trace = func(call stub.Call) {
		// How many of the paths to hide there are is the machine's.
		if call.Field != "" && !strings.HasPrefix(call.Field, "linux.maskedPaths") && !strings.HasPrefix(call.Field, "linux.readonlyPaths") {
			n++
		}
	}
	if _, err := c.run(t); err != nil {
		t.Fatal(err)
	}
	if n > 75 {
		t.Errorf("%d system calls", n)
	}
}

func TestWithoutNewerCalls(t *testing.T) {
	needRoot(t)
	for name, f := range map[string]Features{
		"none": {}, "openat2": {Openat2: true}, "mount_setattr": {MountSetattr: true},
	} {
		t.Run(name, func(t *testing.T) {
			if f.Openat2 {
				hulltest.Require(t, hulltest.Openat2)
			}
			if f.MountSetattr {
				hulltest.Require(t, hulltest.MountSetattr)
			}
			c := newContainer(t)
			c.Kernel = f
			dir := t.TempDir()
			tmpfs(t, dir, 0)
			write(t, dir+"/file", "1")
			c.mount(specs.Mount{Destination: "/a/b", Source: dir, Options: []string{"rbind", "ro", "nosuid", "rprivate"}})
			c.Spec.Linux.MaskedPaths = append(c.Spec.Linux.MaskedPaths, "/none/none", "/none", "/proc/none/none")
			c.Spec.Linux.ReadonlyPaths = append(c.Spec.Linux.ReadonlyPaths, "/none/none/none")
			c.mount(specs.Mount{Destination: "/f/g", Source: dir + "/file", Options: []string{"bind", "noexec"}})
			c.expectMounts(t, defaultMounts+`
/a/b ro,nosuid,relatime tmpfs tmpfs
/f/g rw,noexec,relatime tmpfs tmpfs
`[1:])
			c.expect(t, "cat /a/b/file /f/g; echo; (echo x >/proc/sys/kernel/domainname) 2>&1; touch /etc/x 2>&1; cat /proc/keys; ls /sys/firmware", `
11
sh: can't create /proc/sys/kernel/domainname: Read-only file system
touch: /etc/x: Read-only file system`)
		})
	}
}

// What is made read-only keeps what it is otherwise.
func TestReadonlyKeepsFlags(t *testing.T) {
	needRoot(t)
	for name, f := range map[string]Features{"now": Probe(), "before mount_setattr": {}} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t)
			c.Kernel = f
			tmpfs(t, c.rootfs(""), unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME)
			fillRoot(t, c.Bundle)
			c.Spec.Linux.ReadonlyPaths = []string{"/tmp"}
			c.Spec.Linux.MaskedPaths = nil
			c.expect(t, "grep -e ' / / ' -e ' /tmp ' /proc/self/mountinfo | cut -d' ' -f5,6", "/ ro,nosuid,nodev,noatime\n/tmp ro,nosuid,nodev,noatime")
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

func TestPropagation(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
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
		{"rslave", "", "/ ROOT\n/etc master"},
		{"unbindable", "", "/ unbindable\n/etc shared"},
	} {
		t.Run(tt.root+","+tt.option, func(t *testing.T) {
			c := newContainer(t)
			c.Spec.Linux.RootfsPropagation = tt.root
			c.mount(specs.Mount{Destination: "/etc", Source: dir, Options: bindOptions(tt.option)})
			root := "-" // a slave of what the bundle is on, if that is shared, as on systemd's machines
			if shared(t, c.Bundle) {
				root = "master"
			}
			c.expect(t, script, strings.ReplaceAll(tt.want, "ROOT", root))
		})
	}
	// A user namespace's mounts are slaves of the host's, whatever the configuration says: a peer would carry the
	// container's mounts to the host.
	for _, tt := range []struct{ root, option, want string }{
		{"", "", "/etc master"},
		{"", "rslave", "/etc master"},
		{"", "rprivate", "/etc"},
		{"", "rshared", "/etc shared master"},
		{"rprivate", "", "/etc"},
		{"rshared", "", "/etc shared master"},
		{"shared", "", "/etc master"},
	} {
		for _, option := range []string{"", "idmap"} {
			t.Run("user namespace,"+tt.root+","+tt.option+option, func(t *testing.T) {
				c := newContainer(t)
				if option == "idmap" {
					needIDMap(t, dir)
				}
				c.inUserNS(t)
				c.Spec.Linux.RootfsPropagation = tt.root
				c.mount(specs.Mount{Destination: "/etc", Source: dir, Options: bindOptions(tt.option, option)})
				c.expect(t, `grep ' /etc ' /proc/self/mountinfo | sed 's/ - .*//; s/:[0-9]*//g' | cut -d' ' -f5,7-`, tt.want)
			})
		}
	}
}

// sharedDir returns a directory that is a shared mount: of the file system that it is on, which can be idmapped where
// those of others, tmpfs before Linux 6.3 among them, can't.
func sharedDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func bindOptions(more ...string) []string {
	return append([]string{"rbind"}, slices.DeleteFunc(more, func(o string) bool { return o == "" })...)
}

// shared tells whether the mount that path is on is shared.
func shared(t testing.TB, path string) bool {
	t.Helper()
	out, err := exec.Command("findmnt", "--noheadings", "--output", "PROPAGATION", "--target", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(out), "shared")
}

// What is mounted over a source that the host shares stays in the container, also where the parent opens the source.
func TestNothingPropagatesToHost(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	for _, userns := range []bool{false, true} {
		for _, option := range []string{"", "idmap", "rshared"} {
			t.Run(option+",userns="+strconv.FormatBool(userns), func(t *testing.T) {
				sub := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-"))
				mkdir(t, sub)
				c := newContainer(t)
				if userns {
					c.inUserNS(t)
				}
				m := specs.Mount{Destination: "/etc", Source: dir, Options: bindOptions(option)}
				if option == "idmap" {
					needIDMap(t, dir)
					m.UIDMappings, m.GIDMappings = ids, ids
				}
				c.mount(m)
				c.mount(specs.Mount{Destination: "/etc/" + filepath.Base(sub), Type: "tmpfs", Source: "tmpfs"})
				c.expect(t, "echo ok", "ok")
				if err := os.Remove(sub); err != nil {
					t.Errorf("the container's mount is on the host: %v", err)
					unix.Unmount(sub, unix.MNT_DETACH)
				}
			})
		}
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

func TestUserNamespace(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.inUserNS(t)
	vol := t.TempDir() // 0700 above, so the namespace's root can't reach it
	mkdir(t, vol+"/closed/in")
	write(t, vol+"/closed/in/file", "reached\n")
	os.Chmod(vol+"/closed", 0o700)
	c.mount(specs.Mount{Destination: "/etc", Source: vol + "/closed/in", Options: []string{"rbind", "ro"}})
	c.expect(t, "cat /etc/file; stat -c '%n %t:%T %u' /dev/null; ls -d /proc/1; cat /proc/keys; stat -c %u /dev/shm", "reached\n/dev/null 1:3 0\n/proc/1\n0")
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

// BenchmarkDefault is what the default mounts cost beside the process that makes them.
func BenchmarkDefault(b *testing.B) {
	needRoot(b)
	c := newContainer(b)
	for b.Loop() {
		if _, err := c.run(b); err != nil {
			b.Fatal(err)
		}
	}
}

// Nothing that is mounted for a container shows on the host, not even where everything is shared.
func TestHostIsUnchanged(t *testing.T) {
	needRoot(t)
	shared := tempDir(t)
	tmpfs(t, shared, 0)
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, propagation := range []string{"", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable"} {
		for _, noPivot := range []bool{false, true} {
			c := newContainer(t)
			c.NoPivot = noPivot
			bundle := shared + "/" + propagation + strconv.FormatBool(noPivot)
			if err := os.CopyFS(bundle, os.DirFS(c.Bundle)); err != nil {
				t.Fatal(err)
			}
			c.Bundle = bundle
			mkdir(t, bundle+"/vol/sub")
			tmpfs(t, bundle+"/vol/sub", 0)
			c.mount(specs.Mount{Destination: "/vol", Source: "vol", Options: []string{"rbind", "rprivate"}})
			c.mount(specs.Mount{Destination: "/vol/sub", Type: "tmpfs", Source: "tmpfs"})
			c.Spec.Linux.RootfsPropagation = propagation
			before, err := mountPoints("self")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.run(t); err != nil {
				t.Errorf("%q, NoPivot %v: %v", propagation, noPivot, err)
			}
			after, err := mountPoints("self")
			if err != nil {
				t.Fatal(err)
			}
			// Tests of other packages run at the same time, with mounts of their own.
			for _, mounts := range []map[string]int{before, after} {
				maps.DeleteFunc(mounts, func(at string, _ int) bool { return strings.Contains(at, "/hulltest-") })
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("%q, NoPivot %v: mounts (-before +after):\n%s", propagation, noPivot, diff)
			}
		}
	}
}
