package cgroup

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var (
	errNotEmpty = errors.New("has processes already")
	errFrozen   = errors.New("is frozen")
)

// Create makes the directories and applies the device rules, while nobody is in them yet: on v1 all devices have to be
// denied first, and a process that runs meanwhile fails to open its terminal. If a directory can't be made, it removes
// those it made. With the systemd driver it does nothing: systemd does, once Add gives it a process. For a transient group
// it may be called again.
func (g *Group) Create() error {
	switch {
	case g.transient != nil && g.paths != nil:
		return nil // made already
	case g.transient != nil:
		return g.createTransient()
	case g.unit != nil || g.none():
		return nil
	}
	if err := g.makeDirs(); err != nil {
		return err
	}
	return g.limitDevices(g.resources().Devices)
}

func (g *Group) makeDirs() error {
	if g.mode == V2 {
		return g.createUnified()
	}
	var made, missing []string
	var first error
	for _, d := range g.dirs() {
		created, err := g.createV1(d)
		if created {
			made = append(made, d.path)
		}
		switch {
		case err == nil:
		case d.optional():
			g.drop(d)
		case g.tolerates(err):
			g.drop(d)
			missing = append(missing, d.controllers...)
			first = cmp.Or(first, err)
		default:
			for _, p := range made {
				unix.Rmdir(p)
			}
			return notMade(err)
		}
	}
	if first != nil {
		g.warn("no cgroup for " + strings.Join(missing, ", ") + ": " + first.Error())
	}
	return nil
}

func createHint(err error) string {
	if errors.Is(err, unix.EROFS) {
		return "the cgroup file system is mounted read-only"
	}
	return ""
}

// tolerates tells whether a rootless container goes on without a cgroup that err kept from being made. One whose path
// was asked for is not done without.
func (g *Group) tolerates(err error) bool {
	return g.rootless && !g.given && denied(err)
}

// drop takes d's controllers out of g.
func (g *Group) drop(d dir) {
	for _, c := range d.controllers {
		delete(g.paths, c)
	}
}

func (g *Group) warn(s string) { g.warnings = append(g.warnings, s) }

// createV1 makes a directory of v1 and tells whether it did.
func (g *Group) createV1(d dir) (created bool, err error) {
	cpuset := slices.Contains(d.controllers, "cpuset")
	err = mkdir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeParents(d.path); err == nil {
			err = mkdir(d.path)
		}
	}
	switch {
	case err == nil:
		created = true
	case errors.Is(err, fs.ErrExist):
		if err := refuseInUse(d); err != nil {
			return false, err
		}
	default:
		return false, err
	}
	if cpuset {
		err = g.fillCpuset(d.path)
		return created, err
	}
	return created, nil
}

func mkdir(path string) error {
	for {
		err := unix.Mkdir(path, 0o755)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &fs.PathError{Op: "mkdir", Path: path, Err: err}
		}
	}
}

