package native

import (
	"context"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/hook"
	"hull/internal/linux"
	"hull/internal/mountinfo"
	"hull/internal/proc"
	"hull/internal/stub"
)

func (c *creation) hasContainerHooks() bool {
	return c.Spec.Hooks != nil && len(c.Spec.Hooks.CreateContainer) > 0
}

// containerHooks runs the createContainer hooks: in the container's namespaces, with the host's files still visible
// (config.md, "CreateContainer Hooks").
func (c *creation) containerHooks() error {
	if !c.hasContainerHooks() {
		return nil
	}
	return c.runContainerHooks(c.init.Pid)
}

// runContainerHooks runs them where the init is. pid is what they are told that the container's is.
func (c *creation) runContainerHooks(pid int) error {
	s, err := c.hookStub()
	if err != nil {
		return err
	}
	defer s.Kill()
	state := engine.HookState(&c.Container, pid, specs.StateCreating)
	return hook.RunAllIn(c.ctx, s, "createContainer", c.Spec.Hooks.CreateContainer, nil, state)
}

// HooksBeside runs the createContainer hooks for a container that somebody else makes, whose process has that pid: in the
// namespaces that r's configuration has, and in the container's cgroup, with its mounts on its root. They are there for the
// hooks and for nobody else, so that one which a hook leaves behind is an error.
func HooksBeside(ctx context.Context, r *engine.CreateRequest, pid int) error {
	c, err := newCreation(ctx, r)
	if err != nil {
		return err
	}
	defer c.close()
	dir, err := c.Cgroup.DirFD()
	if err != nil {
		return err
	}
	if dir != nil {
		defer dir.Close()
	}
	first, err := stub.Start(stub.Config{Cgroup: dir, Trace: stub.TraceLines(c.Trace)})
	if err != nil {
		return err
	}
	if c.init, err = c.fork(first); err != nil {
		first.Kill()
		return err
	}
	defer c.init.Kill()
	c.root.MakeReadonly(c.b)
	if err := c.do(c.b, nil); err != nil {
		return c.explain(err)
	}
	before, err := mountsOf(c.init.Pid)
	if err != nil {
		return err
	}
	if err := c.runContainerHooks(pid); err != nil {
		return err
	}
	after, err := mountsOf(c.init.Pid)
	if err != nil {
		return err
	}
	for id, point := range after {
		if _, ok := before[id]; !ok {
			return &fault.Error{Field: "hooks.createContainer", Kind: fault.Unsupported,
				Err: fmt.Errorf("not possible in sandbox isolation: a hook has mounted something on %q, which the container's kernel doesn't see", point)}
		}
	}
	return nil
}

// mountsOf returns the mounts that a process has: where each is, by its number.
func mountsOf(pid int) (map[string]string, error) {
	text, err := linux.ReadProc(proc.File(pid, "mountinfo"))
	points := make(map[string]string)
	for m := range mountinfo.Parse(text) {
		points[m.ID()] = m.Point()
	}
	return points, err
}

// hookStub returns a stub in the namespaces and cgroup of the init. The init itself can't clone hooks that hull may
// wait for: the first process of a pid namespace must not use CLONE_PARENT (clone(2)).
func (c *creation) hookStub() (*stub.Stub, error) {
	dir, err := c.Cgroup.DirFD()
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
	}
	first, err := stub.Start(stub.Config{Extra: []*os.File{c.init.PidFD}, Cgroup: dir, Trace: stub.TraceLines(c.Trace)})
	if err != nil {
		return nil, err
	}
	b := new(stub.Batch)
	b.In("hooks.createContainer")
	b.JoinTasks(c.Cgroup.TaskFiles())
	joinInit(b, stub.Fd(stub.FirstExtra), c.Spec, c.init.Pid, false)
	s, err := first.Fork(b, 0)
	if err != nil {
		first.Kill()
		return nil, err
	}
	b = new(stub.Batch)
	if c.process.userns {
		becomeRoot(b, c.Spec.Linux)
	}
	if c.root != nil {
		// The specification leaves the directory open. Hooks written for other runtimes expect the container's root.
		b.In("hooks.createContainer")
		b.Call(unix.SYS_CHDIR, b.String(c.Root()).Arg())
	}
	if err := s.Do(b); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

// StartHooks runs the startContainer hooks: in the container, with the rights of its process, after start was asked
// for and before the program runs (config.md, "StartContainer Hooks").
func (Engine) StartHooks(ctx context.Context, r *engine.ExecRequest) error {
	if r.Spec.Hooks == nil || len(r.Spec.Hooks.StartContainer) == 0 {
		return nil
	}
	t, err := newProcess(&r.Container, r.Spec.Process, [3]*os.File{})
	if err != nil {
		return err
	}
	t.terminal = false
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	s, err := t.join(ctx, r, null)
	if err != nil {
		return err
	}
	defer s.Kill()
	b := new(stub.Batch)
	t.enterSession(b)
	t.settings(b)
	t.openPasswd(b)
	if err := s.Do(b); err != nil {
		return err
	}
	if err := t.takeFiles(s.Files(), new(engine.Process)); err != nil {
		return err
	}
	b = new(stub.Batch)
	t.changeUser(b)
	t.confine(b)
	if t.seccompLate() {
		loadSeccomp(b, t.seccomp)
	}
	if err := s.Do(b); err != nil {
		return t.explain(err)
	}
	state := engine.HookState(&r.Container, r.Init.Pid, specs.StateCreated)
	return hook.RunAllIn(ctx, s, "startContainer", r.Spec.Hooks.StartContainer, t.env, state)
}
