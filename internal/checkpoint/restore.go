package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/criu"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/proc"
	"hull/internal/rootfs"
	"hull/internal/stub"
)

// restoreLog is the name of CRIU's log of a restoration.
const restoreLog = "restore.log"

// restoration is one call of Restore.
type restoration struct {
	*engine.RestoreRequest
	ctx     context.Context
	streams criu.Streams
	mounts  []external
	files   []*os.File // what CRIU inherits
	process *engine.Process
	console *os.File
	cgroup  []*rpc.CgroupRoot
	empty   bool // the network namespace is left empty
}

// Restore makes a container of one that was saved.
//
// CRIU runs in the container's cgroup, in a mount namespace of its own where the root file system is a mount, as CRIU wants
// it: nothing of that is left on the host, whoever is killed. The container's first process is its sibling, a child of this
// program's. Up to the notification "post-restore" none of the container's processes runs.
func Restore(ctx context.Context, r *engine.RestoreRequest) (_ *engine.Process, err error) {
	c := &restoration{RestoreRequest: r, ctx: ctx}
	if c.streams, err = criu.ReadStreams(r.Image.Dir); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range c.files {
			f.Close()
		}
		if c.console != nil {
			c.console.Close()
		}
	}()
	if err := r.Cgroup.Create(); err != nil {
		return nil, err
	}
	if err := c.prepareMounts(); err != nil {
		return nil, err
	}
	s, err := c.start()
	if err != nil {
		return nil, err
	}
	defer s.end()
	if err := c.options(s); err != nil {
		return nil, err
	}
	siblings, err := siblingsOf(s.process.Pid)
	if err != nil {
		return nil, err
	}
	if err := s.run(ctx, rpc.CriuReqType_RESTORE, c.notified); err != nil {
		s.wait()
		siblings.reap()
		return nil, errors.Join(err, c.undo())
	}
	if c.process == nil {
		return nil, errors.Join(errors.New("CRIU has told of no restored process"), c.undo())
	}
	return c.process, nil
}

// check refuses what CRIU can't restore, before anything is changed.
func (c *restoration) check() error {
	for i, ns := range c.Spec.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d].path %q", i, ns.Path)
		if ns.Path != "" && ns.Type == specs.CgroupNamespace {
			return &fault.Error{Field: field, Kind: fault.Unsupported,
				Err: errors.New("CRIU can't restore into another's cgroup namespace")}
		}
	}
	if !engine.HasNamespace(c.Spec, specs.MountNamespace) {
		return &fault.Error{Field: "linux.namespaces", Kind: fault.Unsupported,
			Err: errors.New("a container in the host's mount namespace can't be restored")}
	}
	if ownNetwork(c.Spec) {
		has, err := hasNetwork(&c.Image)
		if err != nil {
			return err
		}
		c.empty = !has || slices.Contains(c.Image.EmptyNS, "network")
	}
	if c.Spec.Root == nil {
		return &fault.Error{Field: "root.path", Kind: fault.BadSpec, Err: errors.New("missing")}
	}
	return nil
}

// prepareMounts makes what is mounted on in the root file system, as at a creation: in a mount namespace that ends with it.
// It finds out where the mounts lead.
func (c *restoration) prepareMounts() error {
	s := *c.Spec
	s.Mounts = slices.Clone(s.Mounts)
	for i, m := range s.Mounts {
		switch {
		case m.Type == "proc" || m.Type == "sysfs": // have a place where nothing else may be
		case m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"):
		default: // its place has to be there, and takes places for others
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"}
		}
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return slices.Contains(m.Options, "remount") })
	l := *s.Linux
	l.MaskedPaths, l.ReadonlyPaths, l.RootfsPropagation, l.MountLabel = nil, nil, "", ""
	s.Linux = &l
	plan, err := rootfs.New(rootfs.Config{Spec: &s, Bundle: c.Bundle, Kernel: rootfs.Probe()})
	if err != nil {
		return err
	}
	sources, err := plan.Sources()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range sources {
			f.Close()
		}
	}()
	st, err := stub.Start(stub.Config{Trace: stub.TraceLines(c.Trace)})
	if err != nil {
		return err
	}
	defer st.Kill()
	b := new(stub.Batch)
	b.In("mounts")
	b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWNS))
	b.Note("mnt")
	var fds []stub.FD
	if len(sources) > 0 {
		fds = b.RecvFDs(len(sources))
	}
	plan.Prepare(b, fds)
	if err := st.Send(b); err != nil {
		return err
	}
	if len(sources) > 0 {
		if err := st.PassFDs(sources...); err != nil {
			return err
		}
	}
	if err := st.Receive(); err != nil {
		return plan.Explain(err)
	}
	root, err := unix.Open(proc.File(st.Pid, "root")+c.Root(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: c.Root(), Err: err}
	}
	dir := os.NewFile(uintptr(root), c.Root())
	defer dir.Close()
	points, err := pointsBelow(dir)
	if err != nil {
		return err
	}
	c.mounts, err = externals(&c.Container, points)
	return err
}

