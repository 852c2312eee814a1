package hull

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/oci"
	"hull/internal/proc"
	"hull/internal/stub"
)

// ExecOptions say how a process is started in a running container. What CreateOptions have, too, is as it is there.
type ExecOptions struct {
	Process       *specs.Process // complete; ProcessSpec gives one to start from
	Stdio         Stdio
	ConsoleSocket string
	Console       Console
	PidfdSocket   string
	PidFile       string
	ExtraFiles    []*os.File
	IgnorePaused  bool // start it though the container is paused
	// Attached says that only the caller waits for the process, and needs no pid of it. In a sandbox it starts sooner then,
	// without a process of the host's that stands for it: its Pid is 0. It has no effect with a terminal, PidFile or PidfdSocket.
	Attached bool
	Cgroups  []string // sub-cgroups: PATH, or CONTROLLER[,CONTROLLER…]:PATH
}

// Exec starts another process in the container.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	p, err := c.exec(ctx, o)
	return p, fault.In("exec", c.ID(), err)
}

func (c *Container) exec(ctx context.Context, o ExecOptions) (_ *Process, err error) {
	status, err := c.status()
	if err != nil {
		return nil, err
	}
	switch {
	case status == Stopped || status == Creating:
		return nil, &fault.Error{Kind: fault.BadState, Err: errors.New("cannot exec in a stopped container"), Hint: c.podHint(status)}
	case status == Paused && !o.IgnorePaused:
		return nil, errExecInPaused()
	}
	if !o.IgnorePaused {
		stopped, err := c.group.Stopped()
		if err != nil {
			return nil, err
		}
		if stopped {
			return nil, errFrozen()
		}
	}
	if err := c.checkProcess(o.Process); err != nil {
		return nil, err
	}
	h := &handover{console: o.Console, consoleSocket: o.ConsoleSocket, pidfdSocket: o.PidfdSocket, pidFile: o.PidFile}
	defer h.takeBack(&err)
	if err := h.check(o.Process); err != nil {
		return nil, err
	}
	req := c.execRequest(o.Process)
	req.IO = engine.IO{Stdio: [3]*os.File{o.Stdio.In, o.Stdio.Out, o.Stdio.Err}, Extra: o.ExtraFiles}
	req.Cgroups, req.AwaitThaw = o.Cgroups, o.IgnorePaused
	req.Attached = o.Attached && h.pidFile == "" && h.pidfdSocket == ""
	req.Prepared = h.make
	p, err := c.engine.Exec(ctx, req)
	if err != nil {
		return nil, c.endedMeanwhile(ctx, err)
	}
	return newProcess(p), nil
}

func errExecInPaused() error {
	return &fault.Error{Kind: fault.BadState, Err: errors.New("cannot exec in a paused container"), Hint: "resume it first, or use exec --ignore-paused"}
}

func errFrozen() error {
	return &fault.Error{Kind: fault.BadState, Err: errors.New("the container's cgroup is frozen, or one above it"),
		Hint: "the process would be frozen, too, before it could run"}
}

// endedMeanwhile returns what is to be said of an exec that failed: if the container was killed or paused under it, that,
// and not what of it was first seen to be gone.
func (c *Container) endedMeanwhile(ctx context.Context, err error) error {
	if errors.Is(err, stub.ErrTimeout) {
		if status, serr := c.status(); serr == nil && status == Paused {
			return errExecInPaused()
		}
		if stopped, serr := c.group.Stopped(); serr == nil && stopped {
			return errFrozen()
		}
	}
	var e *fault.Error
	if errors.As(err, &e) && strings.HasPrefix(e.Field, "process.") {
		return err
	}
	// ENOMEM is what a clone gets in a pid namespace whose first process has ended.
	if !slices.ContainsFunc([]error{stub.ErrGone, unix.ESRCH, unix.ENODEV, unix.ENOENT, unix.ENOMEM}, func(sign error) bool { return errors.Is(err, sign) }) {
		return err
	}
	// A whole cgroup was killed perhaps, and the init is the last to go.
	const patience = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pidfd, operr := proc.Open(c.record.Init)
	if operr == nil {
		defer pidfd.Close()
		if proc.WaitEnded(ctx, c.record.Init, pidfd) != nil {
			return err
		}
	} else if !errors.Is(operr, fault.BadState) {
		return err
	}
	if _, serr := os.Lstat(c.dir.Path); errors.Is(serr, os.ErrNotExist) {
		return &fault.Error{Kind: fault.NotExist}
	}
	return &fault.Error{Kind: fault.BadState, Err: errors.New("the container has stopped")}
}

