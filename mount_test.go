package hull_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func mounting(m specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
}

func TestReadonlyRoot(t *testing.T) {
	got := run(t, args("write", "/tmp/x", "y"), func(s *specs.Spec) { s.Root.Readonly = true })
	if got.Status != "1" || !strings.Contains(got.Err, "read-only file system") {
		t.Errorf("%+v", got)
	}
}

// A read-only root needn't have what is mounted on: neither in the host's files nor afterwards does it show.
func TestReadonlyRootMountPoints(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "shared\n")
	got := run(t, args("cat", "/etc/not/there", "/etc/nor-there", "/new/file"), func(s *specs.Spec) {
		s.Root.Readonly = true
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/etc/not/there", Type: "bind", Source: filepath.Join(dir, "file"), Options: []string{"bind"}},
			specs.Mount{Destination: "/etc/nor-there", Type: "bind", Source: filepath.Join(dir, "file"), Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/new", Type: "bind", Source: dir, Options: []string{"bind"}})
	})
	says(t, got, "shared", "shared", "shared")
}

func TestWritableRoot(t *testing.T) {
	bundle := hulltest.Bundle(t, args("write", "/tmp/x", "y"))
	got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	says(t, got)
	expect(t, "y", readFile(t, filepath.Join(bundle, "rootfs/tmp/x")))
}

func TestBindMounts(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "shared\n")
	for _, test := range []struct {
		name    string
		options []string
		args    []string
		want    outcome
	}{
		{"read", []string{"bind"}, []string{"cat", "/mnt/file"}, ok("shared")},
		{"read-only", []string{"rbind", "ro"}, []string{"write", "/mnt/file", "x"},
			outcome{Status: "1", Err: "write: open /mnt/file: read-only file system\n"}},
		{"noexec", []string{"bind", "noexec"}, []string{"cat", "/mnt/file"}, ok("shared")},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := run(t, args(test.args[0], test.args[1:]...),
				mounting(specs.Mount{Destination: "/mnt", Source: dir, Type: "bind", Options: test.options}))
			expect(t, test.want, got)
		})
	}
	t.Run("a file", func(t *testing.T) {
		says(t, run(t, args("cat", "/etc/new"),
			mounting(specs.Mount{Destination: "/etc/new", Source: filepath.Join(dir, "file"), Options: []string{"bind"}})), "shared")
	})
	t.Run("relative source", func(t *testing.T) {
		bundle := hulltest.Bundle(t, args("cat", "/mnt/x"),
			mounting(specs.Mount{Destination: "/mnt", Source: "data", Options: []string{"bind"}}))
		mkdir(t, filepath.Join(bundle, "data"), 0o755)
		write(t, filepath.Join(bundle, "data/x"), "of the bundle\n")
		got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
		if err != nil {
			t.Fatal(errorText(err))
		}
		says(t, got, "of the bundle")
	})
	t.Run("nothing is left on the host", func(t *testing.T) {
		if mounts := readFile(t, "/proc/self/mountinfo"); strings.Contains(mounts, dir) {
			t.Errorf("mounts:\n%s", mounts)
		}
	})
}

func TestTmpfs(t *testing.T) {
	got := run(t, args("do", "mounts", "/scratch", ",", "stat", "/scratch", ",", "write", "/scratch/x", "y"),
		mounting(specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1750", "size=64k"}}))
	if got.Status != "0" || !strings.Contains(got.Out, "nosuid,nodev") || !strings.Contains(got.Out, "size=64k") ||
		!strings.Contains(got.Out, "/scratch dir 1750 0 0 ") {
		t.Errorf("%+v", got)
	}
}

func TestTmpcopyup(t *testing.T) {
	hulltest.Require(t, hulltest.Openat2)
	bundle := hulltest.Bundle(t, args("do", "cat", "/etc/conf", ",", "write", "/etc/conf", "changed"),
		mounting(specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}}))
	write(t, filepath.Join(bundle, "rootfs/etc/conf"), "original\n")
	got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	says(t, got, "original")
	expect(t, "original", readFile(t, filepath.Join(bundle, "rootfs/etc/conf")))
}

