package hull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/hook"
	"hull/internal/oci"
	"hull/internal/rdt"
	"hull/internal/sandbox/wire"
	"hull/internal/store"
)

// destroyTimeout bounds how long hull waits for processes that were killed.
const destroyTimeout = 10 * time.Second

// Container is a container that exists.
type Container struct {
	runtime *Runtime
	engine  engine.Engine
	dir     *store.Dir
	record  *store.Record
	spec    *specs.Spec
	raw     []byte // what spec was read from
	group   *cgroup.Group
	rdt     *rdt.Group  // or nil
	init    *Process    // if this program has created the container
	joined  *engine.Pod // while it is created: the first container of the sandbox that it joins
}

// ID returns the container's id.
func (c *Container) ID() string { return c.record.ID }

// Dir returns the container's state directory.
func (c *Container) Dir() string { return c.dir.Path }

// Spec returns a copy of the configuration that the container was created with.
func (c *Container) Spec() *specs.Spec {
	cfg, err := oci.Parse("config.json", c.raw)
	if err != nil {
		panic("bug: " + err.Error()) // it was read before
	}
	return cfg.Spec
}

// ProcessSpec returns a copy of the configuration's process, for Exec with other arguments.
func (c *Container) ProcessSpec() *specs.Process { return c.Spec().Process }

// Init returns the container's first process. Only the program that has created the container can wait for it.
func (c *Container) Init() *Process {
	if c.init == nil {
		return &Process{Pid: c.record.Init.Pid}
	}
	return c.init
}

func (c *Container) engineView() engine.Container {
	return engine.Container{ID: c.record.ID, Bundle: c.record.Bundle, Dir: c.dir.Path, Spec: c.spec, Cgroup: c.group, RDT: c.rdt,
		Rootless: c.record.Rootless, Pod: c.pod(), Streams: c.record.Streams, Restored: c.record.Restored, Overlaid: c.record.Overlaid}
}

// State returns what the container is and does now.
func (c *Container) State() (State, error) {
	s, err := state(c.dir, c.record, make(owners))
	return s, fault.In("state", c.ID(), err)
}

func (c *Container) status() (Status, error) { return status(c.dir, c.record) }

// want returns an error unless the container has one of the statuses.
func (c *Container) want(verb string, statuses ...Status) error {
	status, err := c.status()
	if err != nil {
		return err
	}
	for _, s := range statuses {
		if s == status {
			return nil
		}
	}
	return &fault.Error{Kind: fault.BadState, Err: fmt.Errorf("can't %s a container that is %s", verb, status), Hint: c.podHint(status)}
}

// locked runs f while no other command changes the container.
func (c *Container) locked(ctx context.Context, op string, f func() error) error {
	lock, err := c.dir.Lock(ctx)
	if err == nil {
		err = f()
		lock.Unlock()
	}
	return fault.In(op, c.ID(), err)
}

// Start lets a created container's program run.
func (c *Container) Start(ctx context.Context) error {
	return c.locked(ctx, "start", func() error {
		if err := c.want("start", Created); err != nil {
			return err
		}
		if err := c.startHooks(ctx); err != nil {
			return err
		}
		view := c.engineView()
		if err := c.engine.Start(&view, c.record.Init, c.record.Steps); err != nil {
			return err
		}
		return c.started(ctx)
	})
}

// startHooks runs the startContainer hooks. If one fails, the container is stopped (runtime.md, "Lifecycle", step 8).
func (c *Container) startHooks(ctx context.Context) error {
	err := c.engine.StartHooks(ctx, c.execRequest(c.spec.Process))
	if err != nil {
		kctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		defer cancel()
		err = errors.Join(err, c.kill(kctx))
	}
	return err
}

