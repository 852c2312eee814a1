// Package rdt puts a container into a group of resctrl, the kernel's file system for what a CPU can share out and count
// beyond its time: cache and memory bandwidth (linux.intelRdt; config-linux.md, "IntelRdt"; Documentation/filesystems/
// resctrl.rst in Linux's source).
//
//	ROOT/schemata, tasks        the default group
//	ROOT/CLOS/schemata, tasks   a control group: named after linux.intelRdt.closID, or the container
//	ROOT/CLOS/mon_groups/ID     a monitoring group of the container's
//
// A group that hull makes for one container alone is removed with it. One with a closID stays, for others may have
// joined it, unless the creation fails that has made it. So that a hull that is killed leaves nothing, the State is
// recorded before Create changes anything.
package rdt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

const field = "linux.intelRdt"

// State is what has to be kept of a group to use and remove it later. The zero State is that of no group.
type State struct {
	Dir     string // of the control group
	Monitor string // directory of the monitoring group; or ""
	Made    bool   // hull makes, or has made, the control group
	Shared  bool   // it has a closID
}

// Group is a container's place in resctrl. Nil is that of a container without linux.intelRdt: its methods do nothing, but for Set and Move, which it hasn't.
type Group struct {
	fs    resctrl
	state State
	lines []string // for the schemata file
}

// New checks what config.json says of the container's group against this host and plans it. It changes nothing. The
// group of a configuration without intelRdt is nil.
func New(id string, c *specs.LinuxIntelRdt) (*Group, error) {
	if c == nil {
		return nil, nil
	}
	fs, err := find()
	if err != nil {
		return nil, err
	}
	return plan(fs, id, c)
}

// Open returns the group with that state, which may be nil.
func Open(s State) *Group {
	if s.Dir == "" {
		return nil
	}
	root := filepath.Dir(s.Dir)
	if _, err := os.Lstat(filepath.Join(s.Dir, "info")); err == nil {
		root = s.Dir // the default group
	}
	return &Group{fs: kernel(root), state: s}
}

// State returns what Open wants.
func (g *Group) State() State {
	if g == nil {
		return State{}
	}
	return g.state
}

func plan(fs resctrl, id string, c *specs.LinuxIntelRdt) (*Group, error) {
	g := &Group{fs: fs, lines: lines(c)}
	g.state = State{Dir: filepath.Join(fs.root, id), Shared: c.ClosID != ""}
	if g.state.Shared {
		g.state.Dir = filepath.Join(fs.root, c.ClosID)
	}
	if err := g.check(c); err != nil {
		return nil, err
	}
	if c.EnableMonitoring {
		g.state.Monitor = filepath.Join(g.state.Dir, "mon_groups", id)
		if exists(g.state.Monitor) {
			return nil, &fault.Error{Field: field + ".enableMonitoring", Step: g.state.Monitor, Err: os.ErrExist,
				Hint: "another container of that name is monitored in this class"}
		}
	}
	return g, nil
}

