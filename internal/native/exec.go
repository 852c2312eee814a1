package native

import (
	"context"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/linux"
	"hull/internal/proc"
	"hull/internal/stub"
	"hull/internal/task"
)

// Exec starts another process in a running container.
func (Engine) Exec(ctx context.Context, r *engine.ExecRequest) (*engine.Process, error) {
	t, err := newProcess(&r.Container, r.Process, r.Stdio)
	if err != nil {
		return nil, err
	}
	t.keyring = !r.NoNewKeyring
	t.status, t.initPid = specs.StateRunning, r.Init.Pid
	if r.Process.ExecCPUAffinity != nil {
		if t.affinity, err = task.CPUAffinity(r.Process.ExecCPUAffinity); err != nil {
			return nil, err
		}
	}
	report, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer report.Close()
	s, err := t.join(ctx, r, w)
	w.Close()
	if err != nil {
		return nil, err
	}
	p, err := t.execIn(ctx, s, r, report)
	if err != nil {
		s.Kill()
		return nil, err
	}
	return p, nil
}

// execIn makes a stub that is in the container the process that was asked for.
func (t *process) execIn(ctx context.Context, s *stub.Stub, r *engine.ExecRequest, report *os.File) (_ *engine.Process, err error) {
	p := &engine.Process{Init: engine.Init{Pid: s.Pid}, PidFD: s.PidFD}
	defer func() { closeSent(p, err) }()
	b := new(stub.Batch)
	t.enterSession(b)
	if t.terminal {
		openTerminal(b, ptmx, t.ConsoleSize)
	}
	t.plan(b, len(r.Extra))
	if err := t.become(b, s, p, len(r.Extra), s.Do); err != nil {
		return nil, err
	}
	if p.StartTime, err = proc.StartTime(p.Pid); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if r.Prepared != nil {
		if err := r.Prepared(p); err != nil {
			return nil, err
		}
	}
	b = new(stub.Batch)
	t.lastSteps(b, len(r.Extra), false)
	if err := s.Last(b, reportFD(len(r.Extra)), stub.ExitSetup); err != nil {
		return nil, err
	}
	return p, explainExec(stub.ReadReport(report, b.Steps(), stub.Timeout))
}

// enterSession emits what a process does first in its namespaces.
func (t *process) enterSession(b *stub.Batch) {
	b.In("")
	b.Call(unix.SYS_SETSID)
	if t.userns {
		becomeRoot(b, t.container.Spec.Linux)
	}
	t.joinKeyring(b)
}

// join returns a stub in the namespaces and cgroup of a running container. It has no descriptor but those of the
// process: where it is from now on, root of the container may trace it (CVE-2016-9962).
func (t *process) join(ctx context.Context, r *engine.ExecRequest, report *os.File) (*stub.Stub, error) {
	pidfd, err := proc.Open(r.Init)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	dir, err := startDir(r)
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
	}
	extra := append(slices.Clone(r.Extra), report, pidfd)
	cfg := stub.Config{Stdio: r.Stdio, Extra: extra, Cgroup: dir, Trace: stub.TraceLines(r.Trace)}
	if r.AwaitThaw {
		cfg.Patient = func() bool {
			stopped, err := r.Cgroup.Stopped()
			return err == nil && stopped && ctx.Err() == nil
		}
	}
	first, err := stub.Start(cfg)
	if err != nil {
		return nil, err
	}
	b := new(stub.Batch)
	setAffinity(b, "process.execCPUAffinity.initial", t.affinity.Initial)
	files, err := r.Cgroup.SubTaskFiles(r.Cgroups...)
	if err != nil {
		first.Kill()
		return nil, err
	}
	b.JoinTasks(files)
	if len(t.affinity.Initial) == 0 {
		b.AllCPUs()
	}
	b.In("linux.intelRdt")
	b.JoinTasks(r.RDT.TaskFiles())
	t.fromOutside(b)
	b.In("")
	joinInit(b, stub.Fd(stub.FirstExtra+len(r.Extra)+1), r.Spec, r.Init.Pid, r.Restored)
	t.opened += b.MaxOpened() + 1 // the pidfd is behind what the process has
	s, err := first.Fork(b, 0)
	if err != nil {
		first.Kill()
		return nil, err
	}
	if joined := dir != nil && first.InCgroup || dir == nil && len(files) > 0; !joined {
		warning, err := r.Cgroup.Join(ctx, s.Pid, r.Init.Pid, r.Cgroups...)
		if err != nil {
			s.Kill()
			return nil, err
		}
		if warning != "" {
			r.Warn(warning)
		}
	}
	if len(t.affinity.Final) > 0 {
		b := new(stub.Batch)
		setAffinity(b, "process.execCPUAffinity.final", t.affinity.Final)
		if err := s.Do(b); err != nil {
			s.Kill()
			return nil, err
		}
	}
	return s, nil
}

// startDir returns the cgroup of v2 that the process is started in, or nil. Beside v1 hierarchies it is the init's, which
// has no sub-cgroups: those are made of controllers, and v2 has none of them there.
func startDir(r *engine.ExecRequest) (*os.File, error) {
	if r.Cgroup.Mode() == cgroup.V2 {
		return r.Cgroup.SubDirFD(r.Cgroups...)
	}
	return r.Cgroup.DirFD()
}

func setAffinity(b *stub.Batch, field string, m task.Mask) {
	if len(m) == 0 {
		return
	}
	b.In(field)
	p := m.Bytes()
	b.Call(unix.SYS_SCHED_SETAFFINITY, stub.Int(0), stub.Int(len(p)), b.Const(p).Arg())
}

// joinInit emits setns for all namespaces of the container at once (setns(2) with a pidfd, Linux 5.8), which needs no
// order and can't be half done. Before, they are joined one by one.
func joinInit(b *stub.Batch, pidfd stub.FD, s *specs.Spec, pid int, restored bool) {
	var flags uint64
	if restored && !sameNamespace(pid, "time") {
		flags = unix.CLONE_NEWTIME
	}
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == specs.UserNamespace && sameNamespace(pid, "user") {
			continue // joining one's own user namespace is refused
		}
		flags |= cloneFlag(ns.Type)
	}
	if flags == 0 {
		b.Close(pidfd)
		return
	}
	set := b.Call(unix.SYS_SETNS, pidfd.Arg(), stub.Int(flags))
	b.Note("the container's namespaces")
	old, done := b.Label(), b.Label()
	b.OnErr(set, unix.EINVAL, old)
	b.Goto(done)
	b.Mark(old)
	for _, n := range linux.Namespaces {
		if flags&n.Flag == 0 {
			continue
		}
		fd := b.Openat(stub.CWD, proc.File(pid, "ns/"+n.File), unix.O_RDONLY, 0)
		b.Call(unix.SYS_SETNS, fd.Arg(), stub.Int(n.Flag))
		b.Note(n.File)
		b.Close(fd)
	}
	b.Mark(done)
	b.Close(pidfd)
}

func sameNamespace(pid int, file string) bool {
	theirs, err := os.Readlink(proc.File(pid, "ns/"+file))
	if err != nil {
		return false
	}
	ours, err := os.Readlink("/proc/self/ns/" + file)
	return err == nil && ours == theirs
}
