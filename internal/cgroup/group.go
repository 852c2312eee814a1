package cgroup

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hull/internal/cgroup/systemd"
	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Config is what a container's configuration says about its cgroups.
type Config struct {
	// Path is linux.cgroupsPath as given: absolute, relative, or slice:prefix:name with Systemd; or "".
	Path string
	// ID is the container's id, the name of its cgroup where Path is empty.
	ID string
	// Systemd asks for a transient unit of systemd instead of plain directories.
	Systemd bool
	// Rootless tolerates what an ordinary user may not do, as described in the package comment. With Systemd the
	// unit is one of the user's own manager.
	Rootless bool
	// Resources is linux.resources, or nil.
	Resources *specs.LinuxResources
	// Annotations are the configuration's; those that begin with org.systemd.property. are properties of the unit.
	Annotations map[string]string
}

// Group is the cgroups of one container, one directory a v1 hierarchy or one of v2. It isn't safe for concurrent use.
type Group struct {
	mode     Mode
	paths    map[string]string // by controller; "" is the v2 directory
	given    bool              // linux.cgroupsPath was set
	rootless bool
	unit     *unit // nil with the cgroupfs driver
	props    []property
	res      *specs.LinuxResources
	warnings []string

	transient *transient // or nil
}

// New checks c and plans its cgroups; it makes nothing. Every mistake in linux.resources is in the error, each with its
// field.
//
// A cgroup that exists already is refused if it has processes or is frozen: it is somebody else's, and saving a state
// that names it would have a later delete kill them.
func New(c Config) (*Group, error) {
	g, err := Plan(c)
	if err != nil {
		return nil, err
	}
	if err := g.refuseInUse(); err != nil {
		return nil, err
	}
	return g, nil
}

// Plan is New for a cgroup that may be in use: who only wants to know whether there could be one makes nothing of it.
func Plan(c Config) (*Group, error) {
	g := &Group{mode: Detect(), given: c.Path != "", rootless: c.Rootless, res: c.Resources}
	if err := check(g.mode, c.Resources); err != nil {
		return nil, err
	}
	if err := g.locate(c); err != nil {
		return nil, err
	}
	if g.mode != V2 && g.paths["devices"] == "" && !c.Rootless {
		return nil, &fault.Error{Step: "find the devices cgroup", Kind: fault.Unsupported, Err: errNotMounted}
	}
	if err := g.require(c.Resources); err != nil {
		return nil, err
	}
	return g, nil
}

// Above returns the cgroup that New's would be in, in each hierarchy, to read what it counts: Stats is all it is for.
func Above(c Config) (*Group, error) {
	g := &Group{mode: Detect(), rootless: c.Rootless}
	if err := g.locate(c); err != nil {
		return nil, err
	}
	g.unit = nil
	for controller, path := range g.paths {
		if g.paths[controller] = filepath.Dir(path); !belowMount(g.paths[controller]) {
			return nil, &fault.Error{Field: pathField, Step: "find the cgroup above", Err: errorf("%q is in none", c.Path)}
		}
	}
	return g, nil
}

// Existing returns the cgroup of a path in each hierarchy that has it, for a process that is none of a container's to join.
func Existing(path string) (*Group, error) {
	if !filepath.IsAbs(path) {
		return nil, &fault.Error{Step: "find the cgroup", Err: errorf("%q is no absolute path", path)}
	}
	g := &Group{mode: Detect(), given: true}
	if err := g.locate(Config{Path: path}); err != nil {
		return nil, err
	}
	maps.DeleteFunc(g.paths, func(_, dir string) bool { return !exists(dir) })
	if g.none() {
		return nil, &fault.Error{Step: "find the cgroup", Err: errorf("%q is in no hierarchy", path)}
	}
	return g, nil
}

