package native

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/netdev"
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
	mounted bool     // Prepare was executed, and nobody but this function knows
	report  *os.File // why the program could not be executed
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
	if c.Spec.Root != nil {
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
	c.process.status = specs.StateCreating
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
	report, err := c.openReport()
	if err != nil {
		return nil, err
	}
	first, err := c.startFirst(report)
	report.Close()
	if err != nil {
		return nil, err
	}
	if c.init, err = c.fork(first); err != nil {
		first.Kill()
		return nil, err
	}
	p, err := c.setUp()
	if err != nil {
		err = errors.Join(c.explain(err), c.devices.Return())
		c.init.Kill()
		return nil, err
	}
	return p, nil
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
		Trace:  traceFunc(c.Trace),
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
	path := filepath.Join(c.Dir, execFifo)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	// Open for reading and writing, so that neither open nor read takes the absence of the other side for an end.
	return os.OpenFile(path, os.O_RDWR, 0)
}

// reportFD is the descriptor of a stub behind those that the container's program gets.
func reportFD(extra int) int { return stub.FirstExtra + extra }

// fork makes the namespaces and the container's init in them.
func (c *creation) fork(first *stub.Stub) (*stub.Stub, error) {
	pre := new(stub.Batch)
	joined, err := c.enterCgroup(pre)
	if err != nil {
		return nil, err
	}
	pre.In("linux.intelRdt")
	enterTaskFiles(pre, c.RDT.TaskFiles())
	c.process.fromOutside(pre)
	joinNamespaces(pre, c.ns.join)
	if c.ns.newUser || c.ns.newTime {
		if err := c.unshareEarly(first, pre); err != nil {
			return nil, err
		}
		pre = new(stub.Batch)
	}
	pre.In("linux.namespaces")
	init, err := first.Fork(pre, c.ns.clone)
	if err != nil {
		return nil, explainNamespaces(err)
	}
	if !joined {
		if err := c.Cgroup.Add(c.ctx, init.Pid); err != nil {
			init.Kill()
			return nil, err
		}
	}
	return init, nil
}

// enterCgroup emits what moves the first stub, and so all that it clones, into the container's cgroup. It is false
// where someone else has to move the init: systemd.
func (c *creation) enterCgroup(b *stub.Batch) (bool, error) {
	files := c.Cgroup.TaskFiles()
	b.In("linux.cgroupsPath")
	enterTaskFiles(b, files)
	dir, err := c.Cgroup.DirFD()
	if dir != nil {
		dir.Close()
	}
	return len(files) > 0 || dir != nil, err
}

// enterTaskFiles emits the writes that move the stub into cgroups of v1, or groups of resctrl. See package cgroup for why
// the stub does it.
func enterTaskFiles(b *stub.Batch, files []string) {
	for _, file := range files {
		fd := b.Openat(stub.CWD, file, unix.O_WRONLY, 0)
		b.Write(fd, []byte("0"))
		b.Close(fd)
	}
}

// unshareEarly makes the namespaces that need the parent's help before anyone is in them: the user namespace gets its
// maps, the time namespace its offsets. The others are then cloned by the stub, as root of its user namespace.
func (c *creation) unshareEarly(first *stub.Stub, b *stub.Batch) error {
	b.In("linux.namespaces")
	if c.ns.newUser {
		// Only a dumpable process's maps can be written by its unprivileged parent. Nobody else is in the namespace yet.
		if !c.privileged {
			b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(1))
		}
		b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWUSER))
		b.Note("user namespace")
	}
	if err := first.Do(b); err != nil {
		return explainNamespaces(err)
	}
	b = new(stub.Batch)
	if c.ns.newUser {
		if err := mapIDs(first.Pid, c.Spec.Linux, c.privileged); err != nil {
			return err
		}
		b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(0))
		becomeRoot(b)
	}
	if c.ns.newTime {
		b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWTIME))
		b.Note("time namespace")
	}
	if err := first.Do(b); err != nil {
		return err
	}
	if c.ns.newTime {
		return writeTimeOffsets(first.Pid, c.Spec.Linux.TimeOffsets)
	}
	return nil
}