// What a copy has of the original beside the contents: extended attributes, of which access control lists are some, and
// that two names are of one file.
func TestTmpcopyupAttributes(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Openat2)
	bundle := hulltest.Bundle(t, mounting(specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}}))
	src := filepath.Join(bundle, "rootfs/etc")
	// No file system may be without all of them: tmpfs knows user.* since Linux 6.6 only.
	mkdir(t, filepath.Join(src, "dir"), 0o755)
	write(t, filepath.Join(src, "dir/file"), "content")
	write(t, filepath.Join(src, "empty"), "")
	if err := errors.Join(os.Link(filepath.Join(src, "dir/file"), filepath.Join(src, "a-link")), os.Link(filepath.Join(src, "dir/file"), filepath.Join(src, "dir/link"))); err != nil {
		t.Fatal(err)
	}
	// ACLs of linux/posix_acl_xattr.h: version 2, then tag, permissions and id of owner, user 1234, group, mask and others.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\xd2\x04\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // of version 2: CAP_NET_RAW
	attrs := []struct{ file, name, value string }{
		{"dir", "system.posix_acl_default", acl},
		{"dir", "trusted.dir", "d"},
		{"dir/file", "trusted.long", strings.Repeat("x", 2000)},
		{"dir/file", "trusted.empty", ""},
		{"dir/file", "security.capability", capability},
		{".", "trusted.top", "t"},
	}
	for i := range 40 {
		attrs = append(attrs, struct{ file, name, value string }{"empty", "trusted." + strconv.Itoa(i), strconv.Itoa(i)})
	}
	for _, a := range attrs {
		if err := unix.Setxattr(filepath.Join(src, a.file), a.name, []byte(a.value), 0); err != nil {
			t.Skipf("needs a file system that keeps %s: %v", a.name, err)
		}
	}
	r := newRuntime(t)
	c, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	etc := filepath.Join("/proc", strconv.Itoa(c.Init().Pid), "root/etc")
	for _, a := range attrs {
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(filepath.Join(etc, a.file), a.name, value)
		if err != nil || string(value[:n]) != a.value {
			t.Errorf("%s of %s: %q, %v; want %q", a.name, a.file, value[:max(n, 0)], err, a.value)
		}
	}
	var links [3]unix.Stat_t
	for i, name := range []string{"a-link", "dir/file", "dir/link"} {
		if err := unix.Lstat(filepath.Join(etc, name), &links[i]); err != nil {
			t.Fatal(err)
		}
		if links[i].Ino != links[0].Ino || links[i].Nlink != 3 || readFile(t, filepath.Join(etc, name)) != "content" {
			t.Errorf("%s is not the same file as a-link: inode %d of %d links, and %d", name, links[i].Ino, links[i].Nlink, links[0].Ino)
		}
	}
}

// Mounts are made in their order (config.md, "Mounts").
func TestMountsInOrder(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), "below\n")
	got := run(t, args("do", "cat", "/a/b/x", ",", "ls", "/a"),
		mounting(specs.Mount{Destination: "/a", Type: "tmpfs", Source: "tmpfs"}),
		mounting(specs.Mount{Destination: "/a/b", Source: dir, Options: []string{"bind"}}))
	says(t, got, "below", "b")
}

