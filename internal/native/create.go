package native

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/netdev"
	"hull/internal/proc"
	"hull/internal/rootfs"
	"hull/internal/stub"
)

// creation is one call of Create.
type creation struct {
	*engine.CreateRequest
	ctx        context.Context
	privileged bool // the caller is root
	ns         namespaces
	process    *process
	root       *rootfs.Plan

	init    *stub.Stub
	b       *stub.Batch // what it does next
	sources []*os.File  // descriptors that b wants
	stops   bool        // b ends while the host's files are visible
	mounted bool        // it was executed, and nobody but this function knows
	report  *os.File    // why the program could not be executed
	devices *netdev.Moved
	closers []*os.File
}

// newCreation checks all that can be checked before anything is changed.
func newCreation(ctx context.Context, r *engine.CreateRequest) (*creation, error) {
	c := &creation{CreateRequest: r, ctx: ctx, privileged: os.Geteuid() == 0}
	c.ns = sortNamespaces(r.Spec, c.privileged)
	var errs []error
	var err error
	c.process, err = newProcess(&r.Container, r.Spec.Process, r.Stdio)
	errs = append(errs, err)
	if f := c.process.seccomp; f != nil && len(f.Unknown) > 0 && r.Trace != nil {
		r.Trace("linux.seccomp.syscalls: no architecture has " + strings.Join(f.Unknown, ", ") + ": without effect")
	}
	if c.Spec.Root != nil || c.Overlay != nil {
		cfg, err := rootfsConfig(r)
		if err != nil {
			return nil, err
		}
		c.root, err = rootfs.New(cfg)
		errs = append(errs, err)
		if err == nil {
			for _, w := range c.root.Warnings() {
				r.Warn(w)
			}
		}
	}
	errs = append(errs, checkSysctls(r.Spec), c.checkNetDevices())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c.process.keyring = !r.NoNewKeyring
	c.process.child = r.Supervise
	if r.Program > 0 {
		c.process.program = 2 + r.Program // behind the standard streams
	}
	c.process.status = specs.StateCreating
	c.process.upper = c.Overlay != nil && (c.Overlay.Send || c.Overlay.Serve) || c.Donated != nil && c.Donated.Plan.Send
	return c, nil
}

func (c *creation) close() {
	c.devices.Close()
	for _, f := range c.closers {
		f.Close()
	}
}

func (c *creation) keep(f *os.File) *os.File {
	c.closers = append(c.closers, f)
	return f
}

// run is the whole creation. When it fails, nothing is left but the cgroup and the state directory, which are the
// caller's.
func (c *creation) run() (_ *engine.Process, err error) {
	if c.init, err = c.startInit(); err != nil {
		return nil, err
	}
	p, err := c.setUp()
	if err != nil {
		err = errors.Join(c.explain(err), c.devices.Return())
		c.init.Kill()
		if c.mounted {
			err = errors.Join(err, Engine{}.Leave(&c.Container))
		}
		return nil, err
	}
	return p, nil
}

// startInit returns the container's init, in its namespaces and cgroup.
func (c *creation) startInit() (*stub.Stub, error) {
	begun, _ := c.Begun.(*beginning)
	if begun.cloned() {
		return c.takeInit(begun)
	}
	report, err := c.openReport()
	if err != nil {
		return nil, err
	}
	defer report.Close()
	if begun != nil {
		return c.forkBegun(begun, report)
	}
	first, err := c.startFirst(report)
	if err != nil {
		return nil, err
	}
	init, err := c.fork(first)
	if err != nil {
		first.Kill()
	}
	return init, err
}

// startFirst makes the cgroup and the first stub: in it, where the kernel can start processes in a cgroup.
func (c *creation) startFirst(report *os.File) (*stub.Stub, error) {
	if err := c.Cgroup.Create(); err != nil {
		return nil, err
	}
	dir, err := c.Cgroup.DirFD()
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
	}
	return stub.Start(stub.Config{
		Stdio:  c.Stdio,
		Extra:  append(slices.Clone(c.Extra), report),
		Cgroup: dir,
		Trace:  stub.TraceLines(c.Trace),
	})
}

// openReport opens the descriptor that the init uses when it is alone: where it reports a failure and, if it is parked,
// where it waits.
func (c *creation) openReport() (*os.File, error) {
	if !c.Park {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		c.report = c.keep(r)
		return w, nil
	}
	return MakeFifo(c.Dir)
}

