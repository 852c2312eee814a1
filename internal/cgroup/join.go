package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

const procsFile = "cgroup.procs"

// TaskFiles returns the files to which a process that has one thread writes "0" to join the v1 hierarchies, without the
// wait that Add has; see the package comment. It is empty on v2. Those of optional hierarchies are in it too: a
// failure to write any of them is a failure to join.
func (g *Group) TaskFiles() []string {
	if g.mode == V2 {
		return nil
	}
	var files []string
	for _, d := range g.dirs() {
		if d.controllers[0] != unified {
			files = append(files, d.path+"/tasks")
		}
	}
	return files
}

// Add moves a process into g. With the systemd driver it starts the unit, waits until systemd is done, and moves the
// process into what systemd doesn't manage.
func (g *Group) Add(ctx context.Context, pid int) error {
	if g.unit == nil {
		return g.addDirect("", pid)
	}
	if err := g.startUnit(ctx, pid); err != nil {
		return err
	}
	if g.mode == V2 {
		return enableControllers(g.paths[unified])
	}
	for _, d := range g.dirs() {
		if slices.Contains(d.controllers, namedSystemd) || slices.Contains(d.controllers, unified) {
			continue // systemd's own
		}
		if err := g.adoptV1(d, pid); err != nil {
			return err
		}
	}
	return nil
}

