package hull

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/proc"
)

// Signal sends a signal to the init, or to all processes of the container.
func (c *Container) Signal(sig unix.Signal, all bool) error {
	return fault.In("kill", c.ID(), c.signal(sig, all))
}

func (c *Container) signal(sig unix.Signal, all bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	// The processes of a sandbox are none of the host's; but all of them end with it.
	if k, ok := c.engine.(engine.Kernel); ok && all && sig != unix.SIGKILL {
		view := c.engineView()
		return k.SignalAll(&view, sig)
	}
	switch {
	case all && c.group.Tracks():
		return c.group.Signal(ctx, sig)
	case all && (sig != unix.SIGKILL || !c.ownPids()):
		return untracked()
	}
	pidfd, err := proc.Open(c.record.Init)
	if err != nil {
		if errors.Is(err, fault.BadState) && sig == unix.SIGKILL && !c.ownPids() && c.anyProcess() {
			return c.group.Signal(ctx, sig)
		}
		if errors.Is(err, fault.BadState) {
			return c.notRunning()
		}
		return err
	}
	defer pidfd.Close()
	// Without a pid namespace of its own, the end of the init doesn't end the others.
	if sig == unix.SIGKILL && !c.ownPids() {
		if c.group.Tracks() {
			return c.group.Signal(ctx, sig)
		}
		c.warnOfUntracked()
	}
	switch err := unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0); {
	case err == unix.ESRCH: // it has ended, and was reaped, since it was looked at
		return c.notRunning()
	case err != nil:
		return os.NewSyscallError("pidfd_send_signal", err)
	case sig == unix.SIGKILL:
		return c.group.ThawAll()
	}
	return nil
}

func (c *Container) notRunning() error {
	return &fault.Error{Kind: fault.BadState, Err: errors.New("container not running"), Hint: c.podHint(Stopped)}
}

// untracked is the error of what needs all processes of a container that has no cgroup.
func untracked() error {
	return &fault.Error{Kind: fault.Unsupported, Err: errors.New("the container has no cgroup, by which its processes are found"),
		Hint: "without root, that needs a cgroup that was delegated to the user"}
}

// warnOfUntracked tells that only the first process could be killed.
func (c *Container) warnOfUntracked() {
	c.runtime.warn(c.ID() + " has neither a cgroup nor a pid namespace of its own: processes that its first one has started may be left")
}

// anyProcess tells whether processes are left, with the init or without it.
func (c *Container) anyProcess() bool {
	pids, err := c.group.Pids(true)
	return err == nil && len(pids) > 0
}

// kill ends all processes and waits until they are gone.
func (c *Container) kill(ctx context.Context) error {
	pidfd, err := proc.Open(c.record.Init)
	if err == nil {
		defer pidfd.Close()
		unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
	}
	if err := c.group.Kill(ctx); err != nil {
		return err
	}
	if pidfd == nil {
		return nil
	}
	return proc.WaitEnded(ctx, c.record.Init, pidfd)
}
