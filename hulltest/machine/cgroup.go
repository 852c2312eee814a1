package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups is the directory of the file systems of cgroups.
const Cgroups = "/sys/fs/cgroup"

// Hierarchies are the directories below Cgroups that cgroup file systems are mounted on, with the options of their mounts.
func Hierarchies() (map[string]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := make(map[string]string)
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(super) < 3 || !strings.HasPrefix(mount[4], Cgroups+"/") {
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
		return nil, fmt.Errorf("no cgroup v1 below %s", Cgroups)
	}
	return all, nil
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
	_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0) // with v1 a frozen process doesn't end when it is killed
	_ = unix.Rmdir(dir)
}

// removeStale removes what tests have left whose process outside was killed: the kernel has ended what was in it.
func removeStale(dir, prefix string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		pid, ok := strings.CutPrefix(e.Name(), prefix)
		if n, err := strconv.Atoi(pid); ok && err == nil && errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
}
