package native

import (
	"context"
	"errors"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/stub"
)

// beginning is a first stub that already makes the container's namespaces, while hull is still busy with the cgroup and
// the state directory: the kernel takes half a millisecond for the network namespace alone. Or one that already clones
// the container's init.
//
// A goroutine of its own begins: who starts a process waits until it is executed.
type beginning struct {
	done  chan struct{} // closed when these are known:
	first *stub.Stub
	err   error

	// Of an init that is cloned: where its report can be read, or nil, and, when that is done, how many descriptors it may
	// have open.
	report *os.File
	opened int
	spec   chan<- *specs.Spec // takes the configuration, or is closed without one; nil when that is done

	trace func(string)
	early []string // traced before anyone has waited: the trace is told by one goroutine alone
	late  bool
}

// start begins with f, which gets the trace for its stub, and returns that.
func (b *beginning) start(trace func(string), f func(func(stub.Call)) (*stub.Stub, error)) {
	b.done, b.trace = make(chan struct{}), trace
	var tell func(stub.Call)
	if trace != nil {
		tell = stub.TraceLines(b.tell)
	}
	go func() {
		defer close(b.done)
		b.first, b.err = f(tell)
	}()
}

func (b *beginning) tell(line string) {
	if !b.late {
		b.early = append(b.early, line)
		return
	}
	b.trace(line)
}

// take waits for the stub and hands it over.
func (b *beginning) take() (*stub.Stub, error) {
	<-b.done
	b.late = true
	for _, line := range b.early {
		b.trace(line)
	}
	b.early = nil
	first := b.first
	b.first = nil
	return first, b.err
}

// Begin starts what needs nothing but the namespaces to be known. It is nil where that doesn't pay or can't be: a user
// namespace takes the rights that entering the cgroup needs, and a container without a namespace has nothing to wait for.
func (Engine) Begin(s *specs.Spec, io engine.IO, trace func(string)) engine.Beginning {
	ns := sortNamespaces(s, os.Geteuid() == 0)
	if ns.newUser || ns.newTime || ns.clone == 0 || engine.HasNamespace(s, specs.UserNamespace) {
		return nil
	}
	begun := new(beginning)
	begun.start(trace, func(trace func(stub.Call)) (*stub.Stub, error) {
		first, err := stub.Start(stub.Config{Stdio: io.Stdio, Extra: io.Extra, Trace: trace})
		if err != nil {
			return nil, err
		}
		b := new(stub.Batch)
		joinNamespaces(b, ns.join)
		b.In("linux.namespaces")
		b.Call(unix.SYS_UNSHARE, stub.Int(ns.clone))
		b.Note(stub.NamespaceNames(ns.clone))
		if ns.clone&unix.CLONE_NEWNET != 0 {
			b.LoopbackUp()
		}
		if err := first.Send(b); err != nil {
			first.Kill()
			return nil, err
		}
		return first, nil
	})
	return begun
}

// BeginInit is Begin for a container without a cgroup of its own, and so without anything to be done before its init is
// cloned: by the time that all is planned the init waits in its namespaces.
func (Engine) BeginInit(ctx context.Context, io engine.IO, trace func(string)) (engine.InitBeginning, error) {
	report, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	spec := make(chan *specs.Spec, 1)
	begun := &beginning{report: report, spec: spec}
	begun.start(trace, func(trace func(stub.Call)) (_ *stub.Stub, err error) {
		defer theirs.Close()
		first, err := stub.Start(stub.Config{Stdio: io.Stdio, Extra: append(slices.Clone(io.Extra), theirs), Trace: trace})
		if err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				first.Kill()
			}
		}()
		s, configured := <-spec
		if !configured {
			first.Kill()
			return nil, nil
		}
		privileged := os.Geteuid() == 0
		ns := sortNamespaces(s, privileged)
		pre := new(stub.Batch)
		joinNamespaces(pre, ns.join)
		if pre, err = unshareEarly(ctx, first, pre, ns, s.Linux, privileged); err != nil {
			return nil, err
		}
		pre.In("linux.namespaces")
		if err := first.SendFork(pre, ns.clone, nil, ns.loopbackUp(pre)); err != nil {
			return nil, err
		}
		begun.opened = pre.MaxOpened()
		return first, nil
	})
	return begun, nil
}

