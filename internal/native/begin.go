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
type beginning struct {
	first *stub.Stub

	// Of an init that is cloned: where its report can be read, or nil, and how many descriptors it may have open.
	report *os.File
	opened int
}

// Begin starts what needs nothing but the namespaces to be known. It is nil where that doesn't pay or can't be: a user
// namespace takes the rights that entering the cgroup needs, and a container without a namespace has nothing to wait for.
func (Engine) Begin(s *specs.Spec, io engine.IO, trace func(string)) (engine.Beginning, error) {
	ns := sortNamespaces(s, os.Geteuid() == 0)
	if ns.newUser || ns.newTime || ns.clone == 0 || hasNamespace(s, specs.UserNamespace) {
		return nil, nil
	}
	first, err := stub.Start(stub.Config{Stdio: io.Stdio, Extra: io.Extra, Trace: traceFunc(trace)})
	if err != nil {
		return nil, err
	}
	b := new(stub.Batch)
	joinNamespaces(b, ns.join)
	b.In("linux.namespaces")
	b.Call(unix.SYS_UNSHARE, stub.Int(ns.clone))
	b.Note(stub.NamespaceNames(ns.clone))
	if ns.clone&unix.CLONE_NEWNET != 0 {
		loopbackUp(b)
	}
	if err := first.Send(b); err != nil {
		first.Kill()
		return nil, err
	}
	return &beginning{first: first}, nil
}

// BeginInit is Begin for a container without a cgroup of its own, and so without anything to be done before its init is
// cloned: by the time that all is planned the init waits in its namespaces. It is nil if something has to come first.
func (Engine) BeginInit(ctx context.Context, s *specs.Spec, io engine.IO, trace func(string)) (_ engine.Beginning, err error) {
	p := s.Process
	if p.OOMScoreAdj != nil || p.ApparmorProfile != "" || p.SelinuxLabel != "" || s.Linux.IntelRdt != nil {
		return nil, nil
	}
	privileged := os.Geteuid() == 0
	ns := sortNamespaces(s, privileged)
	report, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	b := &beginning{report: report}
	defer func() {
		if err != nil {
			b.Abandon()
		}
	}()
	if b.first, err = stub.Start(stub.Config{Stdio: io.Stdio, Extra: append(slices.Clone(io.Extra), theirs), Trace: traceFunc(trace)}); err != nil {
		return nil, err
	}
	pre := new(stub.Batch)
	joinNamespaces(pre, ns.join)
	if pre, err = unshareEarly(ctx, b.first, pre, ns, s.Linux, privileged); err != nil {
		return nil, err
	}
	pre.In("linux.namespaces")
	if err := b.first.SendFork(pre, ns.clone, nil); err != nil {
		return nil, err
	}
	b.opened = pre.MaxOpened()
	return b, nil
}

// Abandon ends what Begin has started, unless Create has taken it.
func (b *beginning) Abandon() {
	if b.first != nil {
		b.first.Kill()
		b.first = nil
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
	first := begun.first
	c.report = c.keep(begun.report)
	begun.first, begun.report = nil, nil
	c.process.opened += begun.opened
	if err := c.plan(); err != nil {
		first.Kill()
		return nil, err
	}
	init, err := first.ReceiveFork()
	if err != nil {
		first.Kill()
		return nil, explainNamespaces(err, c.ns.newUser)
	}
	return init, nil
}

// forkBegun is fork for a first stub that has the namespaces.
func (c *creation) forkBegun(begun *beginning, report *os.File) (*stub.Stub, error) {
	first := begun.first
	begun.first = nil
	c.unshared = true
	init, err := c.forkFrom(first, report)
	if err != nil {
		first.Kill()
	}
	return init, err
}

func (c *creation) forkFrom(first *stub.Stub, report *os.File) (*stub.Stub, error) {
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
	if err := first.Receive(); err != nil {
		return nil, errors.Join(explainNamespaces(err, c.ns.newUser), planErr)
	}
	if planErr != nil {
		return nil, planErr
	}
	pre.In("linux.namespaces")
	if err := first.SendFork(pre, 0, cgroup); err != nil {
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
	b.In("linux.cgroupsPath")
	enterTaskFiles(b, c.Cgroup.TaskFiles())
	dir, err := c.Cgroup.DirFD()
	if dir != nil {
		fd := b.Openat(stub.CWD, dir.Name(), unix.O_PATH|unix.O_DIRECTORY, 0)
		v2 = &fd
		dir.Close()
	}
	b.In("linux.intelRdt")
	enterTaskFiles(b, c.RDT.TaskFiles())
	return v2, err
}