// makeParents makes the missing directories above path.
func makeParents(path string) error {
	parent := filepath.Dir(path)
	if exists(parent) {
		return nil
	}
	if err := makeParents(parent); err != nil {
		return err
	}
	if err := mkdir(parent); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// fillCpuset gives a new cpuset what the configuration says, or else what its parent has: without CPUs and memory
// nodes no process may enter it.
func (g *Group) fillCpuset(path string) error {
	if g.res != nil && g.res.CPU != nil {
		// A cpuset can't have CPUs that its parent lacks.
		if err := inheritCpuset(filepath.Dir(path)); err != nil {
			return err
		}
		for _, f := range []struct{ name, field, value string }{
			{"cpus", "linux.resources.cpu.cpus", g.res.CPU.Cpus},
			{"mems", "linux.resources.cpu.mems", g.res.CPU.Mems},
		} {
			if f.value == "" {
				continue
			}
			file := cpusetFile(path, f.name)
			if err := writeFile(path, file, f.value); err != nil {
				return &fault.Error{Field: f.field, Err: err, Hint: g.cpusetHint(path, file)}
			}
		}
	}
	return inheritCpuset(path)
}

// inheritCpuset copies what is empty in a cpuset from its parent, which may have to inherit it first. The root of the
// hierarchy has all.
func inheritCpuset(path string) error {
	for _, name := range []string{"cpus", "mems"} {
		file := "cpuset." + name
		now, err := readFile(path, file)
		if errors.Is(err, fs.ErrNotExist) {
			file = name // as cpusetFile says
			now, err = readFile(path, file)
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(now) != "" {
			continue
		}
		parent, err := readFile(filepath.Dir(path), file)
		if err == nil && strings.TrimSpace(parent) == "" && filesystem(filepath.Dir(path)) == unix.CGROUP_SUPER_MAGIC {
			if err = inheritCpuset(filepath.Dir(path)); err == nil {
				parent, err = readFile(filepath.Dir(path), file)
			}
		}
		if err != nil {
			return err
		}
		if err := writeFile(path, file, strings.TrimSpace(parent)); err != nil {
			return err
		}
	}
	return nil
}

// cpusetFile returns a file's name in a v1 cpuset hierarchy, which Android mounts with noprefix.
func cpusetFile(path, name string) string {
	if !exists(path+"/cpuset."+name) && exists(path+"/"+name) {
		return name
	}
	return "cpuset." + name
}

// refuseInUse returns an error if the existing cgroup d, or one below it, has processes, or if it is frozen.
func refuseInUse(d dir) error {
	switch pids, err := pidsBelow(d.path); {
	case err != nil && !gone(err):
		return &fault.Error{Step: "look into the existing cgroup", Err: err}
	case len(pids) > 0:
		return &fault.Error{Field: pathField, Step: "use the cgroup " + d.path, Kind: fault.BadState, Err: errNotEmpty,
			Hint: "another container may use it; give this one a path of its own"}
	}
	frozen, err := frozenDir(d)
	if err != nil && !gone(err) {
		return &fault.Error{Step: "look into the existing cgroup", Err: err}
	}
	if frozen {
		return &fault.Error{Field: pathField, Step: "use the cgroup " + d.path, Kind: fault.BadState, Err: errFrozen}
	}
	return nil
}

// createUnified makes the v2 directory and sees to it that the controllers of the mount are there in it.
func (g *Group) createUnified() error {
	path := g.paths[unified]
	made, err := makeUnified(path)
	if err == nil {
		err = checkDomain(path, g.res)
	}
	if err == nil {
		return nil
	}
	for _, p := range slices.Backward(made) {
		unix.Rmdir(p)
	}
	if g.tolerates(err) {
		if field := firstLimit(g.res); field != "" {
			return &fault.Error{Field: field, Step: "make the cgroup", Err: err,
				Hint: "without root, limits need a cgroup that was delegated to the user"}
		}
		g.drop(dir{path, []string{unified}})
		g.warn("no cgroup: " + err.Error())
		return nil
	}
	return notMade(err)
}

// notMade names the step, unless a limit of the configuration is at fault, which has its own field.
func notMade(err error) error {
	if e, ok := err.(*fault.Error); ok && e.Field != "" {
		return e
	}
	return &fault.Error{Step: "make the cgroup", Err: err, Hint: createHint(err)}
}

// makeUnified makes path, and what is missing above it, and returns what it made.
func makeUnified(path string) (made []string, err error) {
	if !strings.HasPrefix(path, mountRoot+"/") {
		return nil, &fs.PathError{Op: "mkdir", Path: path, Err: unix.EINVAL}
	}
	err = mkdir(path)
	switch {
	case err == nil:
		made = []string{path}
	case errors.Is(err, fs.ErrExist):
		if err := refuseInUse(dir{path, []string{"v2"}}); err != nil {
			return nil, err
		}
	case errors.Is(err, fs.ErrNotExist):
		for i := len(mountRoot) + 1; i < len(path); i++ {
			if path[i] != '/' && i != len(path)-1 {
				continue
			}
			p := strings.TrimSuffix(path[:i+1], "/")
			switch err := mkdir(p); {
			case err == nil:
				made = append(made, p)
			case !errors.Is(err, fs.ErrExist):
				return made, err
			}
		}
	default:
		return nil, err
	}
	return made, enableControllers(path)
}

// enableControllers turns on, from the mount's root down to path's parent, all controllers that the root has. Where one
// can't be, as in a tree that was not delegated to the caller, Limit says so of the limits that miss it.
func enableControllers(path string) error {
	all, err := readFile(mountRoot, "cgroup.controllers")
	if err != nil {
		return err
	}
	have, err := readFile(path, "cgroup.controllers")
	if err != nil {
		return err
	}
	missing := subtract(strings.Fields(all), strings.Fields(have))
	if len(missing) == 0 {
		return nil
	}
	for i := len(mountRoot); i < len(path); i++ {
		if path[i] == '/' {
			enable(path[:i], missing)
		}
	}
	return nil
}

// enable turns on controllers for the children of path: all at once, or, if one of them is refused, one by one.
func enable(path string, controllers []string) {
	if writeFile(path, "cgroup.subtree_control", "+"+strings.Join(controllers, " +")) == nil {
		return
	}
	for _, c := range controllers {
		writeFile(path, "cgroup.subtree_control", "+"+c)
	}
}

func subtract(a, b []string) []string {
	return slices.DeleteFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// checkDomain refuses a cgroup that can't hold what the configuration asks for: below a cgroup with processes or in a
// threaded subtree there are no domain controllers, memory and io among them (cgroups(7), "Thread mode").
func checkDomain(path string, r *specs.LinuxResources) error {
	kind, err := readFile(path, "cgroup.type")
	if err != nil {
		return nil // the root has none, nor has a kernel before 4.14
	}
	kind = strings.TrimSpace(kind)
	if kind == "domain" {
		return nil
	}
	if field := domainLimit(r); field != "" {
		return &fault.Error{Field: field, Step: "use the cgroup " + path, Kind: fault.Unsupported,
			Err: errorf("its type is %q, which has no such controller", kind)}
	}
	if kind == "domain invalid" {
		return writeFile(path, "cgroup.type", "threaded")
	}
	return nil
}

// DirFD returns the v2 directory opened for CLONE_INTO_CGROUP (Linux 5.7), or nil where that can't be used: on v1, and
// with the systemd driver. In hybrid mode a process joins the v1 hierarchies by TaskFiles in addition. The caller
// closes it.
func (g *Group) DirFD() (*os.File, error) {
	path := g.paths[unified]
	if g.unit != nil || path == "" {
		return nil, nil
	}
	fd, err := openRetry(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, &fault.Error{Step: "open the cgroup", Err: &fs.PathError{Op: "open", Path: path, Err: err}}
	}
	return os.NewFile(uintptr(fd), path), nil
}