// start starts CRIU where the container is to be.
func (c *restoration) start() (*service, error) {
	o := launch{image: &c.Image, spec: c.Spec, log: restoreLog, trace: c.Trace, steps: c.surround}
	if c.Image.ShellJob {
		o.stdin = c.Stdio[0]
	}
	for i, s := range c.streams {
		if criu.External(s) {
			f, err := c.stream(i)
			if err != nil {
				return nil, err
			}
			c.files = append(c.files, f)
		}
	}
	for i, ns := range c.Spec.Linux.Namespaces {
		if key := externalKey(ns); key != "" {
			f, err := os.Open(ns.Path)
			if err != nil {
				return nil, &fault.Error{Field: fmt.Sprintf("linux.namespaces[%d].path %q", i, ns.Path), Err: err}
			}
			c.files = append(c.files, f)
		}
	}
	o.extra = c.files
	dir, err := c.Cgroup.DirFD()
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
		o.cgroup = dir
	}
	o.joined = func(s *stub.Stub) error {
		if dir == nil && len(c.Cgroup.TaskFiles()) == 0 || dir != nil && !s.InCgroup {
			if err := c.Cgroup.Add(c.ctx, s.Pid); err != nil {
				return err
			}
		}
		var err error
		c.cgroup, err = cgroupRoots(s.Pid)
		return err
	}
	return startCRIU(c.ctx, o)
}

// stream returns a descriptor of its own of a new standard stream.
func (c *restoration) stream(i int) (*os.File, error) {
	if c.Stdio[i] == nil {
		return os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	fd, err := unix.FcntlInt(c.Stdio[i].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	return os.NewFile(uintptr(fd), c.Stdio[i].Name()), nil
}

// externalKey returns the key of a namespace that CRIU is given as a descriptor, or "".
func externalKey(ns specs.LinuxNamespace) string {
	for _, e := range externalNamespaces {
		if ns.Type == e.kind && ns.Path != "" {
			return e.key
		}
	}
	return ""
}

// surround emits what CRIU, and so the container, is in: its cgroups, a session keyring, and a mount namespace where the root
// file system is a mount.
func (c *restoration) surround(b *stub.Batch) {
	c.JoinGroups(b)
	if !c.NoNewKeyring {
		b.JoinKeyring(c.Keyring())
	}
	b.AllCPUs()
	if c.Image.ShellJob {
		// The container's processes are of the caller's session, and of the job that it is.
		b.Call(unix.SYS_SETPGID, stub.Int(0), stub.Int(unix.Getpgrp()))
	}
	b.In("root.path")
	b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWNS))
	b.Note("mnt")
	b.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
	at := b.Openat(stub.CWD, c.Root(), unix.O_PATH|unix.O_DIRECTORY, 0)
	tree := b.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	b.Note(c.Root())
	b.MoveMount(tree, at)
	b.Note(c.Root())
	b.Close(tree)
	b.Close(at)
}

