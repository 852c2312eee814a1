package hull

import (
	"context"
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/rdt"
	"hull/internal/sandbox"
)

// UpdateOptions say what Update changes. What is nil or empty stays as it is.
type UpdateOptions struct {
	Resources     *specs.LinuxResources
	L3CacheSchema string // linux.intelRdt.l3CacheSchema
	MemBwSchema   string // linux.intelRdt.memBwSchema
}

// Update changes the limits of a container that is not stopped.
func (c *Container) Update(o UpdateOptions) error {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	return c.locked(ctx, "update", func() error {
		if err := c.want("update", Created, Running, Paused); err != nil {
			return err
		}
		if err := c.updateRDT(ctx, o.L3CacheSchema, o.MemBwSchema); err != nil {
			return err
		}
		if o.Resources == nil {
			return nil
		}
		err := c.group.Set(ctx, o.Resources)
		c.warnOfCgroup()
		if err == nil {
			err = c.updateInside(o.Resources)
		}
		return err
	})
}

// updateInside changes what the kernel of a sandbox shows of the limits to a container's programs, and for one that has joined others
// what it limits of them: the host's kernel knows nothing of their processes.
func (c *Container) updateInside(r *specs.LinuxResources) error {
	view := c.engineView()
	k, ok := c.engine.(engine.Kernel)
	if !ok {
		return nil
	}
	files, rest := cgroup.Inside(r)
	if warning := sandbox.NotHeld(rest); warning != "" && view.Pod != nil {
		c.runtime.warn(warning)
	}
	if len(files) == 0 {
		return nil
	}
	stopped, err := c.group.Stopped()
	if stopped { // it would not be heard of for as long as hull waits
		err = &fault.Error{Kind: fault.BadState, Err: errors.New("the sandbox's cgroup is frozen, or one above it")}
	}
	if err == nil {
		err = k.Limit(&view, files)
	}
	if err != nil {
		return &fault.Error{Step: "limits in the sandbox's kernel", Err: err, Hint: "the host's cgroup has the new limits already: update again, or set the old ones"}
	}
	return nil
}

// updateRDT changes the container's group of resctrl. A container that was made without one gets its own, as with runc.
func (c *Container) updateRDT(ctx context.Context, l3Cache, memBw string) error {
	if l3Cache == "" && memBw == "" {
		return nil
	}
	if c.rdt != nil {
		return c.rdt.Set(l3Cache, memBw)
	}
	group, err := rdt.NewLater(c.ID(), l3Cache, memBw)
	if err != nil {
		return err
	}
	// Recorded first, so that delete finds it even if hull is killed now.
	before := *c.record
	c.record.RDT = group.State()
	if err := c.dir.Save(c.record); err != nil {
		return err
	}
	err = group.Create(ctx)
	if err == nil {
		err = group.Move(func() ([]int, error) { return c.group.Pids(true) })
	}
	if err != nil {
		*c.record = before
		return errors.Join(err, group.Destroy(), c.dir.Save(c.record))
	}
	c.rdt = group
	return nil
}
