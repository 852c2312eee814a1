package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"hull/internal/cgroup/systemd"
	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

// busyTimeout bounds the wait for a cgroup whose last process has exited to become removable.
const busyTimeout = 5 * time.Second

// Destroy removes the container's cgroups, those below them, and its unit. What is gone already is no error, so that it
// can be called again. It kills nothing: a cgroup with processes is an error after some seconds of waiting.
func (g *Group) Destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, busyTimeout)
	defer cancel()
	defer g.unlock() // until then they are nobody else's
	var errs []error
	var unreachable error
	if g.unit != nil {
		if err := g.stopUnit(ctx); errors.Is(err, systemd.ErrNoManager) {
			unreachable = err
		} else {
			errs = append(errs, err)
		}
	}
	for _, d := range g.dirs() {
		if err := remove(ctx, d.path); err != nil && !(g.rootless && denied(err)) {
			errs = append(errs, &fault.Error{Step: "remove the cgroup", Err: err})
		}
	}
	// A unit whose cgroups are gone ends by itself, if there is one: a container must not stay because systemd has gone.
	if g.Exists() {
		errs = append(errs, unreachable)
	}
	return errors.Join(errs...)
}

// remove removes a cgroup and those below it.
func remove(ctx context.Context, path string) error {
	wait := 100 * time.Microsecond
	for {
		err := unix.Rmdir(path)
		switch {
		case err == nil, err == unix.ENOENT:
			return nil
		case err == unix.EINTR:
			continue
		case err == unix.EROFS && !exists(path):
			return nil // a read-only mount says so even of what isn't there
		case err != unix.EBUSY:
			return &fs.PathError{Op: "rmdir", Path: path, Err: err}
		}
		subs, serr := children(path)
		if serr != nil && !gone(serr) {
			return serr
		}
		for _, sub := range subs {
			if err := remove(ctx, sub); err != nil {
				return err
			}
		}
		if len(subs) > 0 {
			continue
		}
		// Its processes may be exiting still: a process leaves its cgroup after its parent can wait for it.
		select {
		case <-ctx.Done():
			return &fs.PathError{Op: "rmdir", Path: path, Err: err}
		case <-time.After(wait):
		}
		wait = min(2*wait, 50*time.Millisecond)
	}
}