// options completes what CRIU is told.
func (c *restoration) options(s *service) error {
	o := s.options
	const label = 31600
	if c.LSMProfile != "" || c.LSMMountContext != "" {
		if err := s.needs(label, "another security profile or context"); err != nil {
			return err
		}
	}
	o.EvasiveDevices, o.RstSibling, o.Root = ptr(true), ptr(true), ptr(c.Root())
	o.CgRoot = c.cgroup
	if c.empty {
		o.EmptyNs = emptyNetwork()
	}
	if c.LSMProfile != "" {
		o.LsmProfile = &c.LSMProfile
	}
	if c.LSMMountContext != "" {
		o.LsmMountContext = &c.LSMMountContext
	}
	for _, e := range c.mounts {
		o.ExtMnt = append(o.ExtMnt, &rpc.ExtMountMap{Key: &e.name, Val: &e.source})
	}
	fd := int32(firstInherited)
	for _, s := range c.streams {
		if criu.External(s) {
			o.InheritFd = append(o.InheritFd, &rpc.InheritFd{Key: &s, Fd: ptr(fd)})
			fd++
			if strings.HasPrefix(s, "file[") {
				// What takes the place of a named pipe may be one with other permissions, or without a name.
				o.SkipFileRwxCheck = ptr(true)
			}
		}
	}
	for _, ns := range c.Spec.Linux.Namespaces {
		switch key := externalKey(ns); {
		case key != "":
			o.InheritFd = append(o.InheritFd, &rpc.InheritFd{Key: &key, Fd: ptr(fd)})
			fd++
		case ns.Path != "":
			o.JoinNs = append(o.JoinNs, &rpc.JoinNamespace{Ns: ptr(namespaceFile(ns.Type)), NsFile: &ns.Path})
		}
	}
	return nil
}

// notified does what belongs to a step of CRIU's.
func (c *restoration) notified(n criu.Notification) error {
	if n.Step == "orphan-pts-master" && n.File != nil && c.console == nil {
		c.console = n.File
		return nil
	}
	if n.File != nil {
		n.File.Close()
	}
	switch n.Step {
	case "setup-namespaces":
		if c.empty {
			if err := upLoopback(n.Pid); err != nil {
				return err
			}
		}
		if c.Hooks != nil {
			return c.Hooks(n.Pid)
		}
	case "post-restore":
		return c.restored(n.Pid)
	}
	return nil
}

// restored takes over the container's first process, which CRIU has named, while nothing of the container runs.
func (c *restoration) restored(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	p := &engine.Process{Init: engine.Init{Pid: pid}, PidFD: os.NewFile(uintptr(fd), "pidfd"), Console: c.console}
	c.process, c.console = p, nil
	if p.StartTime, err = proc.StartTime(pid); err != nil {
		return err
	}
	if err := c.isOurs(pid); err != nil {
		return fmt.Errorf("process %d, which CRIU says it has restored: %w", pid, err)
	}
	if err := c.Cgroup.Limit(c.ctx); err != nil {
		return err
	}
	if c.Forked != nil {
		if err := c.Forked(p.Init); err != nil {
			return err
		}
	}
	if c.Prepared != nil {
		return c.Prepared(p)
	}
	return nil
}

// isOurs tells whether a process is a child of this one's, and in the container's cgroup.
func (c *restoration) isOurs(pid int) error {
	if !isChild(pid) {
		return errors.New("is no child of hull's")
	}
	if !c.Cgroup.Tracks() {
		return nil
	}
	pids, err := c.Cgroup.Pids(true)
	if err == nil && !slices.Contains(pids, pid) {
		err = errors.New("is not in the container's cgroup")
	}
	return err
}

// undo ends what CRIU has left of a restoration that failed.
func (c *restoration) undo() error {
	p := c.process
	if p == nil {
		return nil
	}
	_ = unix.PidfdSendSignal(int(p.PidFD.Fd()), unix.SIGKILL, nil, 0)
	if p.Console != nil {
		p.Console.Close()
	}
	err := proc.WaitEnded(c.ctx, p.Init, p.PidFD)
	_, _ = (&stub.Stub{Pid: p.Pid, PidFD: p.PidFD}).Wait()
	return err
}

// cgroupRoots returns where CRIU is, for it to restore the container's processes below it.
func cgroupRoots(pid int) ([]*rpc.CgroupRoot, error) {
	b, err := os.ReadFile(proc.File(pid, "cgroup"))
	if err != nil {
		return nil, err
	}
	var roots []*rpc.CgroupRoot
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("%s: %q", proc.File(pid, "cgroup"), line)
		}
		for controller := range strings.SplitSeq(f[1], ",") {
			roots = append(roots, &rpc.CgroupRoot{Ctrl: &controller, Path: &f[2]})
		}
	}
	return roots, nil
}

// namespaceFile returns CRIU's name of a kind of namespaces, which is that of the file in /proc/PID/ns.
func namespaceFile(t specs.LinuxNamespaceType) string {
	for _, n := range linux.Namespaces {
		if n.Name == string(t) {
			return n.File
		}
	}
	panic("bug: unknown namespace type " + string(t))
}