// adoptV1 makes a hierarchy that systemd leaves alone, and moves pid there.
func (g *Group) adoptV1(d dir, pid int) error {
	err := makeParents(d.path)
	if err == nil {
		if err = mkdir(d.path); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err == nil && slices.Contains(d.controllers, "cpuset") {
		err = g.fillCpuset(d.path)
	}
	if err == nil {
		err = writePid(d.path, pid)
	}
	if err != nil {
		return &fault.Error{Step: "join the cgroup", Err: err}
	}
	return nil
}

// addDirect moves pid into the cgroup sub below each of g's.
func (g *Group) addDirect(sub string, pid int) error {
	for _, d := range g.dirs() {
		err := writePid(d.path+sub, pid)
		switch {
		case err == nil:
		case g.mode != V2 && (d.optional() || g.rootless && denied(err)):
		default:
			return &fault.Error{Step: "join the cgroup", Err: err}
		}
	}
	return nil
}

// writePid moves a process. A child that clone hasn't finished with yet answers EINVAL: it is tried again.
func writePid(dir string, pid int) error {
	for range 5 {
		err := writeFile(dir, procsFile, strconv.Itoa(pid))
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return writeFile(dir, procsFile, strconv.Itoa(pid))
}

// Join moves a process of `exec` into the running container's cgroups, or into sub-cgroups of them.
//
// Each of subs is PATH, for all, or CONTROLLER[,CONTROLLER...]:PATH for some of v1's. init is the container's first
// process: on v2, if it has moved itself and the container's own cgroup is gone or takes no processes, pid follows it,
// unless a sub-cgroup was asked for.
//
// Where a caller without privileges may not do it, pid stays where it is, and warning says so.
func (g *Group) Join(ctx context.Context, pid, init int, subs ...string) (warning string, err error) {
	where, err := g.subPaths(subs)
	if err != nil {
		return "", err
	}
	if g.mode == V2 {
		return g.joinUnified(ctx, pid, init, where[unified])
	}
	for _, d := range g.dirs() {
		sub := where[unified]
		for _, c := range d.controllers {
			if s, ok := where[c]; ok && c != unified {
				sub = s
			}
		}
		err := writePid(d.path+sub, pid)
		switch {
		case err == nil:
		case g.rootless && denied(err):
			warning = outside(err)
		case d.optional() && sub == "":
		default:
			return "", &fault.Error{Step: "join the cgroup", Err: err}
		}
	}
	return warning, nil
}

func (g *Group) joinUnified(ctx context.Context, pid, init int, sub string) (warning string, err error) {
	if g.unit != nil {
		err = g.attach(ctx, sub, pid)
	} else {
		err = writePid(g.paths[unified]+sub, pid)
	}
	switch {
	case err == nil, sub == "" && init > 0 && g.follow(ctx, pid, init) == nil:
		return "", nil
	case !g.rootless || !denied(err) && !gone(err):
		return "", &fault.Error{Step: "join the cgroup", Err: err}
	case g.paths[unified] == "":
		return "", nil // the container has none, which was said when it was made
	}
	return outside(err), nil
}

func outside(err error) string {
	return "the process is not in the container's cgroup, whose limits don't hold for it: " + err.Error()
}

// follow moves pid to where the container's init has moved itself.
func (g *Group) follow(ctx context.Context, pid, init int) error {
	path := cgroupOf(init)
	if path == "" {
		return unix.ESRCH
	}
	dir := filepath.Join(mountRoot, path)
	err := writePid(dir, pid)
	if sub, below := strings.CutPrefix(dir, g.paths[unified]+"/"); err != nil && g.unit != nil && below {
		return g.attach(ctx, "/"+sub, pid)
	}
	return err
}

// cgroupOf returns a process's cgroup in v2, or "".
func cgroupOf(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return ""
	}
	return parseCgroupFile(data)[unified]
}

// subPaths parses the sub-cgroups of Join: by controller, or "" for all. A path has a leading slash, or is "".
func (g *Group) subPaths(subs []string) (map[string]string, error) {
	where := make(map[string]string)
	for _, s := range subs {
		controllers, path, ok := strings.Cut(s, ":")
		if !ok {
			controllers, path = "", s
		}
		if ok && g.mode == V2 {
			return nil, usage("sub-cgroup "+quote(s), "cgroup v2 has one hierarchy: give a path alone")
		}
		clean := filepath.Clean("/" + path)
		if slices.Contains(strings.Split(path, "/"), "..") {
			return nil, usage("sub-cgroup "+quote(s), "leaves the container's cgroup")
		}
		if clean == "/" {
			clean = ""
		}
		for c := range strings.SplitSeq(controllers, ",") {
			if c == "systemd" {
				c = namedSystemd
			}
			if _, dup := where[c]; dup {
				return nil, usage("sub-cgroup "+quote(s), "given twice")
			}
			if c != "" && g.paths[c] == "" {
				return nil, usage("sub-cgroup "+quote(s), "the container has no cgroup of "+quote(c))
			}
			where[c] = clean
		}
	}
	if len(where) > 1 {
		if _, all := where[unified]; all {
			return nil, usage("sub-cgroup", "one for all controllers and one for some exclude each other")
		}
	}
	return where, nil
}

// SubDirFD is DirFD for a process of `exec` that joins by CLONE_INTO_CGROUP. It is nil where Join has to be used.
func (g *Group) SubDirFD(subs ...string) (*os.File, error) {
	if g.mode != V2 {
		return nil, nil
	}
	where, err := g.subPaths(subs)
	if err != nil {
		return nil, err
	}
	path := g.paths[unified] + where[unified]
	fd, err := openRetry(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil && where[unified] == "" {
		return nil, nil // Join looks for the container's first process
	}
	if err != nil {
		return nil, &fault.Error{Step: "open the cgroup", Err: &fs.PathError{Op: "open", Path: path, Err: err}}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// SubTaskFiles is TaskFiles for a process of `exec`.
func (g *Group) SubTaskFiles(subs ...string) ([]string, error) {
	if g.mode == V2 {
		return nil, nil
	}
	where, err := g.subPaths(subs)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, d := range g.dirs() {
		sub := where[unified]
		for _, c := range d.controllers {
			if s, ok := where[c]; ok && c != unified {
				sub = s
			}
		}
		if d.controllers[0] != unified {
			files = append(files, d.path+sub+"/tasks")
		}
	}
	return files, nil
}

func usage(step, problem string) error {
	return &fault.Error{Step: step, Kind: fault.BadUsage, Err: errors.New(problem)}
}
