package hull

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/oci"
	"hull/internal/overlay"
	"hull/internal/stub"
)

// throwaway is a container that has no state: it lives and ends with the program that has made it. Whatever it consists
// of belongs to its first process, which the kernel ends when this program does.
type throwaway struct {
	supervisor *stub.Supervisor
	group      *cgroup.Group
	scratch    *scratch                              // or nil
	network    *network                              // or nil
	files      *fuseServer                           // or nil
	ended      func(unix.WaitStatus) unix.WaitStatus // see engine.Process
	began      time.Time
	deadline   deadline
}

// startThrowaway starts c in a container over the host's files.
func (c *Cmd) startThrowaway() (err error) {
	if err := errors.Join(c.Limits.check(), checkHostname(c.Hostname), c.checkNetwork()); err != nil {
		return err
	}
	stdio, err := c.streams()
	defer c.closeChild()
	if err != nil {
		return err
	}
	l := &launch{
		Cmd: c, engine: c.Runtime.throwawayEngine(), userNS: os.Geteuid() != 0 || linux.InUserNamespace(),
		io: engine.IO{Stdio: [3]*os.File{stdio.In, stdio.Out, stdio.Err}},
	}
	// The kernel makes what it takes longest for, while the rest is planned: what any command needs already now.
	early, err := l.beginEarly()
	if err != nil {
		return err
	}
	if early != nil {
		defer early.Abandon()
	}
	if err := l.configure(); err != nil {
		return err
	}
	if err := l.check(); err != nil {
		return err
	}
	if l.network, err = c.startNetwork(l.spec); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.network.abandon()
		}
	}()
	if early != nil {
		l.begun = early.Configure(l.spec)
	} else if l.begun = l.engine.Begin(l.spec, l.io, c.Runtime.Trace); l.begun != nil {
		defer l.begun.Abandon()
	}
	if err := l.planFiles(); err != nil {
		return err
	}
	l.made = &throwaway{group: cgroup.None(), network: l.network}
	for _, step := range []func() error{l.keepChanges, l.serveFiles, l.makeScratch, l.impose, l.create} {
		if err := step(); err != nil {
			return l.undo(err)
		}
	}
	return nil
}

// launch is a command on its way into its container: what is known and made of that so far.
type launch struct {
	*Cmd
	engine engine.HostFiles
	io     engine.IO
	userNS bool

	id      *identity
	view    *view
	server  string // the program that serves the files; or ""
	spec    *specs.Spec
	network *network         // or nil
	begun   engine.Beginning // or nil
	plan    *overlay.Plan
	links   []engine.Link
	changes *Changes // or nil
	made    *throwaway
}

// beginEarly has the engine begin before there is a configuration, or returns nil: a process comes into its cgroup at the start.
func (l *launch) beginEarly() (engine.InitBeginning, error) {
	if l.Limits.resources() != nil {
		return nil, nil
	}
	return l.engine.BeginInit(l.ctx, l.io, l.Runtime.Trace)
}

// configure finds out who the command is and what it sees, and makes a configuration of that.
func (l *launch) configure() (err error) {
	if l.id, err = findIdentity(l.User, l.userNS); err != nil {
		return err
	}
	if l.view, err = newView(&l.Host, l.Dir, l.userNS); err != nil {
		return err
	}
	if l.server, err = l.fuse(l.ctx, l.userNS); err != nil {
		return err
	}
	l.view.user, l.view.jailed = l.id.otherHome(), l.sandboxed()
	if w := l.view.warning(); w != "" {
		l.Runtime.warn(w)
	}
	l.spec, err = l.hostSpec(l.id, l.view)
	return err
}

// check refuses what can't be had.
func (l *launch) check() error {
	warnings, err := oci.Check(l.spec)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		l.Runtime.warn(w)
	}
	return l.engine.CheckHostFiles(l.spec)
}

// planFiles plans what the command is shown, with the files of its network, which has to be ready for that.
func (l *launch) planFiles() (err error) {
	if l.plan, err = l.view.plan(); err != nil {
		return err
	}
	l.spec.Linux.MaskedPaths = append(l.spec.Linux.MaskedPaths, l.view.masks()...)
	if err := l.network.prepare(l.view, l.plan); err != nil {
		return err
	}
	if l.view.jailed {
		l.links, err = l.network.connect()
	}
	return err
}

// keepChanges makes ready for what is asked later of what the command changes.
func (l *launch) keepChanges() (err error) {
	l.changes, err = l.prepareChanges(l.plan, l.spec)
	return err
}

// serveFiles starts the server of the files where overlayfs can't show them.
func (l *launch) serveFiles() (err error) {
	if l.server != "" {
		l.made.files, err = l.serve(l.server, l.plan, l.id)
	}
	return err
}

