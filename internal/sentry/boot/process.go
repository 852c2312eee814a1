package boot

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/user"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/sentry/errno"
	"hull/internal/sentry/stream"
	"hull/internal/sentry/task"
	"hull/internal/sentry/terminal"
)

// create makes the container's first process.
func (c *container) create() error {
	var err error
	if c.mounts == nil {
		if c.mounts, err = c.prepareMounts(); err != nil {
			return err
		}
	}
	ns, err := c.mounts.Attach()
	c.mounts = nil
	if err != nil {
		return err
	}
	c.kernel.RegisterContainerName(c.ID, c.name())
	streams := c.Streams
	c.Streams = nil // newProcess has them, whatever comes of it
	c.init, err = c.newProcess(c.Spec.Process, "", ns, streams, c.Same)
	if err != nil {
		return err
	}
	if c.init.terminal != nil {
		leader := c.init.group.Leader()
		if err := c.files().BindConsole(leader.AsyncContext(), c.init.terminal.Path()); err != nil {
			return errno.InField("/dev/console", err)
		}
	}
	if adj := c.Spec.Process.OOMScoreAdj; adj != nil {
		if err := c.init.group.Leader().SetOOMScoreAdj(int32(*adj)); err != nil {
			return &fault.Error{Field: "process.oomScoreAdj", Err: errno.Of(err)}
		}
	}
	return nil
}

// containerName is what the kernel calls the first container, by whatever id it goes: a name that stays when it is restored by
// another one.
const containerName = "/" // which is no id

func (c *container) name() string {
	if c == c.root {
		return containerName
	}
	return c.ID
}

// process is a process that hull has asked for: the container's first, or one of exec.
type process struct {
	group    *kernel.ThreadGroup
	terminal *terminal.Terminal // or nil
}

// wait waits for the end of the process, and of what it has written.
func (p *process) wait() unix.WaitStatus {
	p.group.WaitExited()
	ws := unix.WaitStatus(p.group.ExitStatus())
	if p.terminal != nil {
		p.terminal.Leave(ws)
	}
	return ws
}

// newProcess makes a process that waits to be started. It takes over a reference to ns, and the streams; alike says which of
// these are the same as others. With a terminal there is one stream only, the host's slave.
// What comes behind the streams are further descriptors of the process, from 3 on. file is the program, unless that is
// what the first argument names.
func (c *container) newProcess(p *specs.Process, file string, ns *vfs.MountNamespace, stdio []int, alike [3]int) (_ *process, err error) {
	k, args := c.kernel, c.processArgs(p, ns)
	ctx := args.NewContext(k)
	made := &process{}
	defer func() {
		if err != nil {
			c.abandon(ctx, made, ns, stdio)
		}
	}()
	filter, err := task.Filter(c.Spec.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	if args.Limits, err = task.Limits(p.Rlimits); err != nil {
		return nil, err
	}
	dir, err := task.OpenDir(ctx, &args)
	if err != nil {
		return nil, &fault.Error{Field: "process.cwd", Step: fmt.Sprintf("chdir %q", p.Cwd), Err: errno.Of(err)}
	}
	defer dir.DecRef(ctx)
	if args.Envv, err = user.MaybeAddExecUserHome(ctx, ns, auth.KUID(p.User.UID), args.Envv); err != nil {
		return nil, &fault.Error{Field: "process.env", Err: err}
	}
	if file == "" {
		file = p.Args[0]
	}
	if args.Filename, err = task.Find(ctx, &args, file); err != nil {
		return nil, err
	}
	args.FDTable = k.NewFDTable()
	defer args.FDTable.DecRef(ctx)
	if stdio, err = c.giveStreams(ctx, args.FDTable, p, stdio, alike); err != nil {
		return nil, err
	}
	ns = nil                   // CreateProcess takes it, whatever comes of it
	args.WorkingDirectory = "" // the process alone might not get there
	if made.group, _, err = k.CreateProcess(args); err != nil {
		return nil, task.ExplainLoad(file, err)
	}
	made.group.Leader().FSContext().SetWorkingDirectory(ctx, dir)
	if p.Terminal {
		slave := stdio[0]
		stdio = nil
		if made.terminal, err = c.terminals.New(k, terminal.Process{
			Group: made.group, Table: args.FDTable, Mounts: c.Spec.Mounts, Bundle: c.Bundle}, slave); err != nil {
			return nil, errno.InField("process.terminal", err)
		}
	}
	if filter != nil {
		if err := made.group.Leader().AppendSyscallFilter(*filter, true); err != nil {
			return nil, &fault.Error{Field: "linux.seccomp", Err: errno.Of(err)}
		}
	}
	return made, nil
}

// processArgs returns what a process is made of, as far as its configuration and the container say it.
func (c *container) processArgs(p *specs.Process, ns *vfs.MountNamespace) kernel.CreateProcessArgs {
	args := kernel.CreateProcessArgs{
		Argv: p.Args, Envv: p.Env, WorkingDirectory: p.Cwd, Credentials: task.Credentials(p, c.kernel.RootUserNamespace()),
		NoNewPrivs: p.NoNewPrivileges, Umask: 0o022, MaxSymlinkTraversals: linux.MaxSymlinkTraversals,
		UTSNamespace: c.uts, IPCNamespace: c.ipc, PIDNamespace: c.pids,
		ContainerID: c.ID, MountNamespace: ns, InitialCgroupV2: c.group.node, CgroupNamespace: c.group.ns,
	}
	if p.User.Umask != nil {
		args.Umask = uint(*p.User.Umask)
	}
	if c.init != nil {
		args.Origin = kernel.OriginExec
	}
	return args
}

// giveStreams puts the streams and further descriptors into a process's table. left are those that it has not taken over: a
// terminal's slave.
func (c *container) giveStreams(ctx context.Context, table *kernel.FDTable, p *specs.Process, stdio []int, alike [3]int) (left []int, err error) {
	in := &stream.Importer{Mount: c.kernel.HostMount(), User: p.User, Sockets: &c.hostSockets}
	if c.init == nil {
		in.Name = c.name()
	}
	own := stream.Count
	if p.Terminal {
		own = 1
	}
	left = stdio[:own]
	if extra := stdio[own:]; len(extra) > 0 {
		if err := in.Extra(ctx, table, extra); err != nil {
			return left, err
		}
	}
	if p.Terminal {
		return left, nil
	}
	if err := in.Streams(ctx, table, [stream.Count]int(left), alike); err != nil {
		return nil, fmt.Errorf("standard streams: %w", errno.Of(err))
	}
	if c.init == nil {
		c.polled = in.Polled
	}
	return nil, nil
}

// abandon gives up what was made of a process that can't be, and what of its parts was not used yet.
func (c *container) abandon(ctx context.Context, p *process, ns *vfs.MountNamespace, stdio []int) {
	for _, fd := range stdio {
		unix.Close(fd)
	}
	if p.terminal != nil {
		p.terminal.Close()
	}
	if ns != nil {
		ns.DecRef(ctx)
	}
	if p.group != nil && c.isAwake() { // else there are none that run
		c.kill(p.group)
		c.kernel.StartProcess(p.group)
	}
}
