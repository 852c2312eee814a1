package cgroup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"hull/internal/fault"
)

// freezeTimeout bounds the wait for a cgroup to freeze: a process in an uninterruptible sleep keeps it from it.
const freezeTimeout = 10 * time.Second

var (
	errNoFreezer  = errors.New("the container has no freezer cgroup")
	errUnfreezing = errors.New("some process can't be stopped now")
)

// freezer returns the directory in which g is frozen.
func (g *Group) freezer() (dir, error) {
	if g.mode == V2 {
		if p := g.paths[unified]; p != "" {
			return dir{p, []string{"v2"}}, nil
		}
	} else if p := g.paths["freezer"]; p != "" {
		return dir{p, []string{"freezer"}}, nil
	}
	return dir{}, errNoFreezer
}

// Freeze stops all processes of the container and returns when they are stopped. If they aren't within ten seconds, or
// before ctx ends, it lets them run again and returns an error.
func (g *Group) Freeze(ctx context.Context) error {
	d, err := g.freezer()
	if err != nil {
		e := &fault.Error{Step: "freeze", Kind: fault.Unsupported, Err: err}
		if g.rootless {
			e.Hint = "without root, that needs a cgroup that was delegated to the user"
		}
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	if g.mode == V2 {
		err = freezeV2(ctx, d.path)
	} else {
		err = freezeV1(ctx, d.path)
	}
	if err != nil {
		g.Thaw()
		return &fault.Error{Step: "freeze", Err: err}
	}
	return nil
}

// freezeV2 relies on the kernel to finish: a new process of a freezing cgroup freezes too.
func freezeV2(ctx context.Context, path string) error {
	if err := writeFile(path, "cgroup.freeze", "1"); err != nil {
		return err
	}
	return retry(ctx, func() (bool, error) {
		n, err := readKeyed(path, "cgroup.events", "frozen")
		return n == 1, err
	})
}

// freezeV1 asks again until it holds: in v1 a process that forks while it is being frozen can leave the cgroup in
// FREEZING for good. A short thaw now and then lets such a one get on.
func freezeV1(ctx context.Context, path string) error {
	tries := 0
	return retry(ctx, func() (bool, error) {
		if tries++; tries%50 == 0 {
			if err := writeFile(path, "freezer.state", "THAWED"); err != nil {
				return false, err
			}
			return false, nil
		}
		if err := writeFile(path, "freezer.state", "FROZEN"); err != nil {
			return false, err
		}
		s, err := readFile(path, "freezer.state")
		return strings.TrimSpace(s) == "FROZEN", err
	})
}

// retry calls f until it says done, fails, or ctx ends. It starts without waiting, and waits longer as it goes.
func retry(ctx context.Context, f func() (done bool, err error)) error {
	wait := 20 * time.Microsecond
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(errUnfreezing, ctx.Err())
		case <-time.After(wait):
		}
		wait = min(2*wait, 10*time.Millisecond)
	}
}

// Thaw lets the processes run again. A cgroup that is gone, or has no freezer, has nothing to thaw.
func (g *Group) Thaw() error {
	d, err := g.freezer()
	if err != nil {
		return nil
	}
	if g.mode == V2 {
		err = writeFile(d.path, "cgroup.freeze", "0")
	} else {
		err = writeFile(d.path, "freezer.state", "THAWED")
	}
	if err != nil && !gone(err) {
		return &fault.Error{Step: "thaw", Err: err}
	}
	return nil
}

// ThawAll is Thaw, and on v1 it thaws what the container has frozen itself in cgroups of its own, too: what was killed there
// dies when it runs again.
func (g *Group) ThawAll() error {
	err := g.Thaw()
	if g.mode != V2 && g.paths["freezer"] != "" {
		err = errors.Join(err, thawBelow(g.paths["freezer"]))
	}
	return err
}

func thawBelow(path string) error {
	subs, err := children(path)
	for _, sub := range subs {
		if err := errors.Join(writeFile(sub, "freezer.state", "THAWED"), thawBelow(sub)); err != nil && !gone(err) {
			return &fault.Error{Step: "thaw", Err: err}
		}
	}
	if gone(err) {
		return nil
	}
	return err
}

// Frozen tells whether Freeze holds for the container. One that is stopped only because a cgroup above it is frozen, is
// not.
func (g *Group) Frozen() (bool, error) { return g.State().Frozen() }

// Frozen is Group.Frozen without the checks of Open: for those who only want to know.
func (s State) Frozen() (bool, error) {
	g := &Group{mode: modeNamed(s.Mode), paths: s.Paths}
	d, err := g.freezer()
	if err != nil {
		return false, nil
	}
	frozen, err := frozenDir(d)
	if err != nil && !gone(err) {
		return false, &fault.Error{Step: "ask the freezer", Err: err}
	}
	return frozen, nil
}

// Stopped tells whether the container's processes are frozen, by Freeze or with a cgroup above it.
func (g *Group) Stopped() (bool, error) {
	d, err := g.freezer()
	if err != nil {
		return false, nil
	}
	var stopped bool
	if g.mode == V2 {
		var n uint64
		n, err = readKeyed(d.path, "cgroup.events", "frozen")
		stopped = n == 1
	} else {
		var s string
		s, err = readValue(d.path, "freezer.state")
		stopped = err == nil && s != "THAWED"
	}
	if err != nil && !gone(err) {
		return false, &fault.Error{Step: "ask the freezer", Err: err}
	}
	return stopped, nil
}

// frozenDir asks a directory; one of a v1 hierarchy other than freezer is never frozen.
func frozenDir(d dir) (bool, error) {
	switch {
	case slices.Contains(d.controllers, "v2"):
		s, err := readValue(d.path, "cgroup.freeze")
		return s == "1", err
	case slices.Contains(d.controllers, "freezer"):
		s, err := readValue(d.path, "freezer.self_freezing")
		return s == "1", err
	}
	return false, nil
}
