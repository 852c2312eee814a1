package native

import (
	"context"
	"errors"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// fork makes the namespaces and the container's init in them.
func (c *creation) fork(first *stub.Stub) (*stub.Stub, error) {
	pre := new(stub.Batch)
	joined, err := c.enterCgroup(first, pre)
	if err != nil {
		return nil, err
	}
	pre.In("linux.intelRdt")
	pre.JoinTasks(c.RDT.TaskFiles())
	c.process.fromOutside(pre)
	joinNamespaces(pre, c.ns.join)
	if pre, err = unshareEarly(c.ctx, first, pre, c.ns, c.Spec.Linux, c.privileged); err != nil {
		return nil, err
	}
	pre.In("linux.namespaces")
	if err := first.SendFork(pre, c.ns.clone, nil, c.ns.loopbackUp(pre)); err != nil {
		return nil, err
	}
	// The kernel takes its time for the namespaces; hull says meanwhile what comes next.
	c.process.opened += pre.MaxOpened()
	planErr := c.plan()
	init, err := first.ReceiveFork()
	if err != nil {
		return nil, explainNamespaces(err, c.ns.newUser)
	}
	if planErr != nil {
		init.Kill()
		return nil, planErr
	}
	return c.inCgroup(init, joined)
}

// inCgroup returns the init when it is in its cgroup: it is moved there unless it has joined by itself.
func (c *creation) inCgroup(init *stub.Stub, joined bool) (*stub.Stub, error) {
	if joined {
		return init, nil
	}
	if err := c.Cgroup.Add(c.ctx, init.Pid); err != nil {
		init.Kill()
		return nil, err
	}
	return init, nil
}

// enterCgroup emits what moves the first stub, and so all that it clones, into the container's cgroup. It is false
// where someone else has to move the init: systemd, or hull if the stub could not be started in the cgroup.
func (c *creation) enterCgroup(first *stub.Stub, b *stub.Batch) (bool, error) {
	files := c.Cgroup.TaskFiles()
	b.In("linux.cgroupsPath")
	b.JoinTasks(files)
	dir, err := c.Cgroup.DirFD()
	if dir != nil {
		dir.Close()
		return first.InCgroup, err
	}
	return len(files) > 0, err
}

// unshareEarly makes the namespaces that need the parent's help before anyone is in them: the user namespace gets its
// maps, unless they are such as the stub can write, the time namespace its offsets. The others are then cloned by the stub, as
// root of its user namespace. It returns the batch that this begins with, which is b if there are no such namespaces.
func unshareEarly(ctx context.Context, first *stub.Stub, b *stub.Batch, ns namespaces, l *specs.Linux, privileged bool) (*stub.Batch, error) {
	if !ns.newUser && !ns.newTime {
		return b, nil
	}
	var flags uint64
	if ns.newUser {
		flags |= unix.CLONE_NEWUSER
		// Only of a dumpable process can an unprivileged parent write the files. Nobody else is in the namespace yet.
		if !privileged {
			b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(1))
		}
	}
	if ns.newTime {
		flags |= unix.CLONE_NEWTIME
	}
	b.In("linux.namespaces")
	b.Call(unix.SYS_UNSHARE, stub.Int(flags))
	b.Note(stub.NamespaceNames(flags))
	if ns.newUser && !ns.newTime && !privileged && ownIDs(l) {
		// The stub needs no help, and nobody is waited for.
		mapOwnIDs(b, l)
		b.In("linux.namespaces")
		b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(0))
		becomeRoot(b, l)
		return b, nil
	}
	if err := first.Do(b); err != nil {
		if ns.newTime && errors.Is(err, unix.EINVAL) {
			return nil, &fault.Error{Field: "linux.namespaces", Kind: fault.Unsupported,
				Err: errors.New("time namespaces need Linux 5.6 with CONFIG_TIME_NS")}
		}
		return nil, explainNamespaces(err, ns.newUser)
	}
	if ns.newTime {
		if err := writeTimeOffsets(first.Pid, l.TimeOffsets); err != nil {
			return nil, err
		}
	}
	b = new(stub.Batch)
	if !ns.newUser {
		return b, nil
	}
	if err := mapIDs(ctx, first.Pid, l, privileged); err != nil {
		return nil, err
	}
	b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(0))
	becomeRoot(b, l)
	return b, nil
}

// becomeRoot takes id 0 of the user namespace that the stub is in. In one that maps no id 0 the stub stays who it is,
// with all capabilities there.
func becomeRoot(b *stub.Batch, l *specs.Linux) {
	root := func(m specs.LinuxIDMapping) bool { return m.ContainerID == 0 && m.Size > 0 }
	if len(l.UIDMappings) > 0 && !slices.ContainsFunc(l.UIDMappings, root) {
		return
	}
	b.In("linux.uidMappings")
	b.Call(unix.SYS_SETRESGID, stub.Int(0), stub.Int(0), stub.Int(0))
	b.Call(unix.SYS_SETRESUID, stub.Int(0), stub.Int(0), stub.Int(0))
}
