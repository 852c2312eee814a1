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
// hierarchy. Their first process is init below: with it ends all that was started in them, however the tests end. Mounts,
// bridges and rules of a firewall end with the namespaces, and the cgroups are removed by the process outside.
package engines

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	envStage = "HULL_ENGINES_STAGE" // where a process of this program is: "" outside, init, tests
	cgroups  = "/sys/fs/cgroup"
	prefix   = "hull-engines." // of the cgroups' names; the process outside follows
)

func TestMain(m *testing.M) {
	status, err := 0, error(nil)
	switch stage := os.Getenv(envStage); {
	case stage == "init":
		status, err = initMain()
	case machine && os.Getuid() == 0 && os.Getenv("RUNTIME") != "":
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

// hierarchies are the directories below /sys/fs/cgroup that cgroup file systems are mounted on, with the options of their mounts.
func hierarchies() (map[string]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := make(map[string]string)
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(super) < 3 || !strings.HasPrefix(mount[4], cgroups+"/") {
			continue
		}
		switch super[0] {
		case "cgroup":
			// "rw,name=systemd", "rw,cpu,cpuacct"; a hierarchy without a controller says so when it is mounted.
			options := strings.TrimPrefix(super[2], "rw,")
			options = strings.TrimPrefix(options, "xattr,")
			if strings.Contains(options, "name=") {
				options = "none," + options
			}
			all[mount[4]] = options
		case "cgroup2":
			all[mount[4]] = "cgroup2"
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no cgroup v1 below %s", cgroups)
	}
	return all, nil
}

// outside makes the cgroups, starts init in them and in namespaces, and removes the cgroups.
func outside() (status int, err error) {
	runtime.LockOSThread() // Pdeathsig goes by the thread
	rt, err := exec.LookPath(os.Getenv("RUNTIME"))
	if err == nil {
		rt, err = filepath.Abs(rt)
	}
	if err != nil {
		return 0, fmt.Errorf("RUNTIME: %w", err)
	}
	hier, err := hierarchies()
	if err != nil {
		return 0, err
	}
	name := prefix + strconv.Itoa(os.Getpid())
	for dir := range hier {
		removeStale(dir)
		if err := makeCgroup(dir, name); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, removeCgroup(filepath.Join(dir, name))) }()
	}
	// The child's cgroup namespace has the cgroup that its parent is in as its root.
	was, err := moveTo(hier, func(string) string { return name })
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envStage+"=init", "RUNTIME="+rt)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Start()
	_, back := moveTo(hier, func(dir string) string { return was[dir] })
	if err = errors.Join(err, back); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// moveTo moves this process in each hierarchy, and returns where it was.
func moveTo(hier map[string]string, to func(dir string) string) (was map[string]string, err error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	was = make(map[string]string)
	for dir, options := range hier {
		for line := range strings.Lines(string(own)) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if f[1] == strings.TrimPrefix(options, "none,") || options == "cgroup2" && f[1] == "" {
				was[dir] = f[2]
			}
		}
		if err := os.WriteFile(filepath.Join(dir, to(dir), "cgroup.procs"), []byte("0"), 0); err != nil {
			return nil, err
		}
	}
	return was, nil
}

func makeCgroup(dir, name string) error {
	if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
		return err
	}
	// A new cpuset of v1 has neither, and takes no process.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name, file), have, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeCgroup removes a cgroup and those in it, whose processes may have a moment to end.
func removeCgroup(dir string) (err error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		removeTree(dir)
		if _, err = os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return fmt.Errorf("%s can't be removed", dir)
}

func removeTree(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}

// removeStale removes what tests have left whose process outside was killed: the kernel has ended what was in it.
func removeStale(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		pid, ok := strings.CutPrefix(e.Name(), prefix)
		if n, err := strconv.Atoi(pid); ok && err == nil && errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
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
	for _, e := range []string{"TMPDIR=/var/tmp", "XDG_RUNTIME_DIR=", "HULL_ISOLATION=", "DOCKER_HOST=", "CONTAINER_HOST=", "HOME=/run/home", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", envStage + "=tests"} {
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

// initMain is process 1 of the namespaces. It sees to mounts and the loopback device, runs the tests, and reaps.
func initMain() (int, error) {
	hier, err := hierarchies()
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
	newest := -1
	if dir := os.Getenv("HULL_TEST_CONTAINERD"); dir != "" {
		if newest, err = openTree(dir); err != nil {
			return 0, err
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
	if newest >= 0 {
		const dir = "/run/newest"
		if err := attachTree(newest, dir); err != nil {
			return 0, err
		}
		if err := os.Setenv("HULL_TEST_CONTAINERD", dir); err != nil {
			return 0, err
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	if err := setEnvironment(); err != nil {
		return 0, err
	}
	if err := os.Setenv(envStage, "tests"); err != nil {
		return 0, err
	}
	if err := os.Mkdir("/run/home", 0o755); err != nil {
		return 0, err
	}
	child, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", self.Fd()), os.Args, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case pid != child.Pid:
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}