// started runs the poststart hooks, after the program has begun. If one fails, the container is stopped (step 10).
func (c *Container) started(ctx context.Context) error {
	if c.spec.Hooks == nil || len(c.spec.Hooks.Poststart) == 0 {
		return nil
	}
	view := c.engineView()
	state := engine.HookState(&view, c.record.Init.Pid, specs.StateRunning)
	err := hook.RunAll(ctx, c.record.Bundle, "poststart", c.spec.Hooks.Poststart, state)
	if err != nil {
		kctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		defer cancel()
		err = errors.Join(err, c.kill(kctx))
	}
	return err
}

// ownPids tells whether the end of the init ends the others: with its pid namespace, or because their kernel does it.
func (c *Container) ownPids() bool { return c.makes(specs.PIDNamespace) || c.Isolation() == Sandbox }

// ownMounts tells whether the container has a mount namespace, be it new or joined.
func (c *Container) ownMounts() bool {
	return c.makes(specs.MountNamespace) || c.joins(specs.MountNamespace)
}

func (c *Container) makes(t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(c.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t && ns.Path == "" })
}

func (c *Container) joins(t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(c.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t && ns.Path != "" })
}

// Pause stops all processes of the container until Resume: it freezes their cgroup, or has the kernel of a sandbox do it.
func (c *Container) Pause() error {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	return c.locked(ctx, "pause", func() error {
		if err := c.want("pause", Running, Created); err != nil {
			return err
		}
		view := c.engineView()
		return c.engine.Pause(ctx, &view)
	})
}

// Resume lets a paused container go on.
func (c *Container) Resume() error {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	return c.locked(ctx, "resume", func() error {
		if err := c.want("resume", Paused); err != nil {
			return err
		}
		view := c.engineView()
		return c.engine.Resume(&view)
	})
}

// warnOfCgroup tells what of the configured cgroup could not be had and can be done without.
func (c *Container) warnOfCgroup() {
	for _, w := range c.group.Warnings() {
		if c.runtime.Rootless == nil && os.Geteuid() == 0 && c.record.Rootless {
			// Nobody is told who calls as root of a user namespace: that is an engine, which has said itself what its user
			// can't have, and the caller's standard error is that of the container's program.
			c.runtime.trace(w)
			continue
		}
		c.runtime.warn(w)
	}
}

// Processes returns the pids, in the caller's pid namespace, of all processes of the container.
func (c *Container) Processes() ([]int, error) {
	if !c.group.Tracks() {
		return nil, fault.In("ps", c.ID(), untracked())
	}
	pids, err := c.group.Pids(true)
	return pids, fault.In("ps", c.ID(), err)
}

// ProcessInfo is a process as the kernel of a sandbox sees it.
//
//	UID, PID, PPID int    // inside
//	CPU            int    // percent of one
//	STime          string // when it started, as ps(1) has it
//	TTY            string // "?" without one
//	Time           string // on a CPU
//	Command        string
type ProcessInfo = wire.Process

// Dial connects with a TCP port of the container's own loopback, whatever network it has. The file is a stream socket.
func (c *Container) Dial(port uint16) (*os.File, error) {
	f, err := c.dial(port)
	return f, fault.In("port-forward", c.ID(), err)
}

func (c *Container) dial(port uint16) (*os.File, error) {
	if status, err := c.status(); err != nil || status != Running {
		if err == nil {
			err = &fault.Error{Kind: fault.BadState, Err: fmt.Errorf("the container is %s", status)}
		}
		return nil, err
	}
	view := c.engineView()
	return c.engine.Dial(&view, c.record.Init, port)
}

// Inside returns the processes of a container in a sandbox, which the host's kernel knows nothing of.
func (c *Container) Inside() ([]ProcessInfo, error) {
	k, ok := c.engine.(engine.Kernel)
	if !ok {
		return nil, fault.In("ps", c.ID(), &fault.Error{Kind: fault.BadUsage, Err: errors.New("the container is in no sandbox")})
	}
	view := c.engineView()
	list, err := k.Processes(&view)
	return list, fault.In("ps", c.ID(), err)
}

// Isolation returns what keeps the container apart.
func (c *Container) Isolation() Isolation { return recordedIsolation(c.record) }
