package hull

import (
	"context"
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/proc"
)

// Wait waits for the end of the container's first process, also where another program has started it. Before Linux 6.15 how a
// process has ended is not known to others once its parent has taken it. In a sandbox a signal that ended it is told as exit
// status 128 + signal.
func (c *Container) Wait(ctx context.Context) (unix.WaitStatus, error) {
	ws, err := proc.End(ctx, c.record.Init)
	if errors.Is(err, fault.BadState) {
		err = &fault.Error{Kind: fault.BadState, Err: errors.New("the container has stopped before")}
	}
	return ws, fault.In("wait", c.ID(), err)
}

// WaitProcess waits for the end of a process of a running container, whoever has started it. pid is the one that it has in the
// container's pid namespace; with outside the one that it has for the caller, or, in a sandbox, for the kernel of that. What is said
// of Wait about a status that is not known holds here, too, but not in a sandbox.
func (c *Container) WaitProcess(ctx context.Context, pid int, outside bool) (unix.WaitStatus, error) {
	ws, err := c.waitProcess(ctx, pid, outside)
	return ws, fault.In("wait", c.ID(), err)
}

func (c *Container) waitProcess(ctx context.Context, pid int, outside bool) (unix.WaitStatus, error) {
	if pid == 1 && !outside && c.makes(specs.PIDNamespace) {
		return c.Wait(ctx)
	}
	if k, ok := c.engine.(engine.Kernel); ok {
		view := c.engineView()
		return k.Wait(ctx, &view, pid, outside)
	}
	pids, err := c.Processes()
	if err != nil {
		return 0, err
	}
	var i engine.Init
	if outside {
		i, err = proc.Find(pids, pid)
	} else {
		i, err = proc.FindInside(c.record.Init, pids, pid)
	}
	if err != nil {
		return 0, err
	}
	ws, err := proc.End(ctx, i)
	if errors.Is(err, fault.BadState) {
		err = &fault.Error{Kind: fault.BadState, Err: errors.New("the process has ended before")}
	}
	return ws, err
}
