package hull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/hook"
	"hull/internal/oci"
	"hull/internal/proc"
	"hull/internal/rdt"
	"hull/internal/sandbox"
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

// updateInside changes what the kernel of a sandbox limits of a container that has joined others there: for its programs, of which
// the host's kernel knows nothing.
func (c *Container) updateInside(r *specs.LinuxResources) error {
	view := c.engineView()
	k, ok := c.engine.(engine.Kernel)
	if !ok || view.Pod == nil {
		return nil
	}
	files, rest := cgroup.Inside(r)
	if warning := sandbox.NotHeld(rest); warning != "" {
		c.runtime.warn(warning)
	}
	if len(files) == 0 {
		return nil
	}
	return k.Limit(&view, files)
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

// Stats are what the kernel counts for a container, in JSON as runc's events have them.
// CPU, CPUSet, Memory, Pids, BlockIO, Hugetlb, RDMA, IntelRdt and NetworkInterfaces have the JSON names cpu, cpuset, memory,
// pids, blkio, hugetlb, rdma, intel_rdt and network_interfaces. Inside, inside, is what a sandbox's kernel counts for the container
// alone: cpu with user and kernel in nanoseconds, memory in bytes, pids. Of a container that has joined others in a sandbox CPU, Memory
// and Pids are these, too, beside the limits.
type Stats = cgroup.Stats

// Stats returns the resources that the container uses.
func (c *Container) Stats() (*Stats, error) {
	s, err := c.group.Stats()
	if k, ok := c.engine.(engine.Kernel); ok && err == nil {
		err = c.countInside(k, s)
	}
	return s, fault.In("events", c.ID(), err)
}

// countInside adds what the kernel of a sandbox counts, unless somebody has frozen it: it can't answer then.
func (c *Container) countInside(k engine.Kernel, s *Stats) error {
	if frozen, err := c.group.Frozen(); frozen || err != nil {
		return err
	}
	view := c.engineView()
	inside, err := k.Usage(&view)
	if err != nil || inside == nil {
		return err
	}
	s.Inside = inside
	if view.Pod != nil {
		// The cgroup has one process that waits: what the container uses is the rest of its sandbox's.
		s.CPU.Usage = cgroup.CPUUsage{Total: inside.CPU.User + inside.CPU.Kernel, User: inside.CPU.User, Kernel: inside.CPU.Kernel}
		s.Memory.Usage.Usage, s.Memory.Cache, s.Memory.Raw = inside.Memory, 0, nil
		s.Pids.Current = inside.Pids
	}
	return nil
}

// OOMEvents returns a channel that gets a value for each out-of-memory kill, and is closed when the container is gone
// or ctx is done.
func (c *Container) OOMEvents(ctx context.Context) (<-chan struct{}, error) {
	ch, err := c.group.OOM(ctx)
	return ch, fault.In("events", c.ID(), err)
}
