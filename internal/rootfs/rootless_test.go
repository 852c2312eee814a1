package rootfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

const nobody = 65534

// TestRootless runs the tests below again as an ordinary user.
func TestRootless(t *testing.T) {
	needRoot(t)
	dir := tempDir(t)
	tmp := filepath.Join(dir, "tmp")
	mkdir(t, tmp)
	os.Chmod(tmp, 0o1777)
	// The test program itself may be where that user can't reach it.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "rootfs.test")
	write(t, program, string(self))
	os.Chmod(program, 0o755)
	cmd := exec.Command(program, "-test.run=^TestAsUser", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + tmp, "ROOTLESS=1", "PATH=/bin:/usr/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func newRootless(t *testing.T) *container {
	t.Helper()
	if os.Getenv("ROOTLESS") == "" {
		t.Skip("is run by TestRootless")
	}
	c := newContainer(t)
	c.UserNS, c.Rootless, c.Cgroups.Missing = true, true, true
	c.ids = []specs.LinuxIDMapping{{ContainerID: 0, HostID: nobody, Size: 1}}
	c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = c.ids, c.ids
	c.Spec.Mounts[2].Options = []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	return c
}

func TestAsUserDefault(t *testing.T) {
	c := newRootless(t)
	c.expect(t, "stat -c '%n %t:%T' /dev/null /dev/tty; cat /proc/keys; (echo x >/proc/sys/kernel/domainname) 2>&1; touch /x 2>&1; stat -c %u /bin/busybox", `
/dev/null 1:3
/dev/tty 5:0
sh: can't create /proc/sys/kernel/domainname: Read-only file system
touch: /x: Read-only file system
0`)
}

func TestAsUserBinds(t *testing.T) {
	c := newRootless(t)
	dir := tempDir(t)
	write(t, dir+"/file", "content")
	c.mount(specs.Mount{Destination: "/sys/fs", Source: "/sys/fs", Options: []string{"rbind", "ro"}})
	c.mount(specs.Mount{Destination: "/vol", Source: dir, Options: []string{"rbind", "ro", "rprivate"}})
	if Probe().Openat2 {
		c.mount(specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	}
	write(t, c.rootfs("etc/passwd"), "root")
	c.expect(t, "cat /vol/file /etc/passwd; ls -d /sys/fs/cgroup; touch /vol/x 2>&1", "contentroot/sys/fs/cgroup\ntouch: /vol/x: Read-only file system")
}

// CVE-2023-25809.
func TestAsUserCgroup(t *testing.T) {
	c := newRootless(t)
	c.Cgroups = Cgroups{V2: true, Missing: true}
	c.mount(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "rw"}})
	c.expect(t, "grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1,2", "ro,nosuid")
}

func TestAsUserNoPivot(t *testing.T) {
	c := newRootless(t)
	c.NoPivot = true
	c.expect(t, "ls -d /proc/1; cat /proc/keys; touch /x 2>&1", "/proc/1\ntouch: /x: Read-only file system")
}

func TestAsUserWithoutMountSetattr(t *testing.T) {
	c := newRootless(t)
	c.Kernel = Features{}
	dir := tempDir(t)
	c.mount(specs.Mount{Destination: "/vol", Source: dir, Options: []string{"rbind", "ro"}})
	c.mount(specs.Mount{Destination: "/sys/fs", Source: "/sys/fs", Options: []string{"rbind", "ro"}})
	c.expect(t, "touch /vol/x /bin/x 2>&1; grep -c ' /sys/fs ro,' /proc/self/mountinfo", "touch: /vol/x: Read-only file system\ntouch: /bin/x: Read-only file system\n1")
}

// prepareMaps makes the stub's user namespace one whose maps an ordinary user may write.
func prepareMaps(b *stub.Batch) { b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(1)) }
