package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/mnt"
	"hull/internal/mountinfo"
	"hull/internal/proc"
)

// An external mount shows files of the host's. CRIU saves no more of it than that it is there, by a name; the restoration
// gives the name its source again. The names are those that runc gives: where it is mounted, but nullMask for masked files.
//
// What there is at the restoration comes from config.json, never from the image.
type external struct {
	point  string // in the container
	name   string
	source string // on the host
}

// nullMask is the name and the source of masked files.
const nullMask = "/dev/null"

// externals returns the external mounts of a configuration. points tells where a path of the container's leads, in its root.
func externals(c *engine.Container, points func(string) string) (all []external, err error) {
	for i, m := range c.Spec.Mounts {
		parsed, err := mnt.Parse(i, m, c.Bundle)
		if err != nil {
			return nil, err
		}
		switch {
		case parsed.Bind && !parsed.Remount:
			point := points(parsed.Destination)
			all = append(all, external{point, point, parsed.Source})
		case parsed.Type == "cgroup" && c.Cgroup.Mode() != cgroup.V2 && !engine.HasNamespace(c.Spec, specs.CgroupNamespace):
			hs, err := c.Cgroup.Hierarchies()
			if err != nil {
				return nil, err
			}
			for _, h := range hs {
				point := path.Join(points(parsed.Destination), h.Name)
				all = append(all, external{point, point, h.Dir})
			}
		}
	}
	// In a user namespace devices are the host's.
	for _, d := range c.Spec.Linux.Devices {
		all = append(all, external{points(path.Clean(d.Path)), path.Clean(d.Path), path.Clean(d.Path)})
	}
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		all = append(all, external{"/dev/" + d, "/dev/" + d, "/dev/" + d})
	}
	for _, p := range c.Spec.Linux.MaskedPaths {
		all = append(all, external{points(path.Clean(p)), nullMask, nullMask})
	}
	return all, nil
}

func readMounts(pid int) ([]mountinfo.Mount, error) {
	text, err := os.ReadFile(proc.File(pid, "mountinfo"))
	return slices.Collect(mountinfo.Parse(text)), err
}

// pointsBelow returns a function that tells where paths lead in a root, of which it may be said that a process has it mounted:
// links are followed in it. What leads nowhere is returned as it is.
func pointsBelow(root *os.File) (func(string) string, error) {
	top, err := os.Readlink(procSelf(root))
	if err != nil {
		return nil, err
	}
	return func(p string) string {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		fd, err := unix.Openat2(int(root.Fd()), p, &how)
		if err != nil {
			return path.Clean("/" + p)
		}
		f := os.NewFile(uintptr(fd), p)
		defer f.Close()
		at, err := os.Readlink(procSelf(f))
		if err != nil {
			return path.Clean("/" + p)
		}
		if top == "/" {
			return at
		}
		if rest, ok := strings.CutPrefix(at, top); ok && strings.HasPrefix(rest, "/") {
			return rest
		}
		return path.Clean("/" + p)
	}, nil
}

func procSelf(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// isDir tells whether a mount shows a directory, of what is mounted in a process's root.
func isDir(root *os.File, point string) (bool, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), point, &how)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// dumped returns those of the external mounts that a container's first process has.
func dumped(all []external, mounts []mountinfo.Mount, root *os.File) (there []external, err error) {
	for _, e := range all {
		if !mounted(mounts, e.point) {
			continue
		}
		if e.name == nullMask {
			// A masked directory has an empty file system over it, which is saved as any other.
			dir, err := isDir(root, e.point)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if dir || err != nil {
				continue
			}
		}
		there = append(there, e)
	}
	return there, nil
}

func mounted(mounts []mountinfo.Mount, point string) bool {
	return slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return m.Point() == point })
}

// openRoot opens the root of a process.
func openRoot(pid int) (*os.File, error) {
	fd, err := unix.Open(proc.File(pid, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: proc.File(pid, "root"), Err: err}
	}
	return os.NewFile(uintptr(fd), "root"), nil
}
