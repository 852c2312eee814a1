package boot

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"hull/internal/sandbox/wire"
	"hull/internal/sentry/rootfs"
	"hull/internal/sentry/stream"
)

// Container is what a container is made of. Who makes it takes over the descriptors.
type Container struct {
	ID      string
	Bundle  string // for messages
	Spec    *specs.Spec
	Files   []rootfs.Tree // the root, then the sources of bind mounts in the order of the spec's mounts
	Streams []int         // the standard streams; of a terminal, one
	Same    [3]int        // which of them are the same open file: itself, or one before it
}

// container is one of those in a sandbox.
type container struct {
	*Sandbox
	Container
	pids    *kernel.PIDNamespace
	ipc     *kernel.IPCNamespace
	uts     *kernel.UTSNamespace
	group   *group
	watch   *watch // or nil: the host's cgroup holds the limits of the first
	init    *process
	polled  [stream.Count]bool // which of the standard streams of init are waited for
	pumps   stream.Pumps       // that copy them, if it was restored
	running atomic.Bool        // its program does, or may
	lock    int                // a file that is locked while the container is paused, where hull sees it
	mounts  *rootfs.Mounts     // what is prepared of them, until create; or nil
	kept    rootfs.Share       // of files that are kept open

	adding sync.RWMutex // held while something is added to the container, or what it has is given to another
	over   bool         // with adding: nothing can be added any more
	execs  execs

	stopped map[*kernel.Task]bool // with pausing: while the container alone is paused, what was stopped for that
}

// files is what its mount namespace is made of.
func (c *container) files() *rootfs.Config {
	f := &rootfs.Config{View: c.View, Kernel: c.kernel, Server: c.server, Written: c.written, ID: c.ID, Name: c.name(),
		Spec: c.Spec, Bundle: c.Bundle, PIDs: c.pids, IPC: c.ipc, Kept: &c.kept, Files: &c.Files}
	if c.group != nil { // else it is none that is made, but one that is restored
		f.Cgroups = c.group.ns
	}
	return f
}

// prepareMounts makes what the container's mount namespace has of file systems of the kernel's own.
func (c *container) prepareMounts() (*rootfs.Mounts, error) { return rootfs.Prepare(c.files()) }

// run lets the first process of the first container run.
func (s *Sandbox) run() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	c := s.root
	c.running.Store(true)
	if t := c.init.terminal; t != nil {
		t.Begin()
	}
	if s.awake {
		return s.kernel.SendExternalSignalThreadGroup(c.init.group, &linux.SignalInfo{Signo: int32(linux.SIGCONT)})
	}
	s.awake = true
	return s.kernel.Start()
}

// wake has the kernel run processes, for one that comes before the first: that one is stopped before its first instruction, and
// goes on in run.
func (s *Sandbox) wake() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.awake {
		return nil
	}
	s.awake = true
	if err := s.kernel.SendExternalSignalThreadGroup(s.root.init.group, &linux.SignalInfo{Signo: int32(linux.SIGSTOP)}); err != nil {
		return err
	}
	return s.kernel.Start()
}

func (s *Sandbox) isAwake() bool {
	s.starting.Lock()
	defer s.starting.Unlock()
	return s.awake
}

// signal passes a signal on that was sent to the sandbox's process, which stands for the first of the first container. While that
// one waits for its start, some end it, as kill(1) would though it is the first of its pid namespace.
func (s *Sandbox) signal(sig linux.Signal) {
	if !s.root.running.Load() {
		if wire.EndsParked(unix.Signal(sig)) {
			os.Exit(128 + int(sig))
		}
		return
	}
	s.root.deliver(s.root.init, sig)
}

// deliver passes a signal on to a process of the container.
func (c *container) deliver(p *process, sig linux.Signal) {
	if sig == linux.SIGWINCH && p.terminal != nil && p.terminal.Resize() {
		return // it was the host's terminal that said so
	}
	info := &linux.SignalInfo{Signo: int32(sig)}
	if c.Throwaway && p == c.init && slices.Contains(jobSignals, sig) {
		_ = p.group.ProcessGroup().SendSignal(info)
		return
	}
	if !c.Throwaway && c.spares(p.group, sig) {
		return
	}
	_ = c.kernel.SendExternalSignalThreadGroup(p.group, info)
}

// spares tells whether Linux would keep a signal from a process, because it is the first of a pid namespace: one that it neither
// handles nor blocks (pid_namespaces(7)). What its own processes send it this kernel lets through.
func (c *container) spares(tg *kernel.ThreadGroup, sig linux.Signal) bool {
	if c.pids.IDOfThreadGroup(tg) != firstPID {
		return false
	}
	switch sig {
	case linux.SIGKILL, linux.SIGSTOP, linux.SIGCONT:
		return false
	}
	action, err := tg.SetSigAction(sig, nil)
	return err == nil && action.Handler == linux.SIG_DFL && tg.Leader().SignalMask()&linux.SignalSetOf(sig) == 0
}

const firstPID = 1

// signalAll passes a signal on to all processes of the container.
func (c *container) signalAll(sig linux.Signal) {
	for _, tg := range c.groups() {
		if !c.spares(tg, sig) {
			_ = c.kernel.SendExternalSignalThreadGroup(tg, &linux.SignalInfo{Signo: int32(sig)})
		}
	}
}

// add calls f unless the container is over, which is not before f has returned.
func (c *container) add(f func() error) error {
	c.adding.RLock()
	defer c.adding.RUnlock()
	if c.over {
		return errStopped()
	}
	return f()
}

// groups returns the container's processes.
func (c *container) groups() []*kernel.ThreadGroup {
	return slices.DeleteFunc(c.kernel.RootPIDNamespace().ThreadGroups(), func(tg *kernel.ThreadGroup) bool {
		return tg.Leader().ContainerID() != c.ID
	})
}

func (c *container) kill(tg *kernel.ThreadGroup) {
	_ = c.kernel.SendExternalSignalThreadGroup(tg, &linux.SignalInfo{Signo: int32(linux.SIGKILL)})
}

// jobSignals are those that a terminal, or the shell that it belongs to, sends to a whole job. Nobody else passes them on to a
// command that is thrown away with its container.
var jobSignals = []linux.Signal{
	linux.SIGHUP, linux.SIGINT, linux.SIGQUIT, linux.SIGTSTP, linux.SIGCONT, linux.SIGWINCH, linux.SIGTTIN, linux.SIGTTOU,
}
