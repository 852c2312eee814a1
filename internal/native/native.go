// Package native is the engine that isolates containers with the host's kernel: namespaces, cgroups, seccomp,
// capabilities, security modules.
//
// A container is set up by a stub (package stub). The first one runs in the host's namespaces and joins or makes those
// that a process can't be cloned into; it then clones the container's init, which sets itself up from inside:
//
//	Create:  stub ─ user and time namespace, setns ─ clone ─> init ─ mounts, hooks, pivot_root, credentials ─ park ─ execve
//	Exec:    stub ─ setns(init's pidfd)            ─ clone ─> process ─ credentials ─ execve
//
// Nothing here looks at a field of the specification that package oci has not checked.
package native

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/caps"
	"hull/internal/checkpoint"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/rootfs"
	"hull/internal/stub"
)

// Engine isolates with the host's kernel.
type Engine struct{}

var _ engine.HostFiles = Engine{}

// execFifo is the file in a container's state directory through which its parked init hears and speaks: a byte written
// there lets the program start; then what keeps it from starting comes back, or an end of file when it has started.
const execFifo = "exec.fifo"

// Check implements engine.Engine. What this host's kernel can't do it says itself.
func (Engine) Check(*specs.Spec) error { return nil }

// Examine implements engine.Engine.
func (Engine) Examine(ctx context.Context, r *engine.CreateRequest) error {
	c, err := newCreation(ctx, r)
	if err == nil {
		c.close()
	}
	return errors.Join(err, checkRights(r.Spec))
}

// checkRights refuses namespaces that the caller can't make, as the kernel does: those in no user namespace of the container's own.
func checkRights(s *specs.Spec) error {
	if len(s.Linux.Namespaces) == 0 || engine.HasNamespace(s, specs.UserNamespace) || caps.Of(unix.CAP_SYS_ADMIN)&^caps.Effective() == 0 {
		return nil
	}
	return &fault.Error{Field: "linux.namespaces", Kind: fault.Unsupported, Err: errors.New("the caller lacks CAP_SYS_ADMIN"), Hint: userNamespaceHint("/", false)}
}

// CheckHostFiles implements engine.HostFiles.
func (Engine) CheckHostFiles(*specs.Spec) error { return nil }

// Create makes the container and starts its program, or leaves it waiting for Start.
func (Engine) Create(ctx context.Context, r *engine.CreateRequest) (_ *engine.Process, err error) {
	c, err := newCreation(ctx, r)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.run()
}

// Start lets the program of a parked container run.
func (Engine) Start(c *engine.Container, _ engine.Init, steps []stub.Step) error {
	ended := &fault.Error{Kind: fault.BadState, Err: errors.New("the container's init has ended")}
	path := filepath.Join(c.Dir, execFifo)
	start, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) {
		return ended
	}
	if err != nil {
		return err
	}
	defer start.Close()
	report, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer report.Close()
	if _, err := start.Write([]byte{0}); err != nil {
		return err
	}
	start.Close()
	if err := waitTaken(report); err != nil {
		return err
	}
	return explainExec(stub.ReadReport(report, steps, stub.Timeout))
}

// waitTaken waits until the init has read the byte that was written for it: whoever reads the fifo next gets what is in
// it.
func waitTaken(fifo *os.File) error {
	raw, err := fifo.SyscallConn()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(stub.Timeout); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		var unread int
		poll := []unix.PollFd{{Events: unix.POLLIN}}
		if cerr := raw.Control(func(fd uintptr) {
			// In this order: once nobody else has the fifo open, nobody takes the byte any more.
			poll[0].Fd = int32(fd)
			_, _ = unix.Poll(poll, 0)
			unread, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		}); cerr != nil {
			return cerr
		}
		switch {
		case err != nil:
			return os.NewSyscallError("ioctl FIONREAD", err)
		case unread != 1:
			return nil
		case poll[0].Revents&unix.POLLHUP != 0:
			return &fault.Error{Kind: fault.BadState, Err: errors.New("the container's init has ended")}
		}
	}
	return stub.ErrTimeout
}

// Pause freezes the container's cgroup.
func (Engine) Pause(ctx context.Context, c *engine.Container) error { return c.Cgroup.Freeze(ctx) }

// Resume thaws it.
func (Engine) Resume(c *engine.Container) error { return c.Cgroup.Thaw() }

// Checkpoint saves a container.
func (Engine) Checkpoint(ctx context.Context, r *engine.CheckpointRequest) error {
	return checkpoint.Save(ctx, r)
}

// Restore makes a container of one that was saved.
func (Engine) Restore(ctx context.Context, r *engine.RestoreRequest) (*engine.Process, error) {
	return checkpoint.Restore(ctx, r)
}

// Parked tells whether the init of the container with that state directory waits for Start: whether someone reads its
// fifo.
func (Engine) Parked(dir string) bool {
	fd, err := unix.Open(filepath.Join(dir, execFifo), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// Leave takes away what a container without a mount namespace has mounted on the host.
func (Engine) Leave(c *engine.Container) error {
	if engine.HasNamespace(c.Spec, specs.MountNamespace) || c.Spec.Root == nil {
		return nil
	}
	return rootfs.Leave(c.Root())
}