// makeScratch makes a directory for what is written where a tmpfs can't be an overlay's upper one.
func (l *launch) makeScratch() (err error) {
	if !l.plan.UserNS || l.server != "" || l.plan.Upper != "" || tmpfsHasUserXattr() {
		return nil
	}
	if l.made.scratch, err = newScratch(); err != nil {
		return err
	}
	l.plan.Upper, l.plan.Volatile = l.made.scratch.dir, true
	if l.plan.Size != "" {
		l.Runtime.warn("the size of what is written is not bounded: this kernel's tmpfs has no user.* attributes (Linux 6.6), so that it goes to a disk")
	}
	return nil
}

// impose makes the cgroup that limits the command.
func (l *launch) impose() error {
	group, err := l.Limits.impose(l.spec, l.Runtime, l.userNS)
	if err != nil {
		return err
	}
	l.made.group = group
	bounded := func(r specs.POSIXRlimit) bool { return r.Type == "RLIMIT_AS" }
	l.Result.AddressSpace = l.Limits.Memory > 0 && slices.ContainsFunc(l.spec.Process.Rlimits, bounded)
	return nil
}

// create makes the container, in which the program runs then.
func (l *launch) create() error {
	p, err := l.engine.Create(l.ctx, &engine.CreateRequest{
		Container: engine.Container{ID: "do", Bundle: "/", Spec: l.spec, Cgroup: l.made.group, Rootless: l.userNS},
		IO:        l.io,
		Overlay:   l.plan,
		Supervise: true,
		NetNS:     l.network.attach(),
		Links:     l.links,
		Begun:     l.begun,
		Prepared:  l.prepared,
		Trace:     l.Runtime.Trace,
		Warn:      l.Runtime.warn,
	})
	if err != nil {
		return l.tooLittle(l.view.explainMissing(l.view.nameBind(err), l.Args[0]), l.made.group)
	}
	t := l.made
	l.changes.started(p.Upper)
	if l.Changes = l.changes; l.changes != nil {
		l.changes.scratch, t.scratch = t.scratch, nil
	}
	t.supervisor, t.ended, t.began = p.Supervisor, p.Ended, time.Now()
	l.throwaway = t
	l.Process = &Process{Pid: p.Pid, pidfd: p.Supervisor.Program}
	return nil
}

// prepared is the last that happens before the program runs.
func (l *launch) prepared(p *engine.Process) error {
	l.changes.awaitTick()
	if err := l.network.await(); err != nil {
		return err
	}
	if err := (&handover{console: l.Console}).make(p); err != nil {
		return err
	}
	return context.Cause(l.ctx) // from here on the program runs
}

// undo takes away what was made for a command that err has kept from starting.
func (l *launch) undo(err error) error {
	l.changes.started(nil)
	return joinOne([]error{err, l.made.remove(l.ctx), l.made.files.end()})
}

// tooLittle explains the error of a container that did not come to be for want of memory.
func (c *Cmd) tooLittle(err error, g *cgroup.Group) error {
	var e *fault.Error
	// Version 1 refuses a limit that is exceeded already.
	refused := errors.Is(err, unix.EBUSY) && errors.As(err, &e) && e.Field == "linux.resources.memory.limit"
	if n, oerr := g.OOMKilled(); refused || oerr == nil && n > 0 {
		hint := size(c.Limits.Memory) + " is too little to start a program"
		if c.Limits.Memory < 1<<16 {
			hint += "; m and g stand for larger units"
		}
		return &fault.Error{Step: "limit of memory", Err: unix.ENOMEM, Hint: hint}
	}
	return limitError(err)
}

// end waits for the program and takes the container away.
func (t *throwaway) end(c *Cmd) error {
	// There is nothing else to do now.
	cgroup.Sweep()
	var merr error
	memory := sync.OnceFunc(func() { merr = t.memory(c) })
	ended, err := t.supervisor.Wait(c.Stopped, memory)
	memory()
	c.WaitStatus = ended.Status
	if t.ended != nil {
		c.WaitStatus = t.ended(ended.Status)
	}
	c.Process.Release()
	r := &c.Result
	r.Wall, r.User, r.System, r.MaxRSS = time.Since(t.began), ended.User, ended.System, ended.MaxRSS
	r.TimedOut = t.deadline.stop()
	r.NetworkPath = t.network.path()
	r.Refused, r.RefusedMore = t.network.end()
	return errors.Join(err, merr, t.files.end(), t.remove(c.ctx))
}

// memory adds to the result what the cgroup knows.
func (t *throwaway) memory(c *Cmd) error {
	if c.Limits.Memory == 0 {
		return nil
	}
	var errs [2]error
	r := &c.Result
	r.OOMKilled, errs[0] = t.group.OOMKilled()
	r.OverLimit = r.OOMKilled > 0 && t.group.MemoryLimitHit()
	r.PeakMemory, errs[1] = t.group.PeakMemory()
	return errors.Join(errs[:]...)
}

// remove takes away what is left of a container without processes.
func (t *throwaway) remove(ctx context.Context) error {
	return errors.Join(t.group.Destroy(context.WithoutCancel(ctx)), t.scratch.remove())
}