// MakeFifo makes the fifo by which Start lets a program run, in a container's state directory. It is open for reading and
// writing, so that neither open nor read takes the absence of the other side for an end.
func MakeFifo(dir string) (*os.File, error) {
	path := filepath.Join(dir, execFifo)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// reportFD is the descriptor of a stub behind those that the container's program gets.
func reportFD(extra int) int { return stub.FirstExtra + extra }

// setUp makes the init what the configuration says and lets it go.
func (c *creation) setUp() (_ *engine.Process, err error) {
	p := &engine.Process{Init: engine.Init{Pid: c.init.Pid}, PidFD: c.init.PidFD}
	defer func() { closeSent(p, err) }()
	if c.NetNS != nil {
		if err := c.sendNetNS(); err != nil {
			return nil, err
		}
	}
	if p.StartTime, err = proc.StartTime(p.Pid); err != nil {
		return nil, err
	}
	if err := c.moveNetDevices(); err != nil {
		return nil, err
	}
	if c.stops {
		if err := c.prepareRoot(); err != nil {
			return nil, err
		}
	}
	if err := c.process.become(c.b, c.init, p, len(c.Extra), func(b *stub.Batch) error { return c.enter(b, p) }); err != nil {
		return nil, err
	}
	if c.root != nil {
		for _, w := range c.root.Refused() {
			c.Warn(w)
		}
	}
	tail := c.tail()
	if c.Park {
		p.Steps = tail.Steps()
	}
	// Who gave up meanwhile has nothing started.
	if err := context.Cause(c.ctx); err != nil {
		return nil, err
	}
	if c.Prepared != nil {
		if err := c.Prepared(p); err != nil {
			return nil, err
		}
	}
	c.mounted = false // from now on it is known by the record
	if c.BeforeStart != nil {
		if err := c.BeforeStart(p); err != nil {
			return nil, err
		}
	}
	if c.Supervise {
		return p, c.letGoSupervised(tail, p)
	}
	return p, c.letGo(tail)
}

// plan emits what the init does, up to where hull has something to do itself while the host's files are still visible:
// hooks, or copying into a tmpfs. Where it hasn't, that is all but the last steps.
func (c *creation) plan() (err error) {
	c.b = new(stub.Batch)
	c.isolate(c.b)
	if c.root != nil {
		if c.sources, err = c.root.Sources(); err != nil {
			return err
		}
		for _, f := range c.sources {
			c.keep(f)
		}
		var fds []stub.FD
		if len(c.sources) > 0 {
			fds = c.b.RecvFDs(len(c.sources))
		}
		c.root.Prepare(c.b, fds)
	}
	c.stops = c.Hooks != nil || c.hasContainerHooks() || c.root != nil && c.root.CopiesUp() || c.process.needsLimits()
	if !c.stops {
		c.planEntry()
	}
	return nil
}

// prepareRoot makes the container's mounts and runs the hooks that see the host's files beside them.
func (c *creation) prepareRoot() error {
	// Hooks come after the limits, which some of them change.
	if err := c.do(c.b, func() error { return c.Cgroup.Limit(c.ctx) }); err != nil {
		return err
	}
	if c.root != nil {
		if err := c.root.CopyUp(c.ctx, c.init); err != nil {
			return err
		}
	}
	if c.Hooks != nil {
		if err := c.Hooks(c.init.Pid); err != nil {
			return err
		}
	}
	if err := c.containerHooks(); err != nil {
		return err
	}
	c.process.opened += c.b.MaxOpened()
	c.b = new(stub.Batch)
	c.planEntry()
	return nil
}

// enter executes the batch that ends in the container's root. Limits come meanwhile: after what they could hinder, and
// before the container's program.
func (c *creation) enter(b *stub.Batch, p *engine.Process) error {
	return c.do(b, func() error {
		if c.Forked != nil {
			if err := c.Forked(p.Init); err != nil {
				return err
			}
		}
		if c.stops {
			return nil // prepareRoot has limited it
		}
		return c.Cgroup.Limit(c.ctx)
	})
}

// do executes a batch, with the sources of bind mounts if it is the first, and calls meanwhile.
func (c *creation) do(b *stub.Batch, meanwhile func() error) error {
	if err := c.init.Send(b); err != nil {
		return err
	}
	if len(c.sources) > 0 {
		if err := c.init.PassFDs(c.sources...); err != nil {
			return err
		}
		c.sources = nil
	}
	var err error
	if meanwhile != nil {
		err = meanwhile()
	}
	if err := c.init.Receive(); err != nil {
		return err
	}
	c.mounted = true
	return err
}

// isolate emits what comes before the files: the session, the keyring, the cgroup namespace.
func (c *creation) isolate(b *stub.Batch) {
	b.In("")
	b.Call(unix.SYS_SETSID)
	if c.ns.newUser || engine.HasNamespace(c.Spec, specs.UserNamespace) {
		becomeRoot(b, c.Spec.Linux)
	}
	c.process.joinKeyring(b)
	b.AllCPUs()
	if c.ns.newCgroup {
		// After the init is in its cgroup, which becomes the root of the namespace.
		b.In("linux.namespaces")
		b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWCGROUP))
		b.Note("cgroup namespace")
	}
}