// Configure implements engine.InitBeginning.
func (b *beginning) Configure(s *specs.Spec) engine.Beginning {
	p := s.Process
	if p.OOMScoreAdj != nil || p.ApparmorProfile != "" || p.SelinuxLabel != "" || s.Linux.IntelRdt != nil {
		b.Abandon()
		return nil
	}
	b.spec <- s
	b.spec = nil
	return b
}

// Abandon ends what Begin has started, unless Create has taken it.
func (b *beginning) Abandon() {
	if b.spec != nil {
		close(b.spec)
		b.spec = nil
	}
	if first, _ := b.take(); first != nil {
		first.Kill()
	}
	if b.report != nil {
		b.report.Close()
		b.report = nil
	}
}

// cloned tells whether the init was cloned.
func (b *beginning) cloned() bool { return b != nil && b.report != nil }

// takeInit returns the init that was cloned, when all that it is to do is planned.
func (c *creation) takeInit(begun *beginning) (*stub.Stub, error) {
	c.report = c.keep(begun.report)
	begun.report = nil
	planErr := c.plan()
	first, err := begun.take()
	if err != nil {
		return nil, err
	}
	if planErr != nil {
		first.Kill()
		return nil, planErr
	}
	c.process.opened += begun.opened
	init, err := first.ReceiveFork()
	if err != nil {
		first.Kill()
		return nil, explainNamespaces(err, c.ns.newUser)
	}
	return init, nil
}

// forkBegun is fork for a first stub that has the namespaces.
func (c *creation) forkBegun(begun *beginning, report *os.File) (*stub.Stub, error) {
	// All this while the stub makes the namespaces.
	if err := c.Cgroup.Create(); err != nil {
		return nil, err
	}
	pre := new(stub.Batch)
	fd := pre.RecvFDs(1)[0]
	pre.Assert(fd.Arg(), ^uint64(0), uint64(reportFD(len(c.Extra))), unix.EBADF, "number of the report's descriptor")
	cgroup, err := c.enterCgroupByPath(pre)
	if err != nil {
		return nil, err
	}
	c.process.fromOutside(pre)
	c.process.opened += pre.MaxOpened()
	planErr := c.plan()
	first, err := begun.take()
	if err != nil {
		return nil, err
	}
	init, err := c.forkFrom(first, pre, cgroup, report, planErr)
	if err != nil {
		first.Kill()
	}
	return init, err
}

// forkFrom lets the stub clone the init, after pre, when the namespaces are made.
func (c *creation) forkFrom(first *stub.Stub, pre *stub.Batch, cgroup *stub.FD, report *os.File, planErr error) (*stub.Stub, error) {
	if err := first.Receive(); err != nil {
		return nil, errors.Join(explainNamespaces(err, c.ns.newUser), planErr)
	}
	if planErr != nil {
		return nil, planErr
	}
	pre.In("linux.namespaces")
	if err := first.SendFork(pre, 0, cgroup, nil); err != nil {
		return nil, err
	}
	if err := first.PassFDs(report); err != nil {
		return nil, err
	}
	init, err := first.ReceiveFork()
	if err != nil {
		return nil, err
	}
	return c.inCgroup(init, cgroup != nil && init.InCgroup || cgroup == nil && len(c.Cgroup.TaskFiles()) > 0)
}

// enterCgroupByPath emits what moves the stub into groups of v1 and resctrl, and opens the directory of v2 for the clone.
func (c *creation) enterCgroupByPath(b *stub.Batch) (v2 *stub.FD, err error) {
	dir, err := c.Cgroup.DirFD()
	if dir != nil {
		b.In("linux.cgroupsPath")
		fd := b.Openat(stub.CWD, dir.Name(), unix.O_PATH|unix.O_DIRECTORY, 0)
		v2 = &fd
		dir.Close()
	}
	c.JoinGroups(b)
	return v2, err
}
