package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/stub"
)

// stderrTail is how much of a hook's output an error has.
const stderrTail = 4096

func (c *creation) hasContainerHooks() bool {
	return c.Spec.Hooks != nil && len(c.Spec.Hooks.CreateContainer) > 0
}

// containerHooks runs the createContainer hooks: in the container's namespaces, with the host's files still visible
// (config.md, "CreateContainer Hooks").
func (c *creation) containerHooks() error {
	if !c.hasContainerHooks() {
		return nil
	}
	s, err := c.hookStub()
	if err != nil {
		return err
	}
	defer s.Kill()
	state := engine.HookState(&c.Container, c.init.Pid, specs.StateCreating)
	return runHooks(c.ctx, s, "hooks.createContainer", c.Spec.Hooks.CreateContainer, nil, state)
}

// hookStub returns a stub in the namespaces and cgroup of the init. The init itself can't clone hooks that hull may
// wait for: the first process of a pid namespace must not use CLONE_PARENT (clone(2)).
func (c *creation) hookStub() (*stub.Stub, error) {
	dir, err := c.Cgroup.DirFD()
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
	}
	first, err := stub.Start(stub.Config{Extra: []*os.File{c.init.PidFD}, Cgroup: dir, Trace: traceFunc(c.Trace)})
	if err != nil {
		return nil, err
	}
	b := new(stub.Batch)
	b.In("hooks.createContainer")
	enterTaskFiles(b, c.Cgroup.TaskFiles())
	joinInit(b, stub.Fd(stub.FirstExtra), c.Spec, c.init.Pid)
	s, err := first.Fork(b, 0)
	if err != nil {
		first.Kill()
		return nil, err
	}
	b = new(stub.Batch)
	if c.process.userns {
		becomeRoot(b, c.Spec.Linux)
	}
	if c.root != nil {
		// The specification leaves the directory open. Hooks written for other runtimes expect the container's root.
		b.In("hooks.createContainer")
		b.Call(unix.SYS_CHDIR, b.String(c.Root()).Arg())
	}
	if err := s.Do(b); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

// StartHooks runs the startContainer hooks: in the container, with the rights of its process, after start was asked
// for and before the program runs (config.md, "StartContainer Hooks").
func (Engine) StartHooks(ctx context.Context, r *engine.ExecRequest) error {
	if r.Spec.Hooks == nil || len(r.Spec.Hooks.StartContainer) == 0 {
		return nil
	}
	t, err := newProcess(&r.Container, r.Spec.Process, [3]*os.File{})
	if err != nil {
		return err
	}
	t.terminal = false
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	s, err := t.join(ctx, r, null)
	if err != nil {
		return err
	}
	defer s.Kill()
	b := new(stub.Batch)
	t.enterSession(b)
	t.settings(b)
	t.openPasswd(b)
	if err := s.Do(b); err != nil {
		return err
	}
	if err := t.takeFiles(s.Files(), new(engine.Process)); err != nil {
		return err
	}
	b = new(stub.Batch)
	t.changeUser(b)
	t.confine(b)
	if t.seccompLate() {
		loadSeccomp(b, t.seccomp)
	}
	if err := s.Do(b); err != nil {
		return t.explain(err)
	}
	state := engine.HookState(&r.Container, r.Init.Pid, specs.StateCreated)
	return runHooks(ctx, s, "hooks.startContainer", r.Spec.Hooks.StartContainer, t.env, state)
}

func runHooks(ctx context.Context, s *stub.Stub, name string, hooks []specs.Hook, env []string, state []byte) error {
	for i, h := range hooks {
		if h.Env == nil {
			h.Env = env
		}
		if err := runHook(ctx, s, h, state); err != nil {
			return &fault.Error{Field: fmt.Sprintf("%s[%d] %q", name, i, h.Path), Err: err}
		}
	}
	return nil
}

