package cgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// parkedPrefix begins the names of the cgroups of processes that wait for a container; the pid of their maker follows, for
// people, and what makes it a name that there was not before: on v2 a container's record keeps it, also when the directory has been
// swept, and delete must not find another container there, whose maker has had the same pid.
const parkedPrefix = "hull-pool-"

// CreateParked makes the cgroup of a process that waits for a container which isn't known yet, where one without
// linux.cgroupsPath has its own. As a transient one it is locked by its maker, so that SweepParked knows it from one whose maker
// was killed.
func CreateParked() (*Group, error) {
	err := errSwept
	for tries := 0; err == errSwept && tries < 100; tries++ {
		g := &Group{mode: Detect(), transient: new(transient)}
		name := parkedPrefix + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
		if g.paths, err = cgroupfsPaths(g.mode, "", name); err != nil {
			return nil, &fault.Error{Step: "find the cgroup", Err: err}
		}
		if err = g.makeParked(); err == nil {
			return g, nil
		}
	}
	return nil, err
}

// makeParked makes and locks the directories, of which none is left if one can't be made.
func (g *Group) makeParked() (err error) {
	for _, d := range g.dirs() {
		if exists(d.path) {
			return errSwept // of a process that had this pid; or still has it, in another pid namespace
		}
	}
	if err := g.makeDirs(); err != nil {
		return err
	}
	for _, d := range g.dirs() {
		if err = g.lock(d.path); err != nil {
			break
		}
	}
	if err == nil {
		err = g.limitDevices(nil)
	}
	if err != nil {
		for _, d := range g.dirs() {
			unix.Rmdir(d.path)
		}
		g.unlock()
	}
	return err
}

// markTaken has the mode of a parked directory say that it is a container's now, by the sticky bit, which has no meaning there: when that has
// stopped it is empty, and has a parked one's name still. It is what is taken that is marked, since who makes one can be killed before it
// has marked all.
func markTaken(path string) error {
	if err := unix.Chmod(path, unix.S_ISVTX|0o755); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

// isParked tells whether an open directory has no such mark.
func isParked(dir *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(dir.Fd()), &st) == nil && st.Mode&unix.S_ISVTX == 0
}

// Release gives up the lock of a parked group whose process has found its container.
func (g *Group) Release() { g.unlock() }

// SweepParked removes what makers of parked groups that were killed have left where this process would make its own. As Sweep it tells
// no errors.
func SweepParked() {
	paths, err := cgroupfsPaths(Detect(), "", parkedPrefix)
	if err != nil {
		return
	}
	var done []string
	for _, p := range paths {
		if parent := filepath.Dir(p); !slices.Contains(done, parent) {
			done = append(done, parent)
			sweep(parent, parkedPrefix, isParked)
		}
	}
}

// Adopt is Create for a container whose processes are there already, in a parked group: these directories become the
// container's where that can be, or else its own are made and the processes moved there, for which the kernel waits for a grace
// period of RCU (see the package comment).
//
// A directory of v1 is given the container's name if it lies where the container's is to be. On v2, where there are no new
// names, it becomes the container's as it is if that has no path that was asked for.
func (g *Group) Adopt(ctx context.Context, parked State) error {
	if g.unit != nil || g.none() || parked.Mode != g.mode.String() {
		return &fault.Error{Step: "use the parked cgroup", Kind: fault.Unsupported, Err: errors.New("cgroups of another kind")}
	}
	for _, d := range g.dirs() {
		from := parked.Paths[d.controllers[0]]
		if g.mode == V2 {
			from = parked.Paths[unified]
		}
		if err := g.adoptDir(ctx, d, from); err != nil {
			return notMade(err)
		}
	}
	return g.limitDevices(g.resources().Devices)
}

func (g *Group) adoptDir(ctx context.Context, d dir, from string) error {
	v2 := g.mode == V2 || d.controllers[0] == unified
	switch beside := filepath.Dir(from) == filepath.Dir(d.path); {
	case v2 && beside && !g.given:
		g.paths[unified] = from
		return markTaken(from)
	case !v2 && beside && !exists(d.path):
		err := os.Rename(from, d.path)
		if err == nil && slices.Contains(d.controllers, "cpuset") {
			err = g.fillCpuset(d.path)
		}
		return err
	}
	var err error
	if g.mode == V2 {
		err = g.createUnified()
	} else {
		_, err = g.createV1(d)
	}
	if err == nil && from != "" {
		err = moveAll(ctx, from, d.path)
	}
	if err != nil && d.optional() {
		g.drop(d)
		err = nil
	}
	return err
}

// moveAll moves all processes from one cgroup to another, and removes the first.
func moveAll(ctx context.Context, from, to string) error {
	for {
		pids, err := readPids(from)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return remove(ctx, from)
		}
		for _, pid := range pids {
			if err := writePid(to, pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
}