func TestRootfsPropagation(t *testing.T) {
	for value, want := range map[string]string{"": "", "private": "", "rslave": "master:", "shared": "shared:", "unbindable": "unbindable"} {
		t.Run("propagation "+value, func(t *testing.T) {
			// The bundle's mount must be shared for a slave to have a master.
			bundle := hulltest.Bundle(t, args("mounts", "/"), func(s *specs.Spec) { s.Linux.RootfsPropagation = value })
			rootfs := filepath.Join(bundle, "rootfs")
			if err := unix.Mount(rootfs, rootfs, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := unix.Unmount(rootfs, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			}()
			if err := unix.Mount("", rootfs, "", unix.MS_SHARED, ""); err != nil {
				t.Fatal(err)
			}
			got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
			if err != nil {
				t.Fatal(errorText(err))
			}
			tags, _, _ := strings.Cut(got.Out, " - ")
			if want != "" && !strings.Contains(tags, want) || want == "" && (strings.Contains(tags, "shared:") || strings.Contains(tags, "master:")) {
				t.Errorf("want %q in %s", want, got.Out)
			}
		})
	}
}

func TestMaskedPaths(t *testing.T) {
	bundle := hulltest.Bundle(t, args("do", "cat", "/etc/secret", ",", "ls", "/etc/secrets", ",", "echo", "end"),
		func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/etc/secret", "/etc/secrets", "/not/there"} })
	rootfs := filepath.Join(bundle, "rootfs")
	write(t, rootfs+"/etc/secret", "a secret")
	mkdir(t, rootfs+"/etc/secrets", 0o755)
	write(t, rootfs+"/etc/secrets/one", "a secret")
	got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	says(t, got, "end")
}

// What covers a file is the host's null device, which the container's root may own: it must not be able to take it away
// from the host's users by changing its mode.
func TestMaskLeavesTheHostsNullDevice(t *testing.T) {
	got := run(t, args("do", "write", "/etc/hidden", "x", ",", "chmod", "666", "/etc/hidden"), func(s *specs.Spec) {
		s.Linux.MaskedPaths = []string{"/etc/hidden"}
		s.Root.Readonly = false
	}, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/hidden", Source: "/proc/version", Type: "bind", Options: []string{"bind", "ro"}})
	})
	if !strings.Contains(got.Err, "read-only file system") || strings.Contains(got.Err, "write") {
		t.Errorf("%+v", got)
	}
}

func TestReadonlyPaths(t *testing.T) {
	paths := func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/etc", "/proc/sys", "/not/there"} }
	got := run(t, args("write", "/etc/x", "y"), paths)
	if !strings.Contains(got.Err, "read-only file system") {
		t.Errorf("%+v", got)
	}
	got = run(t, args("write", "/proc/sys/kernel/shmmax", "1"), paths)
	if !strings.Contains(got.Err, "read-only file system") {
		t.Errorf("%+v", got)
	}
}

func TestDevices(t *testing.T) {
	add := func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/one", Type: "c", Major: 1, Minor: 3, FileMode: ptr(os.FileMode(0o640)), UID: ptr(uint32(5)), GID: ptr(uint32(6))},
			{Path: "/dev/sub/fifo", Type: "p"},
			{Path: "/dev/block", Type: "b", Major: 7, Minor: 99},
		}
	}
	got := run(t, args("stat", "/dev/one", "/dev/sub/fifo", "/dev/block"), add)
	says(t, got, "/dev/one char 0640 5 6 0 1 3", "/dev/sub/fifo fifo 0666 0 0 0", "/dev/block block 0666 0 0 0 7 99")
}

// The example's configuration denies all devices but the default ones.
func TestDeviceAccess(t *testing.T) {
	full := func(s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/loopctl", Type: "c", Major: 10, Minor: 237})
	}
	got := run(t, args("cat", "/dev/loopctl"), full)
	if !strings.Contains(got.Err, "operation not permitted") {
		t.Errorf("%+v: nothing allows it", got)
	}
	got = run(t, args("write", "/dev/null", "x"))
	says(t, got)
	got = run(t, args("write", "/dev/full", "x"))
	if !strings.Contains(got.Err, "no space left") {
		t.Errorf("%+v", got)
	}
}

// The devices and links that every container has (config-linux.md, "Default Devices").
func TestDefaultDevices(t *testing.T) {
	want := []string{
		"/dev/null char 0666 0 0 0 1 3", "/dev/zero char 0666 0 0 0 1 5", "/dev/full char 0666 0 0 0 1 7",
		"/dev/random char 0666 0 0 0 1 8", "/dev/urandom char 0666 0 0 0 1 9", "/dev/tty char 0666 0 0 0 5 0",
	}
	says(t, run(t, args("stat", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")), want...)
	for link, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2", "/dev/ptmx": "pts/ptmx",
	} {
		says(t, run(t, args("readlink", link)), to)
	}
}

// Files of the host can't be seen once the container is in its root.
func TestHostIsOutOfSight(t *testing.T) {
	got := run(t, args("mounts"), func(s *specs.Spec) { s.Mounts = s.Mounts[:1] })
	for line := range strings.Lines(got.Out) {
		fields := strings.Fields(line)
		if at := fields[4]; at != "/" && at != "/proc" && !strings.HasPrefix(at, "/proc/") && !strings.HasPrefix(at, "/dev") {
			t.Errorf("a mount of the host's: %s", line)
		}
	}
	for _, pivot := range []bool{true, false} {
		bundle := hulltest.Bundle(t, args("do", "ls", "/..", ",", "cwd"))
		got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle, NoPivot: !pivot})
		if err != nil {
			t.Fatal(errorText(err))
		}
		says(t, got, "bin", "dev", "etc", "proc", "sys", "tmp", "/")
	}
}

func TestMountThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		m     specs.Mount
		kind  error
		words []string
	}{
		{specs.Mount{Destination: "/x", Type: "nosuchfs", Source: "x"}, unix.ENODEV, []string{"nosuchfs"}},
		{specs.Mount{Destination: "/x", Type: "tmpfs", Source: "x", Options: []string{"nosuchoption=1"}}, unix.EINVAL, []string{"nosuchoption"}},
		{specs.Mount{Destination: "/x", Type: "tmpfs", Source: "x", Options: []string{"size=words"}}, nil, []string{"size"}},
		{specs.Mount{Destination: "/bin/testprog/x", Type: "tmpfs", Source: "x"}, unix.ENOTDIR, []string{"/bin/testprog/x"}},
	} {
		t.Run(fmt.Sprint(test.m.Type, test.m.Destination, test.m.Options), func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), mounting(test.m))
			refused(t, err, test.kind, append(test.words, "mounts[7]")...)
		})
	}
}

// A directory and a file don't go on each other.
func TestMountOnAnotherKind(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	for name, m := range map[string]specs.Mount{
		"file on directory":          {Destination: "/etc", Source: filepath.Join(dir, "file"), Options: []string{"bind"}},
		"directory on file":          {Destination: "/bin/testprog", Source: dir, Options: []string{"rbind"}},
		"directory on file by links": {Destination: "/etc/link", Source: dir, Options: []string{"bind"}},
		"tmpfs on file":              {Destination: "/bin/testprog", Source: "x", Type: "tmpfs"},
	} {
		for _, readonly := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " readonly=", readonly), func(t *testing.T) {
				bundle := hulltest.Bundle(t, mounting(m), func(s *specs.Spec) { s.Root.Readonly = readonly })
				if err := os.Symlink("../bin/testprog", filepath.Join(bundle, "rootfs/etc/link")); err != nil {
					t.Fatal(err)
				}
				_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
				want := []string{fmt.Sprintf("mounts[7] %q", m.Destination)}
				if m.Destination != "/etc/link" { // natively the directory that a link leads to is asked for, and isn't there
					want = append(want, "a directory can't be mounted on a file, nor a file on a directory")
				}
				refused(t, err, nil, want...) // of EINVAL; without openat2(2), ENOTDIR
			})
		}
	}
}

// An idmapped mount shows other owners.
func TestIdmappedMount(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	if err := os.Chown(filepath.Join(dir, "file"), 7, 8); err != nil {
		t.Fatal(err)
	}
	got := run(t, args("stat", "/mnt/file"), mounting(specs.Mount{
		Destination: "/mnt", Source: dir, Options: []string{"bind", "idmap"},
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 100}},
		GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000, Size: 100}},
	}))
	says(t, got, "/mnt/file file 0644 1007 2008 0")
}

// The container's cgroups, read-only as the example has them.
func TestCgroupMount(t *testing.T) {
	dir := "/sys/fs/cgroup"
	if hulltest.CgroupV2.Check() != nil {
		dir += "/pids"
	}
	has("cgroup.procs\n")(t, run(t, args("ls", dir)))
	got := run(t, args("write", dir+"/cgroup.procs", "1"))
	if !strings.Contains(got.Err, "read-only file system") {
		t.Errorf("%+v", got)
	}
}

// What databases do with the files of their root: make sockets, and map what they then open to write.
func TestSocketAndMapInTheRoot(t *testing.T) {
	bundle := hulltest.Bundle(t, args("do", "listen", "/tmp/socket", ",", "mmap", "/tmp/file"))
	write(t, filepath.Join(bundle, "rootfs/tmp/file"), "original")
	got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	says(t, got, "hello", "writtenl")
}
