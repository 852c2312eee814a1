package oci

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

// extraV1 are the controllers that programs want and that hosts seldom mount.
var extraV1 = []string{"hugetlb", "net_cls", "net_prio"}

// showCgroupV1 puts a tmpfs over /sys/fs/cgroup, in this process' mount namespace, that has the host's v1 hierarchies
// and those the kernel allows to be mounted beside them; began has the names of the latter.
func showCgroupV1() (began []string, err error) {
	if os.Getenv(inside) == "" {
		return nil, errors.New("bug: not in a mount namespace of its own")
	}
	v1, err := mountedV1()
	if err != nil {
		return nil, err
	}
	if len(v1) == 0 {
		return nil, errors.New("the programs want cgroup v1, which isn't mounted here")
	}
	tmp, err := os.MkdirTemp("", "hull-oci-cgroup")
	if err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", tmp, "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("tmpfs: %w", err)
	}
	for _, name := range v1 {
		to := filepath.Join(tmp, name)
		if err := os.Mkdir(to, 0o755); err != nil {
			return nil, err
		}
		if err := syscall.Mount(filepath.Join(cgroupRoot, name), to, "", syscall.MS_BIND, ""); err != nil {
			return nil, fmt.Errorf("bind %s: %w", name, err)
		}
	}
	for _, name := range extraV1 {
		ok, err := mountV1(tmp, name)
		if err != nil {
			return nil, err
		}
		if ok {
			began = append(began, name)
		}
	}
	return began, syscall.Mount(tmp, cgroupRoot, "", syscall.MS_MOVE, "")
}

// ownCgroup are the names of cgroups that the programs make and don't all remove: a path of theirs, and the container's
// id, a UUID.
var ownCgroup = regexp.MustCompile(`^(testdir|cgrouptest|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)

// restoreCgroups removes what programs left and ends the hierarchies that mountV1 began. One that isn't mounted anywhere
// lives on while it has a cgroup, and keeps its controller from v2: so this matters to the whole machine.
func restoreCgroups(began []string) error {
	err := sweepCgroups()
	for _, name := range began {
		err = errors.Join(err, releaseV1(name))
	}
	return err
}

func sweepCgroups() error {
	tops, err := filepath.Glob(cgroupRoot + "/*/*")
	if err != nil {
		return err
	}
	for _, top := range tops {
		if info, err := os.Stat(top); err != nil || !info.IsDir() || !ownCgroup.MatchString(filepath.Base(top)) {
			continue
		}
		var dirs []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		for _, dir := range slices.Backward(dirs) {
			err = cmp.Or(err, os.Remove(dir))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// releaseV1 gives a hierarchy of mountV1 back to the kernel. Unmounting does it, a moment later, if the kernel is done with
// the cgroups that were in it, which is some time after their removal; so it is tried again.
func releaseV1(name string) error {
	to := filepath.Join(cgroupRoot, name)
	for range 5 {
		if err := syscall.Unmount(to, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", to, err)
		}
		gone, err := awaitGone(name)
		if gone || err != nil {
			return err
		}
		if err := syscall.Mount("cgroup", to, "cgroup", 0, name); err != nil {
			return fmt.Errorf("mount %s: %w", to, err)
		}
	}
	return fmt.Errorf("hierarchy %s is still there", name)
}

// awaitGone waits up to two seconds for a hierarchy to end.
func awaitGone(name string) (bool, error) {
	for range 20 {
		data, err := os.ReadFile("/proc/self/cgroup")
		if err != nil || !strings.Contains(string(data), ":"+name+":") {
			return err == nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false, nil
}

// mountV1 mounts a hierarchy that the host left alone. A kernel that lacks the controller, or has it in use on v2,
// refuses; the programs about it then fail or skip in words of their own.
func mountV1(dir, name string) (bool, error) {
	to := filepath.Join(dir, name)
	if err := os.Mkdir(to, 0o755); errors.Is(err, fs.ErrExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if err := syscall.Mount("cgroup", to, "cgroup", 0, name); err != nil {
		return false, os.Remove(to)
	}
	return true, nil
}

// mountedV1 are the names below /sys/fs/cgroup where v1 hierarchies are mounted.
func mountedV1() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		// 36 35 98:0 /root /mount/point options - fstype source superoptions: proc_pid_mountinfo(5)
		front, back, ok := strings.Cut(line, " - ")
		fields := strings.Fields(front)
		if !ok || len(fields) < 5 || !strings.HasPrefix(back, "cgroup ") {
			continue
		}
		if dir, name := filepath.Split(fields[4]); filepath.Clean(dir) == cgroupRoot {
			names = append(names, name)
		}
	}
	return names, nil
}
