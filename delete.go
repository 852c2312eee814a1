package hull

import (
	"context"
	"errors"
	"fmt"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/hook"
	"hull/internal/proc"
	"hull/internal/rdt"
	"hull/internal/store"
)

// DeleteOptions say how a container is deleted.
type DeleteOptions struct {
	Force bool // kill it first if it is not stopped
}

// Delete takes away all that a stopped container has left on the host.
func (c *Container) Delete(ctx context.Context, o DeleteOptions) error {
	return c.locked(ctx, "delete", func() error {
		status, err := c.status()
		if status == Running && !o.Force {
			status, err = c.statusOfKilled()
		}
		if err != nil && !o.Force {
			return err
		}
		// A container that was never started has nothing to lose. And nobody creates one whose lock is ours: state and list
		// call it stopped.
		if !o.Force && status != Stopped && status != Created && status != Creating {
			return &fault.Error{Kind: fault.BadState, Err: fmt.Errorf("the container is %s", status), Hint: "stop it first, or use delete --force"}
		}
		return c.destroy(ctx, status)
	})
}

// killedTimeout bounds how long delete waits for an init that was killed: it may be in a system call that can't be left.
const killedTimeout = time.Second

// statusOfKilled is status, once an init has ended that was sent SIGKILL: on a busy machine `kill x KILL; delete x` is
// faster than the kernel.
//
// Between the signal's being taken and the beginning of the end a thread shows neither, so one look is not enough.
func (c *Container) statusOfKilled() (status Status, err error) {
	const looks = 3
	left := looks
	for deadline := time.Now().Add(killedTimeout); left > 0 && time.Now().Before(deadline); left-- {
		if proc.Killed(c.record.Init) {
			left = looks
		}
		if status, err = c.status(); status != Running {
			return status, err
		}
		time.Sleep(time.Millisecond)
	}
	return status, err
}

// destroy removes a container, in an order in which it can be done again if hull is killed in between: the record goes
// last.
func (c *Container) destroy(ctx context.Context, status Status) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	// Also when the init has ended: without a pid namespace others may be left.
	if status != Stopped || !c.ownPids() {
		if err := c.kill(ctx); err != nil {
			return err
		}
	} else if err := c.group.ThawAll(); err != nil {
		// Those that end with the init may have been frozen: by a delete that was killed itself, or by the container in a
		// cgroup of its own. On v1 they don't end before they are thawed.
		return err
	}
	if err := errors.Join(c.leave(), c.group.Destroy(ctx), removeRDT(c.record)); err != nil {
		return err
	}
	if !c.group.Tracks() && !c.ownPids() && c.record.Init.Pid != 0 {
		c.warnOfUntracked()
	}
	c.runPoststop(ctx)
	return c.dir.Remove()
}

// leave takes away the mounts of a container that was set up in the host's mount namespace.
func (c *Container) leave() error {
	if c.record.Init.Pid == 0 {
		return nil
	}
	view := c.engineView()
	return c.engine.Leave(&view)
}

// removeRDT removes the groups of resctrl that a container has, or that its creation may have made before it was killed.
func removeRDT(r *store.Record) error {
	if r.Init.Pid == 0 {
		return rdt.Open(r.RDT).Abandon()
	}
	return rdt.Open(r.RDT).Destroy()
}

// runPoststop runs the poststop hooks. Their failures are only worth a warning (runtime.md, "Lifecycle", step 13).
func (c *Container) runPoststop(ctx context.Context) {
	if c.spec.Hooks == nil || len(c.spec.Hooks.Poststop) == 0 {
		return
	}
	view := c.engineView()
	state := engine.HookState(&view, 0, specs.StateStopped)
	if err := hook.RunEach(ctx, c.record.Bundle, "poststop", c.spec.Hooks.Poststop, state); err != nil {
		c.runtime.warn(err.Error())
	}
}