// Named returns the cgroups of a container of which no State is left, by linux.cgroupsPath alone: an absolute path, or one of
// systemd's. It refuses what is no container's own: a slice, and a cgroup that the caller or process 1 is in.
func Named(path string, rootless bool) (*Group, error) {
	refuse := func(why string) error {
		return &fault.Error{Field: pathField, Step: "find the cgroup", Kind: fault.Unsupported, Err: errorf("%q %s", path, why)}
	}
	c := Config{Path: path, Systemd: !filepath.IsAbs(path) && strings.Count(path, ":") == 2, Rootless: rootless}
	if !filepath.IsAbs(path) && !c.Systemd {
		return nil, refuse("is relative to the cgroup of whoever made the container")
	}
	g := &Group{mode: Detect(), given: true, rootless: rootless}
	if err := g.locate(c); err != nil {
		return nil, err
	}
	if g.unit != nil && g.unit.isSlice() {
		return nil, refuse("is a slice")
	}
	for _, d := range g.dirs() {
		if !belowMount(d.path) {
			return nil, refuse("is not below " + mountRoot)
		}
		pids, err := pidsBelow(d.path)
		if err != nil && !gone(err) {
			return nil, &fault.Error{Step: "list the processes", Err: err}
		}
		if slices.Contains(pids, os.Getpid()) || slices.Contains(pids, 1) {
			return nil, refuse("has processes that are none of a container's")
		}
	}
	return g, nil
}

// Overlaps tells whether one of g's cgroups is one of s's, or is in one, or has one in it.
func (g *Group) Overlaps(s State) bool {
	for _, p := range s.Paths {
		for _, d := range g.dirs() {
			if p == d.path || strings.HasPrefix(p, d.path+"/") || strings.HasPrefix(d.path, p+"/") {
				return true
			}
		}
	}
	return false
}

// None returns the Group of processes that stay in the cgroup of their parent. All it does is nothing.
func None() *Group { return &Group{mode: V1} }

func (g *Group) none() bool { return len(g.paths) == 0 && g.unit == nil }

// locate finds out the paths, and the unit's properties.
func (g *Group) locate(c Config) (err error) {
	if !c.Systemd {
		if isUnitPath(c.Path) {
			g.warn(pathField + ": " + quote(c.Path) + " is taken as a path, though it has the form of a unit of systemd's, SLICE:PREFIX:NAME: its cgroup is outside of that slice, and of " +
				"its limits. --systemd-cgroup has systemd make it; of containerd it is the runtime's option SystemdCgroup = true")
		}
		g.paths, err = cgroupfsPaths(g.mode, c.Path, c.ID)
		if err != nil {
			return &fault.Error{Field: pathField, Step: "find the cgroup", Err: err}
		}
		return nil
	}
	if c.Rootless && g.mode != V2 {
		return &fault.Error{Step: "use the systemd driver without root", Kind: fault.Unsupported,
			Err: errUserManagerV1}
	}
	u, err := parseUnit(c.Path, c.ID, c.Rootless)
	if err != nil {
		return err
	}
	if g.props, err = annotated(c.Annotations); err != nil {
		return err
	}
	if !c.Rootless {
		if err := systemd.Expect(false); err != nil {
			return &fault.Error{Step: "have systemd make the cgroup", Kind: fault.Unsupported, Err: err}
		}
	}
	base := ""
	if c.Rootless {
		if base, err = userManagerCgroup(); err != nil {
			return err
		}
	}
	g.unit = &u
	g.paths, err = unitPaths(g.mode, u, base)
	return err
}

// refuseInUse returns an error if one of g's cgroups exists and has processes, or is frozen.
func (g *Group) refuseInUse() error {
	for _, d := range g.dirs() {
		if !exists(d.path) {
			continue
		}
		if err := refuseInUse(d); err != nil {
			return err
		}
	}
	return nil
}

// Mode returns the mode g was made in.
func (g *Group) Mode() Mode { return g.mode }

// EndsWithProcesses tells whether the cgroup goes away with the last process in it, and what it has counted with it:
// systemd takes its own away.
func (g *Group) EndsWithProcesses() bool { return g.unit != nil }

// Warnings returns what was tolerated since the last call, a sentence each.
func (g *Group) Warnings() []string {
	w := g.warnings
	g.warnings = nil
	return w
}

// Path returns the directory of a v1 controller, or of v2 for "". It is "" where there is none.
func (g *Group) Path(controller string) string { return g.paths[controller] }

// Exists tells whether any of g's cgroups exists.
func (g *Group) Exists() bool {
	for _, d := range g.dirs() {
		if exists(d.path) {
			return true
		}
	}
	return false
}

// dir is a directory and the controllers in it; controllers mounted together share one.
type dir struct {
	path        string
	controllers []string
}

// optional tells whether a container can do without d: the hierarchies that only name processes.
func (d dir) optional() bool {
	for _, c := range d.controllers {
		if c != unified && c != namedSystemd && c != "misc" {
			return false
		}
	}
	return true
}

