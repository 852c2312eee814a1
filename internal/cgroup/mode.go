package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"hull/internal/mountinfo"
)

// Mode says which versions of cgroups a host has mounted.
type Mode uint8

const (
	V1     Mode = iota + 1 // v1 hierarchies only
	Hybrid                 // v1 hierarchies, and v2 at /sys/fs/cgroup/unified
	V2                     // v2 alone
)

// String returns "v1", "hybrid" or "v2".
func (m Mode) String() string {
	switch m {
	case V1:
		return "v1"
	case Hybrid:
		return "hybrid"
	case V2:
		return "v2"
	}
	return "unknown"
}

const (
	mountRoot    = "/sys/fs/cgroup"
	hybridRoot   = mountRoot + "/unified"
	namedSystemd = "name=systemd"
	unified      = "" // the key of the v2 directory among a Group's paths
)

// Detect returns the host's mode; it asks the kernel once.
var Detect = sync.OnceValue(func() Mode {
	switch {
	case filesystem(mountRoot) == unix.CGROUP2_SUPER_MAGIC:
		return V2
	case filesystem(hybridRoot) == unix.CGROUP2_SUPER_MAGIC:
		return Hybrid
	}
	return V1
})

// filesystem returns the magic number of the file system at path, or 0.
func filesystem(path string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return 0
	}
	return int64(st.Type)
}

// Features is what `features` tells about cgroups.
type Features struct {
	V1, V2, Systemd, SystemdUser, RDMA bool
}

// Supported returns what this package can do, which doesn't depend on the host.
func Supported() Features {
	return Features{V1: true, V2: true, Systemd: true, SystemdUser: true, RDMA: true}
}

// v1Controllers are the v1 hierarchies that a container is put in, in the order they are made. Cpuset and devices come
// first: they are the ones most likely to refuse.
func v1Controllers() []string {
	return []string{
		"cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio",
		"perf_event", "freezer", "rdma", namedSystemd, "misc",
	}
}

// hierarchy is a v1 controller and where its hierarchy is mounted.
type hierarchy struct {
	controller string
	mount      string
}

// hierarchies returns the mounted v1 controllers. /sys/fs/cgroup is tried first: mountinfo grows with the number of
// containers on the host, and costs more to read than everything else here together.
var hierarchies = sync.OnceValues(func() ([]hierarchy, error) {
	var found []hierarchy
	for _, name := range v1Controllers() {
		if dir := usualMount(name); dir != "" {
			found = append(found, hierarchy{name, dir})
		}
	}
	if mountedAt(found, "devices") != "" {
		return found, nil
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	return fromMounts(mounts), nil
})

// usualMount returns where a controller of v1 is mounted below /sys/fs/cgroup, or "".
func usualMount(controller string) string {
	dir := filepath.Join(mountRoot, strings.TrimPrefix(controller, "name="))
	// Controllers mounted together have links: cpu -> cpu,cpuacct.
	if target, err := os.Readlink(dir); err == nil {
		dir = filepath.Join(mountRoot, target)
	}
	if filesystem(dir) != unix.CGROUP_SUPER_MAGIC {
		return ""
	}
	return dir
}

// fromMounts returns the v1 controllers found in mounts.
func fromMounts(mounts []mount) []hierarchy {
	var found []hierarchy
	for _, name := range v1Controllers() {
		for _, m := range mounts {
			if m.has(name) {
				found = append(found, hierarchy{name, m.dir})
				break
			}
		}
	}
	return found
}

func mountedAt(hs []hierarchy, controller string) string {
	for _, h := range hs {
		if h.controller == controller {
			return h.mount
		}
	}
	return ""
}

// mount is a mounted v1 hierarchy.
type mount struct {
	root    string // the cgroup that is seen at dir: not "/" in a container without a cgroup namespace
	dir     string
	options []string
}

func (m mount) has(controller string) bool {
	for _, o := range m.options {
		if o == controller {
			return true
		}
	}
	return false
}

var cgroupMounts = sync.OnceValues(func() ([]mount, error) {
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMountinfo(data), nil
})

// parseMountinfo returns the v1 cgroup mounts of a mountinfo file (proc_pid_mountinfo(5)).
func parseMountinfo(data []byte) []mount {
	var mounts []mount
	for m := range mountinfo.Parse(data) {
		if m.Type() == "cgroup" {
			mounts = append(mounts, mount{root: m.Root(), dir: m.Point(), options: strings.Split(m.Super(), ",")})
		}
	}
	return mounts
}

// ownCgroups returns the caller's cgroup in each hierarchy; the key of v2 is "".
var ownCgroups = sync.OnceValues(func() (map[string]string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return parseCgroupFile(data), nil
})

// parseCgroupFile parses a /proc/PID/cgroup file: lines of "4:cpu,cpuacct:/path" (cgroups(7)).
func parseCgroupFile(data []byte) map[string]string {
	own := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			continue
		}
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		for c := range strings.SplitSeq(controllers, ",") {
			own[c] = path
		}
	}
	return own
}

var errNotMounted = errors.New("not mounted")

// ownDir returns the directory of the caller's own cgroup in h.
func ownDir(h hierarchy) (string, error) {
	own, err := ownCgroups()
	if err != nil {
		return "", err
	}
	path, ok := own[h.controller]
	if !ok {
		return "", errNotMounted
	}
	dir := filepath.Join(h.mount, path)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// In a container without a cgroup namespace, /proc/self/cgroup shows the host's paths, of which the mount
	// shows only a part: the mount's root is to be taken off.
	mounts, err := cgroupMounts()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.dir != h.mount {
			continue
		}
		rel, err := filepath.Rel(m.root, path)
		if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return filepath.Join(h.mount, rel), nil
		}
	}
	return h.mount, nil
}