// becomeRoot takes id 0 of the user namespace that the stub is in.
func becomeRoot(b *stub.Batch) {
	b.In("linux.uidMappings")
	b.Call(unix.SYS_SETRESGID, stub.Int(0), stub.Int(0), stub.Int(0))
	b.Call(unix.SYS_SETRESUID, stub.Int(0), stub.Int(0), stub.Int(0))
}

// setUp makes the init what the configuration says and lets it go.
func (c *creation) setUp() (*engine.Process, error) {
	if err := c.moveNetDevices(); err != nil {
		return nil, err
	}
	if err := c.mountPhase(); err != nil {
		return nil, err
	}
	p := &engine.Process{Init: engine.Init{Pid: c.init.Pid}, PidFD: c.init.PidFD}
	if err := c.enterPhase(p); err != nil {
		return nil, err
	}
	var err error
	if p.StartTime, err = startTime(p.Pid); err != nil {
		return nil, err
	}
	tail := c.tail()
	p.Steps = tail.Steps()
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
	return p, c.letGo(tail)
}

// mountPhase arranges the container's files, up to the moment when hooks may still see the host's.
func (c *creation) mountPhase() error {
	b := new(stub.Batch)
	c.isolate(b)
	if c.root == nil {
		if err := c.init.Do(b); err != nil {
			return err
		}
	} else if err := c.prepareRoot(b); err != nil {
		return err
	}
	if c.Hooks != nil {
		if err := c.Hooks(c.init.Pid); err != nil {
			return err
		}
	}
	return c.containerHooks()
}

// prepareRoot executes b and makes the container's mounts.
func (c *creation) prepareRoot(b *stub.Batch) error {
	sources, err := c.root.Sources()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range sources {
			f.Close()
		}
	}()
	var fds []stub.FD
	if len(sources) > 0 {
		fds = b.RecvFDs(len(sources))
	}
	c.root.Prepare(b, fds)
	if err := c.init.Send(b); err != nil {
		return err
	}
	if len(sources) > 0 {
		if err := c.init.PassFDs(sources...); err != nil {
			return err
		}
	}
	if err := c.init.Receive(); err != nil {
		return err
	}
	c.mounted = true
	return c.root.CopyUp(c.init)
}

// isolate emits what comes before the files: the session, the keyring, the network, the cgroup namespace.
func (c *creation) isolate(b *stub.Batch) {
	b.In("")
	b.Call(unix.SYS_SETSID)
	if c.ns.newUser || hasNamespace(c.Spec, specs.UserNamespace) {
		becomeRoot(b)
	}
	c.process.joinKeyring(b)
	allCPUs(b)
	if c.ns.clone&unix.CLONE_NEWNET != 0 {
		loopbackUp(b)
	}
	if c.ns.newCgroup {
		// After the init is in its cgroup, which becomes the root of the namespace.
		b.In("linux.namespaces")
		b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWCGROUP))
		b.Note("cgroup namespace")
	}
}

// enterPhase goes into the container's files and gives the init its identity.
func (c *creation) enterPhase(p *engine.Process) error {
	b := new(stub.Batch)
	s := c.Spec
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
	return c.process.become(b, c.init, p, len(c.Extra), func() error { return c.Cgroup.Limit(c.ctx) })
}

// tail returns the batch that the init executes alone.
func (c *creation) tail() *stub.Batch {
	b := new(stub.Batch)
	c.process.lastSteps(b, len(c.Extra), c.Park)
	return b
}

// letGo hands the init its last batch.
func (c *creation) letGo(tail *stub.Batch) error {
	if err := c.init.Last(tail, reportFD(len(c.Extra)), exitSetup); err != nil {
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
			return c.root.Explain(err)
		}
		return err
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
