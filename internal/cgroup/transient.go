package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// transientPrefix begins the names of transient cgroups; the pid of their maker follows, for people, and a number.
const transientPrefix = "hull-do-"

// transient is what a Group has that nobody can Open: it lives no longer than the process that has made it.
//
// Its directories lie below the cgroup of that process on v1, and beside it on v2, so that whatever bounds this process
// bounds them. A process that is killed can't remove them; and the next one that sweeps must know theirs from those that
// are in use, also if their makers' pids mean nothing to it: it may be in another pid namespace. So the maker holds a lock
// on each of its directories (flock(2)), which ends with it:
//
//	maker                               sweeper
//	mkdir                               open
//	open, flock                         flock; not to be had: in use
//	still the same directory at path?   rmdir, which refuses one with processes
//	if not: another name
type transient struct {
	parents []dir // where directories are made
	locks   []*os.File
}

// transients counts the transient cgroups of this process.
var transients atomic.Uint64

// NewTransient plans cgroups for c.Resources alone: it uses no controller but those, on v1 no hierarchy but theirs, and no
// device rules. c.Path is not used. That a controller can't be had is an error, Create's or this one's, of which Absent is
// true.
func NewTransient(c Config) (*Group, error) {
	g := &Group{mode: Detect(), rootless: c.Rootless, res: c.Resources, transient: new(transient)}
	if err := check(g.mode, c.Resources); err != nil {
		return nil, err
	}
	p, err := g.plan(c.Resources, nil)
	if err != nil {
		return nil, err
	}
	for _, w := range p {
		if err := g.planTransient(w); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// planTransient adds the place of a directory that has w's controller.
func (g *Group) planTransient(w write) error {
	t := g.transient
	parent, err := transientParent(g.mode, w.controller)
	switch {
	case errors.Is(err, errNotMounted):
		return &fault.Error{Field: w.field, Kind: fault.Unsupported, Err: errorf("the %s controller is not available on this host", w.controller)}
	case err != nil:
		return &fault.Error{Step: "find the cgroup", Err: err}
	}
	i := slices.IndexFunc(t.parents, func(d dir) bool { return d.path == parent })
	if i < 0 {
		i = len(t.parents)
		t.parents = append(t.parents, dir{path: parent})
	}
	if d := &t.parents[i]; !slices.Contains(d.controllers, w.controller) {
		d.controllers = append(d.controllers, w.controller)
	}
	return nil
}

// transientParent returns the cgroup below which transient ones are made.
func transientParent(m Mode, controller string) (string, error) {
	if m == V2 {
		path, err := unifiedDir(transientPrefix)
		return filepath.Dir(path), err
	}
	mount := usualMount(controller)
	if mount == "" { // or it is mounted elsewhere
		hs, err := hierarchies()
		if err != nil {
			return "", err
		}
		if mount = mountedAt(hs, controller); mount == "" {
			return "", errNotMounted
		}
	}
	return ownDir(hierarchy{controller, mount})
}

// Absent tells whether err, of NewTransient or Create, means that this caller can't have such a cgroup: not that one was
// to be had and something went wrong.
func Absent(err error) bool {
	return denied(err) || errors.Is(err, fault.Unsupported) || errors.Is(err, errNotMounted)
}

// errSwept says that a sweeper was faster than the lock.
var errSwept = errors.New("removed by another process")

func (g *Group) createTransient() error {
	err := errSwept
	for tries := 0; err == errSwept && tries < 100; tries++ {
		err = g.tryTransient(transientPrefix + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(transients.Add(1), 10))
	}
	if err == nil {
		return nil
	}
	if e := (*fault.Error)(nil); errors.As(err, &e) {
		return err
	}
	return &fault.Error{Step: "make the cgroup", Err: err, Hint: createHint(err)}
}

func (g *Group) tryTransient(name string) (err error) {
	g.paths = make(map[string]string)
	defer func() {
		if err != nil {
			for _, d := range g.dirs() {
				unix.Rmdir(d.path)
			}
			g.unlock()
			g.paths = nil
		}
	}()
	for _, parent := range g.transient.parents {
		path := filepath.Join(parent.path, name)
		// Only its owner may open, and lock, it.
		if err := unix.Mkdir(path, 0o700); err == unix.EEXIST {
			return errSwept // of a process that had this pid; or still has it, in another pid namespace
		} else if err != nil {
			return &fs.PathError{Op: "mkdir", Path: path, Err: err}
		}
		if g.mode == V2 {
			g.paths[unified] = path
		}
		for _, c := range parent.controllers {
			if g.mode != V2 {
				g.paths[c] = path
			}
		}
		if err := g.lock(path); err != nil {
			return err
		}
		if err := g.prepareTransient(dir{path, parent.controllers}); err != nil {
			return err
		}
	}
	return nil
}

// lock takes the lock on a directory just made.
func (g *Group) lock(path string) error {
	f, err := openDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errSwept
	}
	if err != nil {
		return err
	}
	g.transient.locks = append(g.transient.locks, f)
	var mine, there unix.Stat_t
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || unix.Fstat(int(f.Fd()), &mine) != nil ||
		unix.Stat(path, &there) != nil || mine.Ino != there.Ino {
		return errSwept
	}
	return nil
}

// unlock gives up the locks.
func (g *Group) unlock() {
	if g.transient == nil {
		return
	}
	for _, f := range g.transient.locks {
		f.Close()
	}
	g.transient.locks = nil
}

func openDir(path string) (*os.File, error) {
	fd, err := openRetry(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// prepareTransient sees to it that a new directory has what is asked of it.
func (g *Group) prepareTransient(d dir) error {
	if g.mode != V2 {
		if m := g.resources().Memory; m != nil && slices.Contains(d.controllers, "memory") && !exists(d.path+"/memory.memsw.limit_in_bytes") {
			r, m := *g.res, *m
			m.Swap, r.Memory, g.res = nil, &m, &r // swap is not counted here
		}
		return nil
	}
	if err := enableControllers(d.path); err != nil {
		return err
	}
	have, err := readFile(d.path, "cgroup.controllers")
	if err != nil {
		return err
	}
	if missing := subtract(slices.Clone(d.controllers), strings.Fields(have)); len(missing) > 0 {
		return &fault.Error{Step: "make the cgroup", Kind: fault.Unsupported,
			Err: errorf("no %s controller in %s", strings.Join(missing, " or "), filepath.Dir(d.path))}
	}
	if err := checkDomain(d.path, g.res); err != nil {
		return err
	}
	// To move there a process needs this file, too, of what both cgroups have in common (cgroups(7), "Delegation
	// containment").
	if err := unix.Faccessat(unix.AT_FDCWD, filepath.Dir(d.path)+"/"+procsFile, unix.W_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Dir(d.path) + "/" + procsFile, Err: err}
	}
	return nil
}

// Sweep removes the transient cgroups that processes which were killed have left where this process would make its own.
// It is meant to be called while there is nothing else to do, and so tells no errors: the next one tries again.
func Sweep() {
	var done []string
	for _, controller := range []string{"memory", "cpu", "pids"} {
		parent, err := transientParent(Detect(), controller)
		if err != nil || slices.Contains(done, parent) {
			continue
		}
		done = append(done, parent)
		sweep(parent, transientPrefix, nil)
	}
}

// sweep removes directories of that prefix whose maker is gone, and which left, unless it is nil, has for left behind.
func sweep(parent, prefix string, left func(*os.File) bool) {
	subs, err := children(parent)
	if err != nil {
		return
	}
	for _, path := range subs {
		if !strings.HasPrefix(filepath.Base(path), prefix) {
			continue
		}
		f, err := openDir(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && (left == nil || left(f)) {
			unix.Rmdir(path)
		}
		f.Close()
	}
}
