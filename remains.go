package hull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/fault"
	"hull/internal/oci"
	"hull/internal/proc"
	"hull/internal/rdt"
	"hull/internal/store"
)

// Delete takes a container away. With Force it also removes what a creation that was killed has left, and a container
// that doesn't exist is no error.
func (r *Runtime) Delete(ctx context.Context, id string, o DeleteOptions) error {
	dir, err := r.store().Open(id)
	if err != nil {
		if o.Force && errors.Is(err, ErrNotExist) {
			return nil
		}
		return fault.In("delete", id, err)
	}
	c, err := r.read(dir)
	switch {
	case err == nil:
		return c.Delete(ctx, o)
	case !o.Force:
		return fault.In("delete", id, err)
	}
	return fault.In("delete", id, r.deleteRemains(ctx, dir))
}

// deleteRemains removes a container whose record or configuration is missing or damaged, with all of it that is known.
func (r *Runtime) deleteRemains(ctx context.Context, dir *store.Dir) error {
	lock, err := dir.Lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	record, err := dir.Record()
	if err != nil {
		if record, err = r.copied(dir, err); err != nil {
			err = r.destroyNamed(ctx, dir, err)
		}
		if err != nil {
			return err
		}
	}
	if record == nil {
		return dir.Remove()
	}
	c, err := r.recorded(dir, record)
	if err != nil {
		r.warn(err.Error())
		// Without a configuration nothing is known of mounts on the host and of poststop hooks.
		c = &Container{runtime: r, engine: r.engine(recordedIsolation(record)), dir: dir, record: record, spec: &specs.Spec{Linux: new(specs.Linux)}, group: cgroup.None(), rdt: rdt.Open(record.RDT)}
		if group, err := cgroup.Open(record.Cgroup); err == nil {
			c.group = group
		}
	}
	status, _ := c.status() // of one that can't be asked everything is killed
	return c.destroy(ctx, status)
}

// copied returns the copy of a record that can't be read, or nil if there is none: a creation was killed before its container had a
// process. It returns an error if the copy is damaged, too.
func (r *Runtime) copied(dir *store.Dir, why error) (*store.Record, error) {
	record, err := dir.Copy()
	switch {
	case err == nil:
		r.warn(why.Error())
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w; %w", why, err)
	case !errors.Is(why, os.ErrNotExist):
		r.warnOfLeft(why)
	}
	return record, nil
}

// creationTime is how long after its configuration was written a container's first process can be there on a busy host.
const creationTime = 10 * time.Second

// madeWith returns an error if all processes in a cgroup were made later than a container whose configuration is in a directory.
func madeWith(dir *store.Dir, group *cgroup.Group) error {
	written, err := os.Stat(filepath.Join(dir.Path, store.ConfigFile))
	if err != nil {
		return err
	}
	pids, err := group.Pids(true)
	if err != nil || len(pids) == 0 {
		return err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return os.NewSyscallError("clock_gettime", err)
	}
	var oldest time.Duration
	for _, pid := range pids {
		ticks, err := proc.StartTime(pid)
		if err != nil {
			continue // it has ended
		}
		const tick = time.Second / 100 // USER_HZ
		oldest = max(oldest, time.Duration(now.Nano())-time.Duration(ticks)*tick)
	}
	age := time.Since(written.ModTime())
	if oldest < age-creationTime { // it may be older: of a pool
		return fmt.Errorf("the oldest process of its cgroup is %v old, and the configuration %v", oldest.Round(time.Second), age.Round(time.Second))
	}
	return nil
}

func (r *Runtime) warnOfLeft(why error) {
	r.warn(fmt.Sprintf("%v; its process and its cgroup, if it has any, are left", why))
}

// destroyNamed kills what is in the cgroup that a configuration names whose record is damaged, and removes that. Of a path that is
// relative nobody knows any more whose cgroup it starts from; another container may have the cgroup since, also one whose record
// is in a directory that isn't known here.
func (r *Runtime) destroyNamed(ctx context.Context, dir *store.Dir, why error) error {
	leave := func(err error) error {
		r.warnOfLeft(fmt.Errorf("%w; %w", why, err))
		return nil
	}
	raw, err := dir.Config()
	if err != nil {
		return leave(err)
	}
	cfg, err := oci.Parse(filepath.Join(dir.Path, "config.json"), raw)
	if err != nil {
		return leave(err)
	}
	path := cfg.Spec.Linux.CgroupsPath
	group, err := cgroup.Named(path, r.rootless())
	if err != nil {
		return leave(err)
	}
	if !group.Exists() {
		return leave(fmt.Errorf("there is no cgroup %s", path))
	}
	if err := madeWith(dir, group); err != nil {
		return leave(err)
	}
	all, err := r.store().Dirs()
	if err != nil {
		return leave(err)
	}
	for _, d := range all {
		if d.ID == dir.ID {
			continue
		}
		other, err := d.Record()
		if err != nil {
			other, err = d.Copy()
		}
		if err == nil && group.Overlaps(other.Cgroup) {
			return leave(fmt.Errorf("container %s has the cgroup %s, too", d.ID, path))
		}
	}
	r.warn(fmt.Sprintf("%v; the processes of the cgroup %s, which config.json names, are killed, and it is removed", why, path))
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if err := group.Kill(ctx); err != nil {
		return err
	}
	return group.Destroy(ctx)
}
