package hulltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// A Need is something of the machine that a test can't do without.
type Need struct {
	Name  string       // as in HULL_TEST_REQUIRE
	Check func() error // nil, or why it isn't there
}

// Require skips the test unless all needs are met, and says all that are not. Where HULL_TEST_REQUIRE names one of those,
// the test fails: that machine must run it.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	unmet, must := missing(os.Getenv(envRequire), needs)
	switch {
	case must:
		t.Fatalf("required here by %s, but missing: %s", envRequire, unmet)
	case unmet != "":
		t.Skipf("needs %s", unmet)
	}
}

// missing returns the unmet needs with their reasons, and whether required names one of them.
func missing(required string, needs []Need) (unmet string, must bool) {
	names := strings.FieldsFunc(required, func(r rune) bool { return r == ',' || r == ' ' })
	var reasons []string
	for _, n := range needs {
		err := n.Check()
		if err == nil {
			continue
		}
		reasons = append(reasons, fmt.Sprintf("%s (%v)", n.Name, err))
		must = must || slices.Contains(names, n.Name) || slices.Contains(names, "all")
	}
	return strings.Join(reasons, ", "), must
}

// The needs that several packages have.
var (
	Root        = Need{"root", haveRoot}
	NonRoot     = Need{"nonroot", haveNoRoot}
	UserNS      = Need{"userns", haveUserNS}
	TimeNS      = Need{"timens", haveTimeNS}
	CgroupV1    = Need{"cgroup1", func() error { return haveMount("/sys/fs/cgroup/", "cgroup") }}
	CgroupV2    = Need{"cgroup2", func() error { return haveFS("/sys/fs/cgroup", unix.CGROUP2_SUPER_MAGIC) }}
	Systemd     = Need{"systemd", func() error { return exists("/run/systemd/system") }}
	SystemdUser = Need{"systemd-user", haveSystemdUser}
	AppArmor    = Need{"apparmor", haveAppArmor}
	SELinux     = Need{"selinux", func() error { return haveFS("/sys/fs/selinux", unix.SELINUX_MAGIC) }}
	Overlay     = Need{"overlay", haveOverlay}
	FUSE        = Need{"fuse", func() error { return exists("/dev/fuse") }}
	IntelRDT    = Need{"rdt", func() error { return haveFS("/sys/fs/resctrl", unix.RDTGROUP_SUPER_MAGIC) }}
	Terminal    = Need{"tty", haveTerminal}
)

// System calls that hull has other ways for where they are missing, but not for all that they can do.
var (
	Openat2      = Need{"openat2", func() error { return have("openat2", linux.HaveOpenat2) }}
	MountSetattr = Need{"mount_setattr", func() error { return have("mount_setattr", linux.HaveMountSetattr) }}
)

func have(name string, f func() bool) error {
	if !f() {
		return fmt.Errorf("%s: %w", name, unix.ENOSYS)
	}
	return nil
}

// Command is the need of a program that is found by PATH.
func Command(name string) Need {
	return Need{name, func() error {
		_, err := exec.LookPath(name)
		return err
	}}
}

// CPUs is the need of so many CPUs that this process may run on.
func CPUs(n int) Need {
	return Need{"cpus", func() error {
		if have := runtime.NumCPU(); have < n {
			return fmt.Errorf("%d, not %d", have, n)
		}
		return nil
	}}
}

// Kernel is the need of Linux from that version on, where nothing can be tried instead.
func Kernel(major, minor int) Need {
	return Need{fmt.Sprintf("linux-%d.%d", major, minor), func() error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		release := unix.ByteSliceToString(u.Release[:])
		return atLeast(release, major, minor)
	}}
}

func atLeast(release string, major, minor int) error {
	var x, y int
	if _, err := fmt.Sscanf(release, "%d.%d", &x, &y); err != nil {
		return fmt.Errorf("release %q: %w", release, err)
	}
	if x < major || x == major && y < minor {
		return fmt.Errorf("this is Linux %s", release)
	}
	return nil
}

func exists(path string) error {
	_, err := os.Stat(path)
	return err
}

func haveRoot() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("this is user %d", uid)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return errors.New("this root has no CAP_SYS_ADMIN")
	}
	return nil
}

func haveNoRoot() error {
	if os.Geteuid() == 0 {
		return errors.New("this is root")
	}
	return nil
}

// haveUserNS makes a user namespace with this user as its root. The program started in it doesn't exist: the kernel's
// ENOENT says that everything before went well.
func haveUserNS() error {
	const nothing = "/proc/self/hulltest"
	_, err := syscall.ForkExec(nothing, []string{nothing}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("clone CLONE_NEWUSER: %w", err)
}

// haveTimeNS makes a time namespace, as haveUserNS does. Who may not is told whether the kernel has them.
func haveTimeNS() error {
	const nothing = "/proc/self/hulltest"
	_, err := syscall.ForkExec(nothing, []string{nothing}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWTIME}})
	if errors.Is(err, unix.EPERM) {
		return exists("/proc/self/ns/time")
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unshare CLONE_NEWTIME: %w", err)
}

// haveFS looks for a kind of file system at a path.
func haveFS(path string, magic int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if int64(st.Type) != magic {
		return fmt.Errorf("%s is a file system of type %#x, not %#x", path, st.Type, magic)
	}
	return nil
}

// haveMount looks for a mount of a file system type at a path that begins with dir.
func haveMount(dir, fstype string) error {
	all, err := readMounts()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(m mount) bool { return strings.HasPrefix(m.point, dir) && m.fstype == fstype }) {
		return nil
	}
	return fmt.Errorf("no %s is mounted below %s", fstype, dir)
}

func haveSystemdUser() error {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return errors.New("XDG_RUNTIME_DIR is not set")
	}
	return exists(dir + "/systemd/private")
}

func haveAppArmor() error {
	const file = "/sys/module/apparmor/parameters/enabled"
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if s := strings.TrimSpace(string(content)); s != "Y" {
		return fmt.Errorf("%s is %s", file, s)
	}
	return exists("/sys/kernel/security/apparmor/profiles")
}

// haveOverlay opens a file system context, which also loads the module.
func haveOverlay() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen overlay", err)
	}
	return unix.Close(fd)
}

func haveTerminal() error {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