// planEntry emits the way into the container's files, and to the identity of its process.
func (c *creation) planEntry() {
	b, s := c.b, c.Spec
	if c.root != nil {
		c.root.Enter(b)
	}
	if s.Process.Terminal {
		c.openConsole(b)
	}
	if s.Hostname != "" {
		b.In("hostname")
		b.Call(unix.SYS_SETHOSTNAME, b.String(s.Hostname).Arg(), stub.Int(len(s.Hostname)))
	}
	if s.Domainname != "" {
		b.In("domainname")
		b.Call(unix.SYS_SETDOMAINNAME, b.String(s.Domainname).Arg(), stub.Int(len(s.Domainname)))
	}
	writeSysctls(b, s)
	c.process.plan(b, len(c.Extra))
}

// tail returns the batch that the init executes alone.
func (c *creation) tail() *stub.Batch {
	b := new(stub.Batch)
	last := func() { c.process.lastSteps(b, len(c.Extra), c.Park) }
	if c.Supervise {
		b.Supervise(c.Cgroup.EndsWithProcesses(), func() {
			c.leadGroup(b)
			c.process.emitLimits(b, true)
			last()
		})
	} else {
		last()
	}
	return b
}

// leadGroup emits what makes the program a job of its own, as a shell does: signals for its process group don't reach the
// supervisor, which can see it stop, and it has the terminal.
func (c *creation) leadGroup(b *stub.Batch) {
	b.In("")
	if c.Program > 0 { // which is hull's own, and takes a terminal itself
		b.Call(unix.SYS_SETSID)
		return
	}
	b.Call(unix.SYS_SETPGID, stub.Int(0), stub.Int(0))
	if c.Spec.Process.Terminal {
		pid := b.Const(make([]byte, 4))
		b.Store(pid, 0, b.Call(unix.SYS_GETPID).Arg())
		b.Ioctl(stub.Fd(0), unix.TIOCSPGRP, pid.Arg())
		b.Note("TIOCSPGRP")
	}
}

// letGoSupervised is letGo for an init that becomes the program's supervisor.
func (c *creation) letGoSupervised(tail *stub.Batch, p *engine.Process) error {
	s, err := c.init.LastSupervised(tail, reportFD(len(c.Extra)), stub.ExitSetup)
	if rerr := explainExec(stub.ReadReport(c.report, tail.Steps(), stub.Timeout)); rerr != nil {
		err = rerr
	}
	if err != nil {
		if s != nil {
			s.Program.Close()
		}
		return err
	}
	p.Supervisor, p.PidFD = s, nil
	return nil
}

// letGo hands the init its last batch.
func (c *creation) letGo(tail *stub.Batch) error {
	if err := c.init.Last(tail, reportFD(len(c.Extra)), stub.ExitSetup); err != nil {
		return err
	}
	if c.Park {
		return nil
	}
	return explainExec(stub.ReadReport(c.report, tail.Steps(), stub.Timeout))
}

// explain adds to the error of a stub that has ended what is known of its end.
func (c *creation) explain(err error) error {
	if !errors.Is(err, stub.ErrGone) {
		if c.root != nil {
			err = c.root.Explain(err)
		}
		if c.ns.newUser {
			err = explainAppArmor(err, "/")
		}
		return explainSysctl(err)
	}
	hint := ""
	if m := c.memoryLimit(); m > 0 && m < 4<<20 {
		hint = "linux.resources.memory.limit may be too small"
	}
	return &fault.Error{Err: err, Hint: hint}
}

func (c *creation) memoryLimit() int64 {
	if r := c.Spec.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil {
		return *r.Memory.Limit
	}
	return 0
}
