// Package engines has container engines drive a runtime: Podman, Docker and containerd as they are installed.
//
//	RUNTIME=/path/to/hull go test -count=1 -v ./test/engines            # -short for a selection
//
// The tests make what they need: an image from a static busybox, configurations, daemons. hull is tested in both isolations:
// by its name, and by the name hull-s, of a link to it. Another RUNTIME, such as runc or crun, is tested natively alone; so
// one sees whether a failure is hull's.
//
// With HULL_TEST_ENGINES, a directory as sid/root makes one, the engines are those installed there.
//
// All of it happens in namespaces: network, mounts, processes, IPC, UTS, and cgroups, with a cgroup of their own in each
// hierarchy (hulltest/machine). Their first process is initMain: with it ends all that was started in them, however the tests end. Mounts,
// bridges and rules of a firewall end with the namespaces, and the cgroups are removed by the process outside.
package engines

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull/hulltest/machine"
)

const cgroups = machine.Cgroups

func TestMain(m *testing.M) {
	status, err := 0, error(nil)
	switch stage := os.Getenv(machine.EnvStage); {
	case stage == "init":
		status, err = initMain()
	case emulated && os.Getuid() == 0 && os.Getenv("RUNTIME") != "":
		status, err = inMachine(m)
	case stage == "tests" || os.Getuid() != 0 || os.Getenv("RUNTIME") == "":
		status = m.Run()
	default:
		status, err = outside()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "engines:", err)
		status = 1
	}
	os.Exit(status)
}

// outside starts initMain in cgroups and namespaces.
func outside() (status int, err error) {
	rt, err := exec.LookPath(os.Getenv("RUNTIME"))
	if err == nil {
		rt, err = filepath.Abs(rt)
	}
	if err != nil {
		return 0, fmt.Errorf("RUNTIME: %w", err)
	}
	if err := os.Setenv("RUNTIME", rt); err != nil {
		return 0, err
	}
	return machine.Outside("hull-engines")
}

// private are directories of the host that engines keep things in. Each is an empty one of the tests' own.
var private = []string{
	"/run", "/tmp", "/etc/containers", "/etc/containerd", "/etc/docker", "/etc/cni", "/opt/cni",
	"/var/lib/containers", "/var/lib/containerd", "/var/lib/docker", "/var/lib/cni", "/var/log", "/var/tmp",
}

// openTree returns a descriptor of what is mounted at a directory, by which it can be mounted elsewhere later.
func openTree(dir string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return 0, &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	return fd, nil
}

// attachTree mounts what openTree has returned.
func attachTree(fd int, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	return unix.Close(fd)
}

// enterRoot makes a directory with a system the root of this mount namespace, in which it can be written to without a change
// to the directory. Devices and /sys are those that were there.
func enterRoot(dir string) error {
	const base, root = "/mnt", "/mnt/root"
	if err := unix.Mount("engines", base, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", base, err)
	}
	for _, d := range []string{root, base + "/upper", base + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+dir+",upperdir="+base+"/upper,workdir="+base+"/work"); err != nil {
		return fmt.Errorf("mount overlay of %s: %w", dir, err)
	}
	for _, d := range []string{"/dev", "/sys"} {
		if err := unix.Mount(d, root+d, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", d, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount of the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// setEnvironment sets what the engines look at.
func setEnvironment() error {
	for _, e := range []string{"TMPDIR=/var/tmp", "XDG_RUNTIME_DIR=", "HULL_ISOLATION=", "DOCKER_HOST=", "CONTAINER_HOST=", "HOME=/run/home", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"} {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
		if value == "" {
			_ = os.Unsetenv(name)
		}
	}
	return nil
}

// initMain is process 1 of the namespaces.
func initMain() (int, error) {
	hier, err := machine.Hierarchies()
	if err != nil {
		return 0, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("mount private: %w", err)
	}
	mounts := []struct{ source, target, fstype, data string }{
		{"proc", "/proc", "proc", ""},
		{"cgroup", cgroups, "tmpfs", "mode=0755"},
		{"shm", "/dev/shm", "tmpfs", "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", ""},
	}
	for dir, options := range hier {
		if options == "cgroup2" {
			mounts = append(mounts, struct{ source, target, fstype, data string }{"cgroup2", dir, "cgroup2", ""})
		} else {
			mounts = append(mounts, struct{ source, target, fstype, data string }{"cgroup", dir, "cgroup", options})
		}
	}
	// What the programs under test lie in may be below /tmp, or outside of the root that is entered.
	binaries, err := openTree(filepath.Dir(os.Getenv("RUNTIME")))
	if err != nil {
		return 0, err
	}
	built := make(map[string]int)
	for _, name := range []string{containerdDir, containerd17Dir, crioPrograms} {
		if dir := os.Getenv(name); dir != "" {
			if built[name], err = openTree(dir); err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	if root := os.Getenv("HULL_TEST_ENGINES"); root != "" {
		if err := enterRoot(root); err != nil {
			return 0, err
		}
	}
	for _, dir := range private {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
		mode := "mode=0755"
		if strings.HasSuffix(dir, "tmp") {
			mode = "mode=1777"
		}
		mounts = append(mounts, struct{ source, target, fstype, data string }{"engines", dir, "tmpfs", mode})
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.target, cgroups+"/") {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return 0, err
			}
		}
		if err := unix.Mount(m.source, m.target, m.fstype, 0, m.data); err != nil && m.fstype != "mqueue" {
			return 0, fmt.Errorf("mount %s %s: %w", m.fstype, m.target, err)
		}
	}
	// For slirp4netns of an ordinary user; where a machine has the device for root alone, this one is not.
	if err := unix.Mount("dev", "/dev/net", "tmpfs", 0, "mode=0755"); err == nil {
		if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
			return 0, fmt.Errorf("mknod /dev/net/tun: %w", err)
		}
		if err := os.Chmod("/dev/net/tun", 0o666); err != nil {
			return 0, err
		}
	}
	if err := attachTree(binaries, runtimeDir); err != nil {
		return 0, err
	}
	for name, fd := range built {
		dir := "/run/" + strings.ToLower(name)
		if err := attachTree(fd, dir); err != nil {
			return 0, err
		}
		if err := os.Setenv(name, dir); err != nil {
			return 0, err
		}
	}
	if err := setEnvironment(); err != nil {
		return 0, err
	}
	if err := os.Mkdir("/run/home", 0o755); err != nil {
		return 0, err
	}
	return machine.RunTests(self)
}