// lines returns what is written to the schemata file: schemata comes last, after the two older properties.
func lines(c *specs.LinuxIntelRdt) []string {
	var lines []string
	for _, line := range append([]string{c.L3CacheSchema, c.MemBwSchema}, c.Schemata...) {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// check applies the rules that can be decided before anything is made, and decides whether the group has to be made.
func (g *Group) check(c *specs.LinuxIntelRdt) error {
	var errs []error
	if c.EnableMonitoring && !exists(filepath.Join(g.fs.root, "mon_groups")) {
		errs = append(errs, &fault.Error{Field: field + ".enableMonitoring", Kind: fault.Unsupported, Err: errors.New("this host's CPU or kernel has no resctrl monitoring")})
	}
	resources, err := g.fs.resources()
	if err != nil {
		return &fault.Error{Field: field, Err: err}
	}
	need := func(property, line string) {
		name, _, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); line != "" && !resources[name] {
			errs = append(errs, &fault.Error{Field: field + "." + property, Kind: fault.Unsupported, Err: fmt.Errorf("this host's resctrl has no resource %q", name)})
		}
	}
	need("l3CacheSchema", c.L3CacheSchema)
	need("memBwSchema", c.MemBwSchema)
	for i, line := range c.Schemata {
		need(fmt.Sprintf("schemata[%d]", i), line)
	}
	switch {
	case !exists(g.state.Dir):
		if g.state.Shared && len(g.lines) == 0 {
			errs = append(errs, &fault.Error{Field: field + ".closID", Err: fmt.Errorf("there is no class %q in %s", c.ClosID, g.fs.root),
				Hint: "a class without l3CacheSchema, memBwSchema or schemata must have been made before"})
		}
		g.state.Made = true
	case !exists(filepath.Join(g.state.Dir, "tasks")):
		errs = append(errs, &fault.Error{Field: field + ".closID", Kind: fault.BadSpec, Err: fmt.Errorf("%s is not a class but a directory of resctrl's own", g.state.Dir)})
	case g.state.Shared:
		errs = append(errs, g.compare())
	}
	return errors.Join(errs...)
}

// compare tells whether a class that exists is what the configuration wants it to be.
func (g *Group) compare() error {
	if len(g.lines) == 0 {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(g.state.Dir, "schemata"))
	if err != nil {
		return &fault.Error{Field: field + ".closID", Err: err}
	}
	if diff := difference(string(text), g.lines, g.fs.granularity); diff != "" {
		return &fault.Error{Field: field + ".closID", Step: filepath.Join(g.state.Dir, "schemata"), Err: errors.New(diff)}
	}
	return nil
}

// Create makes the groups, as planned. When it fails, nothing is left.
func (g *Group) Create(ctx context.Context) error {
	if g == nil {
		return nil
	}
	unlock, err := g.fs.lock(ctx)
	if err != nil {
		return &fault.Error{Field: field, Step: "lock " + g.fs.root, Err: err}
	}
	defer unlock()
	if err := g.makeControl(); err != nil {
		return err
	}
	if g.state.Monitor == "" {
		return nil
	}
	if err := g.fs.mkdir(g.state.Monitor); err != nil {
		// Not the group that another has made meanwhile.
		e := g.fs.explain(field+".enableMonitoring", "make the monitoring group", err)
		g.state.Monitor = ""
		return errors.Join(e, g.remove())
	}
	return nil
}

func (g *Group) makeControl() error {
	if g.state.Made {
		err := g.fs.mkdir(g.state.Dir)
		if err != nil && !errors.Is(err, os.ErrExist) {
			g.state.Made = false
			return g.fs.explain(field, "make the control group", err)
		}
		g.state.Made = err == nil
	}
	if !g.state.Made && g.state.Shared {
		return g.compare() // once more: before the lock was taken, it may have been half made
	}
	if err := g.write(g.lines); err != nil {
		return errors.Join(err, g.remove())
	}
	return nil
}

// write writes lines to the schemata file, at once: the kernel then takes all or none.
func (g *Group) write(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	text := strings.Join(lines, "\n") + "\n"
	if err := g.fs.write(filepath.Join(g.state.Dir, "schemata"), text); err != nil {
		return g.fs.explain(field, fmt.Sprintf("write %q to schemata", text), err)
	}
	return nil
}

// TaskFiles returns the files that a process writes 0 to, in this order, to enter the groups with all its descendants.
func (g *Group) TaskFiles() []string {
	if g == nil {
		return nil
	}
	files := []string{filepath.Join(g.state.Dir, "tasks")}
	if g.state.Monitor != "" {
		files = append(files, filepath.Join(g.state.Monitor, "tasks"))
	}
	return files
}

// Set changes the schemata of the group; what is empty stays. If the group is a class that others are in, it changes for
// them too.
func (g *Group) Set(l3Cache, memBw string) error {
	if l3Cache == "" && memBw == "" {
		return nil
	}
	if g.state.Dir == g.fs.root {
		return &fault.Error{Field: field, Kind: fault.Unsupported, Err: errors.New("the container is in the default class, which is the host's")}
	}
	if err := oneLine(l3Cache, memBw); err != nil {
		return err
	}
	return g.write(lines(&specs.LinuxIntelRdt{L3CacheSchema: l3Cache, MemBwSchema: memBw}))
}

// NewLater plans a group of its own for a container that was made without one. Create makes it, and Move puts the
// container's processes into it.
func NewLater(id, l3Cache, memBw string) (*Group, error) {
	if err := oneLine(l3Cache, memBw); err != nil {
		return nil, err
	}
	return New(id, &specs.LinuxIntelRdt{L3CacheSchema: l3Cache, MemBwSchema: memBw})
}

func oneLine(lines ...string) error {
	for _, line := range lines {
		if strings.Contains(line, "\n") {
			return &fault.Error{Field: field, Kind: fault.BadUsage, Err: fmt.Errorf("got %q, want one line", line)}
		}
	}
	return nil
}

// Move moves the threads of all processes that pids lists into the group. resctrl takes thread by thread, and a new one
// is in its parent's group: so the list is gone through until it has nothing new.
func (g *Group) Move(pids func() ([]int, error)) error {
	tasks := filepath.Join(g.state.Dir, "tasks")
	moved := make(map[string]bool)
	for found := true; found; {
		found = false
		list, err := pids()
		if err != nil {
			return err
		}
		for _, tid := range threads(list) {
			if moved[tid] {
				continue
			}
			found, moved[tid] = true, true
			if err := g.fs.write(tasks, tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return g.fs.explain(field, "move "+tid+" into the group", err)
			}
		}
	}
	return nil
}

// threads returns the thread ids of processes, as far as they exist.
func threads(pids []int) (tids []string) {
	for _, pid := range pids {
		entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
		if err != nil {
			continue // it has ended
		}
		for _, e := range entries {
			tids = append(tids, e.Name())
		}
	}
	return tids
}

// Destroy removes what hull has made for a container that is deleted.
func (g *Group) Destroy() error {
	if g == nil {
		return nil
	}
	errs := []error{g.removeMonitor()}
	if g.state.Made && !g.state.Shared {
		errs = append(errs, g.removeControl())
	}
	return errors.Join(errs...)
}

// Abandon removes what a creation that failed, or was killed, has made or may have made: the class, too, unless others
// are in it.
func (g *Group) Abandon() error {
	if g == nil {
		return nil
	}
	if g.state.Made {
		tasks, err := os.ReadFile(filepath.Join(g.state.Dir, "tasks"))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return &fault.Error{Field: field, Err: err}
		}
		if len(tasks) == 0 {
			return g.remove()
		}
	}
	return g.removeMonitor()
}

// remove takes back what Create has made.
func (g *Group) remove() error {
	err := g.removeMonitor()
	if g.state.Made {
		err = errors.Join(err, g.removeControl())
	}
	return err
}

func (g *Group) removeMonitor() error {
	if g.state.Monitor == "" {
		return nil
	}
	return g.rmdir(g.state.Monitor)
}

func (g *Group) removeControl() error { return g.rmdir(g.state.Dir) }

func (g *Group) rmdir(dir string) error {
	if err := g.fs.rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return g.fs.explain(field, "remove "+dir, err)
	}
	return nil
}