// runHook lets the stub clone a process that becomes the hook, and waits for it. It is the stub's child, not hull's: the
// init of a pid namespace can't give its children away (clone(2), CLONE_PARENT).
func runHook(ctx context.Context, s *stub.Stub, h specs.Hook, state []byte) error {
	stdin, err := memfile(state)
	if err != nil {
		return err
	}
	defer stdin.Close()
	output, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	err = startHook(s, h, stdin, w)
	w.Close()
	if err != nil {
		return err
	}
	pidfd := s.Files()
	if len(pidfd) != 1 {
		return stub.ErrGone
	}
	defer pidfd[0].Close()
	expired := waitHook(ctx, pidfd[0], h.Timeout)
	// A grandchild may keep the pipe open for ever.
	output.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	said := readTail(output)
	err = hookStatus(s)
	if expired != nil {
		err = expired
	}
	if err != nil && said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// startHook emits the clone. The child is in the stub's namespaces; its output is the pipe w. As with vfork(2) it shares
// the stub's memory until it is another program, and so its failures are there for the stub to report.
func startHook(s *stub.Stub, h specs.Hook, stdin, w *os.File) error {
	b := new(stub.Batch)
	fds := b.RecvFDs(2)
	pidfd := b.Out(4)
	pid := b.Call(unix.SYS_CLONE, stub.Int(unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PIDFD|uint64(unix.SIGCHLD)), stub.Int(0), pidfd.Arg())
	parent, exit := b.Label(), b.Label()
	b.OnErr(b.Assert(pid.Arg(), ^uint64(0), 0, unix.EAGAIN, "in the child"), 0, parent)
	b.Dup3(fds[0], 0, 0)
	b.Dup3(fds[1], 1, 0)
	b.Dup3(fds[1], 2, 0)
	b.Ignore(b.Call(unix.SYS_CLOSE_RANGE, stub.Int(3), stub.Int(uint32(1<<32-1)), stub.Int(unix.CLOSE_RANGE_CLOEXEC)), 0)
	none := b.Const(make([]byte, 8))
	b.Call(unix.SYS_RT_SIGPROCMASK, stub.Int(unix.SIG_SETMASK), none.Arg(), stub.Int(0), stub.Int(8))
	exec := b.Execve(h.Path, hookArgs(h), h.Env)
	b.OnErr(exec, 0, exit)
	b.Mark(exit)
	b.Call(unix.SYS_EXIT_GROUP, stub.Int(exitSetup))
	b.Mark(parent)
	fd := b.Load(pidfd, 0)
	b.SendFDs(fd.Arg())
	b.Close(fd.FD())
	b.Close(fds[0])
	b.Close(fds[1])
	if err := s.Send(b); err != nil {
		return err
	}
	if err := s.PassFDs(stdin, w); err != nil {
		return err
	}
	if err := s.Receive(); err != nil {
		return err
	}
	if errno := b.Errno(exec); errno != 0 {
		return os.NewSyscallError("execve", errno)
	}
	return nil
}

func hookArgs(h specs.Hook) []string {
	if len(h.Args) == 0 {
		return []string{h.Path}
	}
	return h.Args
}

// waitHook waits for the hook's end, for as long as it may take, and kills it then.
func waitHook(ctx context.Context, pidfd *os.File, timeout *int) error {
	if timeout != nil {
		cause := fmt.Errorf("killed after its timeout of %d s", *timeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*timeout)*time.Second, cause)
		defer cancel()
	}
	if err := WaitGone(ctx, pidfd); err == nil {
		return nil
	}
	cause := context.Cause(ctx)
	unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
	if err := WaitGone(context.Background(), pidfd); err != nil {
		return err
	}
	return cause
}

// hookStatus lets the stub reap the hook, which has ended.
func hookStatus(s *stub.Stub) error {
	b := new(stub.Batch)
	status := b.Out(4)
	b.Call(unix.SYS_WAIT4, stub.Int(-1), status.Arg(), stub.Int(0), stub.Int(0))
	if err := s.Do(b); err != nil {
		return err
	}
	switch ws := unix.WaitStatus(b.Uint32(status, 0)); {
	case ws.Signaled():
		return fmt.Errorf("signal: %v", ws.Signal())
	case ws.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return nil
}

func readTail(r *os.File) string {
	var tail []byte
	p := make([]byte, 1024)
	for {
		n, err := r.Read(p)
		tail = append(tail, p[:n]...)
		if over := len(tail) - stderrTail; over > 0 {
			tail = tail[over:]
		}
		if err != nil {
			return string(trimNewline(tail))
		}
	}
}

func trimNewline(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

// memfile returns a file in memory that is read from its start.
func memfile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("hull-state", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	_, werr := f.Write(content)
	_, serr := f.Seek(0, 0)
	if err := errors.Join(werr, serr); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
