package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/mountinfo"
	"hull/internal/stub"
)

const busybox = "/bin/busybox"

// container is a run of busybox in a root made by a plan.
type container struct {
	Config
	flags  uint64 // CLONE_NEW*
	trace  func(stub.Call)
	hook   func(pid int) // between Prepare and Enter
	script string        // for sh
	ids    []specs.LinuxIDMapping
	// When Console comes: "", "before" or "after" Enter.
	console string
}

const newAll = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET

func needRoot(t testing.TB) {
	t.Helper()
	hulltest.Require(t, hulltest.Root, hulltest.Need{Name: "busybox", Check: func() error {
		_, err := os.Stat(busybox)
		return err
	}})
}

// newBundle returns the path of a bundle whose rootfs has busybox and the usual directories.
func newBundle(t testing.TB) string {
	t.Helper()
	dir := tempDir(t)
	fillRoot(t, dir)
	return dir
}

func fillRoot(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "dev", "sys", "etc", "tmp"} {
		mkdir(t, filepath.Join(dir, "rootfs", d))
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "rootfs/bin/busybox"), string(data))
	os.Chmod(filepath.Join(dir, "rootfs/bin/busybox"), 0o755)
}

// tempDir is a directory that everyone can search.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, target, path string) {
	t.Helper()
	os.RemoveAll(path)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// defaultSpec is what people run: the mounts and paths of runc's example.
func defaultSpec() *specs.Spec {
	return &specs.Spec{
		Root: &specs.Root{Path: "rootfs", Readonly: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func newContainer(t testing.TB) *container {
	return &container{
		Config: Config{Spec: defaultSpec(), Bundle: newBundle(t), Kernel: Probe()},
		flags:  newAll,
		script: "true",
		ids:    ids,
	}
}

// run returns what the script prints.
func (c *container) run(t testing.TB) (string, error) {
	t.Helper()
	p, err := New(c.Config)
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first, err := stub.Start(stub.Config{Stdio: [3]*os.File{nil, w, w}, Trace: c.trace})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	pre := new(stub.Batch)
	if c.UserNS {
		c.unshareUser(t, first)
	}
	s, err := first.Fork(pre, c.flags)
	if err != nil {
		first.Kill()
		t.Fatal(err)
	}
	defer s.Kill()
	if err := c.setUp(p, s); err != nil {
		return "", err
	}
	b := new(stub.Batch)
	b.Execve("/bin/busybox", []string{"sh", "-c", c.script}, []string{"PATH=/bin"})
	if err := s.Send(b); err != nil {
		return "", err
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(out)), nil
}

func (c *container) setUp(p *Plan, s *stub.Stub) error {
	sources, err := p.Sources()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range sources {
			f.Close()
		}
	}()
	b := new(stub.Batch)
	if c.UserNS {
		b.Call(unix.SYS_SETRESGID, stub.Int(0), stub.Int(0), stub.Int(0))
		b.Call(unix.SYS_SETRESUID, stub.Int(0), stub.Int(0), stub.Int(0))
	}
	if c.Cgroups.NewNamespace {
		b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWCGROUP))
	}
	var fds []stub.FD
	if len(sources) > 0 {
		fds = b.RecvFDs(len(sources))
	}
	p.Prepare(b, fds)
	if err := s.Send(b); err != nil {
		return err
	}
	if len(sources) > 0 {
		if err := s.PassFDs(sources...); err != nil {
			return err
		}
	}
	if err := s.Receive(); err != nil {
		return err
	}
	if err := onlyInside(s.Pid, p.root); err != nil {
		return err
	}
	if c.hook != nil {
		c.hook(s.Pid)
	}
	if err := p.CopyUp(context.Background(), s); err != nil {
		return err
	}
	b = new(stub.Batch)
	if c.console == "before" {
		p.Console(b, openPty(b, p))
	}
	p.Enter(b)
	if c.console == "after" {
		p.Console(b, openPty(b, p))
	}
	return s.Do(b)
}

// onlyInside fails if the stub has mounts that the host does not have and that are not below root: something has
// escaped. Other tests mount and unmount on the host meanwhile.
func onlyInside(pid int, root string) (err error) {
	for range 50 {
		if err = nowOnlyInside(pid, root); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func nowOnlyInside(pid int, root string) error {
	host, err := mountPoints("self")
	if err != nil {
		return err
	}
	stubs, err := mountPoints(itoa(pid))
	if err != nil {
		return err
	}
	for point, n := range stubs {
		if n != host[point] && !below(point, root) {
			return fmt.Errorf("mounted outside the root: %s", point)
		}
	}
	return nil
}

func mountPoints(pid string) (map[string]int, error) {
	text, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	points := make(map[string]int)
	for m := range mountinfo.Parse(text) {
		points[m.Point()]++
	}
	return points, err
}

// openPty opens a terminal in the container's own devpts.
func openPty(b *stub.Batch, p *Plan) stub.FD {
	ptmx := b.Openat(p.made.root.in(b), "dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	unlock := b.Const(make([]byte, 4))
	b.Ioctl(ptmx, unix.TIOCSPTLCK, unlock.Arg())
	return b.Ioctl(ptmx, unix.TIOCGPTPEER, stub.Int(unix.O_RDWR|unix.O_NOCTTY)).FD()
}

// inUserNS gives the container a user namespace and its root the files.
func (c *container) inUserNS(t testing.TB) {
	c.UserNS = true
	c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = ids, ids
	err := filepath.Walk(filepath.Join(c.Bundle, "rootfs"), func(path string, info os.FileInfo, err error) error {
		return os.Lchown(path, int(ids[0].HostID), int(ids[0].HostID))
	})
	if err != nil {
		t.Fatal(err)
	}
}

var ids = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}

func (c *container) unshareUser(t testing.TB, s *stub.Stub) {
	t.Helper()
	b := new(stub.Batch)
	prepareMaps(b)
	b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWUSER))
	if err := s.Do(b); err != nil {
		t.Fatal(err)
	}
	if c.Rootless && os.Geteuid() != 0 {
		if err := os.WriteFile(filepath.Join("/proc", itoa(s.Pid), "setgroups"), []byte("deny"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(filepath.Join("/proc", itoa(s.Pid), name), idMap(c.ids), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// expect runs the script and compares what it prints.
func (c *container) expect(t *testing.T, script, want string) {
	t.Helper()
	c.script = script
	got, err := c.run(t)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	if got != strings.TrimSpace(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", script, got, strings.TrimSpace(want))
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// mounts prints mount point, attributes, file system and source of all mounts but masks and read-only paths, which
// depend on the host.
const mounts = `sed -e 's/ - / /' -e 's/ [a-z]*:[0-9]* / /' /proc/self/mountinfo | cut -d' ' -f5,6,7,8 | grep -v '^/proc/\|^/sys/'`

const defaultMounts = `
/ ro,relatime FS SOURCE
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
		got = strings.Join([]string{f[0], f[1], "FS", "SOURCE"}, " ") + "\n" + rest
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
