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
	e := c.Runtime.throwawayEngine()
	stdio, err := c.streams()
	defer c.closeChild()
	if err != nil {
		return err
	}
	io := engine.IO{Stdio: [3]*os.File{stdio.In, stdio.Out, stdio.Err}}
	var early engine.InitBeginning
	if c.Limits.resources() == nil {
		if early, err = e.BeginInit(c.ctx, io, c.Runtime.Trace); err != nil {
			return err
		}
		if early != nil {
			defer early.Abandon()
		}
	}
	userNS := os.Geteuid() != 0 || linux.InUserNamespace()
	id, err := findIdentity(c.User, userNS)
	if err != nil {
		return err
	}
	v, err := newView(&c.Host, c.Dir, userNS)
	if err != nil {
		return err
	}
	fuse, err := c.fuse(c.ctx, userNS)
	if err != nil {
		return err
	}
	v.user, v.jailed = id.otherHome(), c.sandboxed()
	if w := v.warning(); w != "" {
		c.Runtime.warn(w)
	}
	s, err := c.hostSpec(id, v)
	if err != nil {
		return err
	}
	warnings, err := oci.Check(s)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		c.Runtime.warn(w)
	}
	if err := e.CheckHostFiles(s); err != nil {
		return err
	}
	network, err := c.startNetwork(s)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			network.abandon()
		}
	}()
	// The kernel makes what it takes longest for, while the rest is planned.
	var begun engine.Beginning
	if early != nil {
		begun = early.Configure(s)
	} else if begun = e.Begin(s, io, c.Runtime.Trace); begun != nil {
		defer begun.Abandon()
	}
	plan, err := v.plan()
	if err != nil {
		return err
	}
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, v.masks()...)
	if err := network.prepare(v, plan); err != nil {
		return err
	}
	var links []engine.Link
	if v.jailed {
		if links, err = network.connect(); err != nil {
			return err
		}
	}
	changes, err := c.prepareChanges(plan, s)
	if err != nil {
		return err
	}
	t := &throwaway{group: cgroup.None(), network: network}
	if fuse != "" {
		if t.files, err = c.serve(fuse, plan, id); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = joinOne([]error{err, t.files.end()})
			}
		}()
	}
	if plan.UserNS && fuse == "" && plan.Upper == "" && !tmpfsHasUserXattr() {
		if t.scratch, err = newScratch(); err != nil {
			changes.started(nil)
			return err
		}
		plan.Upper, plan.Volatile = t.scratch.dir, true
		if plan.Size != "" {
			c.Runtime.warn("the size of what is written is not bounded: this kernel's tmpfs has no user.* attributes (Linux 6.6), so that it goes to a disk")
		}
	}
	if t.group, err = c.Limits.impose(s, c.Runtime, userNS); err != nil {
		changes.started(nil)
		return joinOne([]error{err, t.scratch.remove()})
	}
	c.Result.AddressSpace = c.Limits.Memory > 0 && slices.ContainsFunc(s.Process.Rlimits, func(l specs.POSIXRlimit) bool { return l.Type == "RLIMIT_AS" })
	p, err := e.Create(c.ctx, &engine.CreateRequest{
		Container: engine.Container{ID: "do", Bundle: "/", Spec: s, Cgroup: t.group, Rootless: userNS},
		IO:        io,
		Overlay:   plan,
		Supervise: true,
		NetNS:     network.attach(),
		Links:     links,
		Begun:     begun,
		Prepared: func(p *engine.Process) error {
			changes.awaitTick()
			if err := network.await(); err != nil {
				return err
			}
			if err := (&handover{console: c.Console}).make(p); err != nil {
				return err
			}
			return context.Cause(c.ctx) // from here on the program runs
		},
		Trace: c.Runtime.Trace,
		Warn:  c.Runtime.warn,
	})
	if err != nil {
		changes.started(nil)
		err = c.tooLittle(v.explainMissing(v.nameBind(err), c.Args[0]), t.group)
		return joinOne([]error{err, t.remove(c.ctx)})
	}
	changes.started(p.Upper)
	if c.Changes = changes; changes != nil {
		changes.scratch, t.scratch = t.scratch, nil
	}
	t.supervisor, t.ended, t.began = p.Supervisor, p.Ended, time.Now()
	c.throwaway = t
	c.Process = &Process{Pid: p.Pid, pidfd: p.Supervisor.Program}
	return nil
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