// dirs returns g's directories, each once, in the order of v1Controllers and v2 last.
func (g *Group) dirs() []dir {
	if g.mode == V2 {
		if p := g.paths[unified]; p != "" {
			return []dir{{p, []string{"v2"}}}
		}
		return nil
	}
	ds := make([]dir, 0, len(g.paths))
	for _, c := range append(v1Controllers(), unified) {
		p := g.paths[c]
		if p == "" {
			continue
		}
		i := slices.IndexFunc(ds, func(d dir) bool { return d.path == p })
		if i < 0 {
			ds = append(ds, dir{path: p, controllers: []string{c}})
			continue
		}
		ds[i].controllers = append(ds[i].controllers, c)
	}
	return ds
}

// Tracks tells whether there is a cgroup by which the container's processes are found. A caller without privileges may
// have to do without.
func (g *Group) Tracks() bool { return g.any() != "" }

// any returns the directory to ask about the container's processes: all of them are in each.
func (g *Group) any() string {
	if g.mode == V2 {
		return g.paths[unified]
	}
	for _, c := range []string{"devices", "pids", "freezer", "memory"} {
		if p := g.paths[c]; p != "" {
			return p
		}
	}
	for _, d := range g.dirs() {
		return d.path
	}
	return ""
}

// State is what a later command needs to find g again. It is append-only: the file that holds it carries the version.
type State struct {
	Mode     string            `json:"mode"`            // "v1", "hybrid", "v2"
	Paths    map[string]string `json:"paths"`           // by v1 controller; the key "" is v2
	Unit     string            `json:"unit,omitempty"`  // with the systemd driver
	Slice    string            `json:"slice,omitempty"` // its parent
	Rootless bool              `json:"rootless,omitempty"`
	Given    bool              `json:"given,omitempty"` // linux.cgroupsPath was set
}

// State returns what Open needs. After Create it may have fewer paths than before: rootless, those that could not be
// made are gone.
func (g *Group) State() State {
	s := State{Mode: g.mode.String(), Paths: maps.Clone(g.paths), Rootless: g.rootless, Given: g.given}
	if g.unit != nil {
		s.Unit, s.Slice = g.unit.name, g.unit.slice
	}
	return s
}

// Open returns the Group that s was saved from. It refuses paths that are not below a cgroup mount: Destroy removes
// what they name.
func Open(s State) (*Group, error) {
	g := &Group{paths: maps.Clone(s.Paths), rootless: s.Rootless, given: s.Given}
	if g.mode = modeNamed(s.Mode); g.mode == 0 {
		return nil, &fault.Error{Step: "read the saved cgroups", Kind: fault.BadState, Err: errorf("unknown mode %q", s.Mode)}
	}
	for c, p := range s.Paths {
		if filepath.Clean(p) != p || !belowMount(p) {
			return nil, &fault.Error{Step: "read the saved cgroups", Kind: fault.BadState,
				Err: errorf("path %q of %q", p, c)}
		}
	}
	if s.Unit != "" {
		g.unit = &unit{name: s.Unit, slice: s.Slice}
	}
	return g, nil
}

// modeNamed is the reverse of Mode.String.
func modeNamed(name string) Mode {
	for _, m := range []Mode{V1, Hybrid, V2} {
		if m.String() == name {
			return m
		}
	}
	return 0
}

// belowMount tells whether path is below a cgroup mount, and not that itself. A directory that is gone is judged by the
// one above it.
func belowMount(path string) bool {
	if !filepath.IsAbs(path) || path == mountRoot {
		return false
	}
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		switch filesystem(dir) {
		case unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC:
			return true
		case 0:
			continue
		}
		return false
	}
	return false
}

// Limit applies the resources that New was given, as far as Create hasn't.
func (g *Group) Limit(ctx context.Context) error {
	return g.set(ctx, g.resources(), g.unit != nil)
}

// resources returns what New was given; never nil.
func (g *Group) resources() *specs.LinuxResources {
	if g.res == nil {
		return &specs.LinuxResources{}
	}
	return g.res
}

// Set changes limits of a running container: only what r names is touched. Device rules are those r has, with the
// default ones after them; without any in r they stay as they are.
func (g *Group) Set(ctx context.Context, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := check(g.mode, r); err != nil {
		return err
	}
	return g.set(ctx, r, len(r.Devices) > 0)
}
