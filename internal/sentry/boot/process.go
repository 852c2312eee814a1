package boot

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/user"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/caps"
	"hull/internal/fault"
	"hull/internal/seccomp"
	"hull/internal/sentry/errno"
	"hull/internal/sentry/stream"
	"hull/internal/sentry/terminal"
	"hull/internal/task"
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
	k := c.kernel
	args := kernel.CreateProcessArgs{
		Argv: p.Args, Envv: p.Env, WorkingDirectory: p.Cwd, Credentials: credentials(p, k.RootUserNamespace()),
		NoNewPrivs: p.NoNewPrivileges, Umask: 0o022, MaxSymlinkTraversals: linux.MaxSymlinkTraversals,
		UTSNamespace: c.uts, IPCNamespace: c.ipc, PIDNamespace: c.pids,
		ContainerID: c.ID, MountNamespace: ns,
	}
	if p.User.Umask != nil {
		args.Umask = uint(*p.User.Umask)
	}
	if c.init != nil {
		args.Origin = kernel.OriginExec
	}
	ctx := args.NewContext(k)
	made := &process{}
	defer func() {
		if err != nil {
			c.abandon(ctx, made, ns, stdio)
		}
	}()
	filter, err := compile(c.Spec.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	if args.Limits, err = rlimits(p.Rlimits); err != nil {
		return nil, err
	}
	dir, err := openDir(ctx, &args)
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
	if args.Filename, err = find(ctx, &args, file); err != nil {
		return nil, err
	}
	args.FDTable = k.NewFDTable()
	defer args.FDTable.DecRef(ctx)
	in := &stream.Importer{Mount: k.HostMount(), User: p.User, Sockets: &c.hostSockets}
	if c.init == nil {
		in.Name = c.name()
	}
	own := stream.Count
	if p.Terminal {
		own = 1
	}
	if extra := stdio[own:]; len(extra) > 0 {
		stdio = stdio[:own]
		if err := in.Extra(ctx, args.FDTable, extra); err != nil {
			return nil, err
		}
	}
	if !p.Terminal {
		given := stdio
		stdio = nil
		if err := in.Streams(ctx, args.FDTable, [stream.Count]int(given), alike); err != nil {
			return nil, fmt.Errorf("standard streams: %w", errno.Of(err))
		}
		if c.init == nil {
			c.polled = in.Polled
		}
	}
	ns = nil                   // CreateProcess takes it, whatever comes of it
	args.WorkingDirectory = "" // the process alone might not get there
	if made.group, _, err = k.CreateProcess(args); err != nil {
		return nil, explainLoad(file, err)
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

// explainLoad returns why the kernel can't load a program that is there, which it says in words.
func explainLoad(name string, err error) error {
	e := &fault.Error{Field: "process.args[0]", Step: fmt.Sprintf("exec: %q", name), Err: errno.Of(err)}
	for no, hint := range map[unix.Errno]string{
		unix.ENOENT:  "the program is there, so its interpreter (the first line of a script, or the dynamic loader) is missing",
		unix.ENOEXEC: "no program of this machine's architecture, or a script without #! in its first line",
		unix.EACCES:  "",
	} {
		if strings.HasSuffix(err.Error(), ": "+no.Error()) {
			e.Err, e.Hint = no, hint
		}
	}
	return e
}

func credentials(p *specs.Process, users *auth.UserNamespace) *auth.Credentials {
	groups := make([]auth.KGID, 0, len(p.User.AdditionalGids))
	for _, g := range p.User.AdditionalGids {
		groups = append(groups, auth.KGID(g))
	}
	sets, _ := caps.FromSpec(p.Capabilities) // hull has warned of those that are unknown
	// As the kernel has it, and as in native isolation (capset(2), PR_CAP_AMBIENT_RAISE).
	sets.Effective &= sets.Permitted
	sets.Ambient &= sets.Permitted & sets.Inheritable
	return auth.NewUserCredentials(auth.KUID(p.User.UID), auth.KGID(p.User.GID), groups, &auth.TaskCapabilities{
		PermittedCaps:   auth.CapabilitySet(sets.Permitted),
		EffectiveCaps:   auth.CapabilitySet(sets.Effective),
		InheritableCaps: auth.CapabilitySet(sets.Inheritable),
		BoundingCaps:    auth.CapabilitySet(sets.Bounding),
		AmbientCaps:     auth.CapabilitySet(sets.Ambient),
	}, users)
}

// rlimits returns the limits of a process: Linux's own, for which none is given.
func rlimits(list []specs.POSIXRlimit) (*limits.LimitSet, error) {
	set, err := limits.NewLinuxLimitSet()
	if err != nil {
		return nil, err
	}
	for i, l := range list {
		t, ok := limits.FromLinuxResourceName[l.Type]
		if !ok {
			return nil, &fault.Error{Field: fmt.Sprintf("process.rlimits[%d]", i), Kind: fault.Unsupported,
				Err: fmt.Errorf("not possible in sandbox isolation: its kernel has no %s", l.Type)}
		}
		set.SetUnchecked(t, limits.Limit{Cur: limits.FromLinux(l.Soft), Max: limits.FromLinux(l.Hard)})
	}
	return set, nil
}

// compile returns the filter of system calls, in the form in which the sandbox's kernel interprets it.
func compile(s *specs.LinuxSeccomp) (*bpf.Program, error) {
	p, err := seccomp.Compile(s)
	if err != nil || p == nil {
		return nil, err
	}
	code := make([]bpf.Instruction, len(p.Filter))
	for i, in := range p.Filter {
		if in.Code == unix.BPF_RET|unix.BPF_K && in.K == uint32(linux.SECCOMP_RET_KILL_PROCESS) {
			// What is left of it is for calls of other architectures, which can't be made here.
			in.K = uint32(linux.SECCOMP_RET_KILL_THREAD)
		}
		code[i] = bpf.Instruction{OpCode: in.Code, JumpIfTrue: in.Jt, JumpIfFalse: in.Jf, K: in.K}
	}
	program, err := bpf.Compile(code, true)
	if err != nil {
		return nil, &fault.Error{Field: "linux.seccomp", Err: err}
	}
	return &program, nil
}

// openDir returns the working directory, which may be one that only the container's root can enter, or only the user.
func openDir(ctx context.Context, args *kernel.CreateProcessArgs) (dir vfs.VirtualDentry, first error) {
	root := args.MountNamespace.Root(ctx)
	defer root.DecRef(ctx)
	for _, creds := range []*auth.Credentials{args.Credentials, auth.NewRootCredentials(args.Credentials.UserNamespace)} {
		dir, err := root.Mount().Filesystem().VirtualFilesystem().GetDentryAt(ctx, creds,
			&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(args.WorkingDirectory), FollowFinalSymlink: true},
			&vfs.GetDentryOptions{CheckSearchable: true})
		if err == nil {
			return dir, nil
		}
		if first == nil {
			first = err
		}
	}
	return dir, first
}

// find returns the path of the program, which the process must be able to execute.
func find(ctx context.Context, args *kernel.CreateProcessArgs, name string) (string, error) {
	var tried []task.Tried
	for _, file := range task.Candidates(name, args.Envv) {
		if !path.IsAbs(file) {
			file = args.WorkingDirectory + "/" + file // not path.Join: a link may be before ".."
		}
		err := executable(ctx, args, file)
		if err == nil {
			return file, nil
		}
		no, ok := errno.Of(err).(unix.Errno)
		if !ok {
			return "", err
		}
		if isDirectory(ctx, args, file) {
			no = unix.EISDIR
		}
		tried = append(tried, task.Tried{File: file, Err: no})
	}
	return "", task.NotFound(name, args.Envv, tried)
}

// executable tells whether the process may execute the file.
func executable(ctx context.Context, args *kernel.CreateProcessArgs, file string) error {
	root := args.MountNamespace.Root(ctx)
	defer root.DecRef(ctx)
	f, err := root.Mount().Filesystem().VirtualFilesystem().OpenAt(ctx, args.Credentials,
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(file), FollowFinalSymlink: true},
		&vfs.OpenOptions{Flags: linux.O_RDONLY, FileExec: true})
	if err == nil {
		f.DecRef(ctx)
	}
	return err
}

func isDirectory(ctx context.Context, args *kernel.CreateProcessArgs, file string) bool {
	root := args.MountNamespace.Root(ctx)
	defer root.DecRef(ctx)
	st, err := root.Mount().Filesystem().VirtualFilesystem().StatAt(ctx, args.Credentials,
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(file), FollowFinalSymlink: true},
		&vfs.StatOptions{Mask: linux.STATX_TYPE})
	return err == nil && st.Mode&linux.S_IFMT == linux.S_IFDIR
}