// checkProcess checks a process by the rules of config.json: as part of the container's configuration.
func (c *Container) checkProcess(p *specs.Process) error {
	if p == nil {
		return fault.Spec("process", "missing")
	}
	s := *c.spec
	s.Process = p
	warnings, err := oci.Check(&s)
	if len(warnings) > 0 { // those of the configuration were told when the container was made
		told, _ := oci.Check(c.spec)
		warnings = slices.DeleteFunc(warnings, func(w string) bool { return slices.Contains(told, w) })
	}
	for _, w := range warnings {
		c.runtime.warn(w)
	}
	return err
}

func (c *Container) execRequest(p *specs.Process) *engine.ExecRequest {
	return &engine.ExecRequest{
		Container: c.engineView(), Init: c.record.Init, Process: p, NoNewKeyring: c.record.NoKeyring,
		Trace: c.runtime.Trace, Warn: c.runtime.warn,
	}
}

// Process is a process in a container.
type Process struct {
	Pid int // in the caller's pid namespace; 0 of one that has none there, see ExecOptions.Attached

	mu     sync.Mutex
	waited bool     // for, or being waited for
	pidfd  *os.File // if this program has started it
	ended  func(unix.WaitStatus) unix.WaitStatus
	wait   func() (unix.WaitStatus, error) // of one that is no child; or nil
	remote engine.Remote                   // instead of a pidfd; or nil
}

// newProcess is the process that an engine has started.
func newProcess(p *engine.Process) *Process {
	return &Process{Pid: p.Pid, pidfd: p.PidFD, ended: p.Ended, wait: p.Wait, remote: p.Remote}
}

// Wait waits for the process to end and returns its status. Only the program that has started a process can wait for
// it, once.
func (p *Process) Wait() (unix.WaitStatus, error) {
	p.mu.Lock()
	pidfd, remote, waited := p.pidfd, p.remote, p.waited
	p.waited = true
	p.mu.Unlock()
	if pidfd == nil && remote == nil || waited {
		return 0, &fault.Error{Kind: fault.BadUsage, Err: errors.New("wait: the process was started by another program, or has been waited for")}
	}
	defer p.Release()
	if remote != nil {
		return remote.Wait()
	}
	if p.wait != nil {
		return p.wait()
	}
	ws, err := stub.WaitPidFD(pidfd)
	if err == nil && p.ended != nil {
		ws = p.ended(ws)
	}
	return ws, err
}

// Signal sends the process a signal. It never reaches another process that got the same pid. A process that has been
// waited for is os.ErrProcessDone.
func (p *Process) Signal(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.remote != nil {
		return p.remote.Signal(sig)
	}
	if p.pidfd == nil {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0))
}

// SignalGroup sends a signal to the process group of the process, if it leads one and the kernel can do that (Linux 6.9),
// or else to the process alone: as a terminal does when somebody types ^C.
func (p *Process) SignalGroup(sig unix.Signal) error {
	const group = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP, include/uapi/linux/pidfd.h, Linux 6.9; x/sys v0.40 lacks it
	p.mu.Lock()
	if p.pidfd == nil {
		p.mu.Unlock()
		return p.Signal(sig)
	}
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, group)
	p.mu.Unlock()
	if err == nil {
		return nil
	}
	return p.Signal(sig)
}

// Release gives up the process without waiting for it.
func (p *Process) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd != nil {
		p.pidfd.Close()
		p.pidfd = nil
	}
	if p.remote != nil {
		p.remote.Close()
		p.remote = nil
	}
}
