package cgroup

import (
	"context"
	"errors"
	"io/fs"

	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

// Kill kills every process of the container, below its cgroup too, and returns when none is left or ctx ends.
func (g *Group) Kill(ctx context.Context) error {
	killed := false
	if path := g.paths[unified]; path != "" {
		// cgroup.kill (Linux 5.14) also reaches what is being forked. In hybrid mode some may be elsewhere.
		err := writeFile(path, "cgroup.kill", "1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !gone(err) {
			return &fault.Error{Step: "kill", Err: err}
		}
		killed = err == nil && g.mode == V2
	}
	err := retry(ctx, func() (bool, error) {
		pids, err := g.Pids(true)
		if err != nil || len(pids) == 0 {
			return err == nil, err
		}
		if killed {
			// An init that waits for others to be reaped would keep the cgroup from freezing, for as long as that is
			// tried. Again, for what was started in the cgroup since.
			if err := writeFile(g.paths[unified], "cgroup.kill", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) && !gone(err) {
				return false, &fault.Error{Step: "kill", Err: err}
			}
			return false, nil
		}
		_, err = g.signal(ctx, unix.SIGKILL)
		return false, err
	})
	if errors.Is(err, errUnfreezing) {
		return &fault.Error{Step: "kill", Err: errors.Join(errors.New("processes are left"), ctx.Err())}
	}
	return err
}

// Signal sends sig to every process of the container, below its cgroup too. They are frozen meanwhile, so that no fork
// escapes; a container that was frozen before stays so, except for SIGKILL, which v1 delivers to running processes only.
func (g *Group) Signal(ctx context.Context, sig unix.Signal) error {
	hidden, err := g.signal(ctx, sig)
	if hidden > 0 {
		err = errors.Join(err, &fault.Error{Step: "kill", Kind: fault.Unsupported,
			Err: errorf("%d processes are in no pid namespace that is seen from here", hidden)})
	}
	return err
}

// signal is Signal that counts the processes without a pid here.
func (g *Group) signal(ctx context.Context, sig unix.Signal) (hidden int, err error) {
	was, err := g.Frozen()
	if err != nil {
		return 0, err
	}
	if !was {
		// Without a freezer, or with a process that can't be stopped, signals are still better than none.
		_ = g.Freeze(ctx)
	}
	pids, err := g.Pids(true)
	for _, pid := range pids {
		if pid == 0 {
			// So v2 shows what somebody else has put here, from outside of our pid namespace. To kill(2), it is the
			// process group of the caller.
			hidden++
			continue
		}
		if kerr := unix.Kill(pid, sig); kerr != nil && kerr != unix.ESRCH && err == nil {
			err = &fault.Error{Step: "kill", Err: kerr}
		}
	}
	switch {
	case sig == unix.SIGKILL:
		err = errors.Join(err, g.ThawAll())
	case !was:
		err = errors.Join(err, g.Thaw())
	}
	return hidden, err
}
