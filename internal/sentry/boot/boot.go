// Package boot makes a sandbox: an application kernel in this process, with one container in it.
//
// It runs in a jail that is there before the first line of Go: what it may reach of the host are the descriptors it was
// given. The order of steps is newKernel, mountAll, create; nothing in any of them opens a file of the host by a path.
package boot

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sighandling"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink"       // sockets of the family
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route" // and its protocol
	_ "gvisor.dev/gvisor/pkg/sentry/socket/unix"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux" // the system calls

	"hull/internal/sandbox/wire"
	"hull/internal/sentry/fileserver"
	"hull/internal/sentry/filter"
)

// Options are what a sandbox is made of. It takes over the descriptors.
type Options struct {
	ID      string
	Bundle  string // for messages
	Spec    *specs.Spec
	Files   []Tree // the root, then the sources of bind mounts in the order of the spec's mounts
	Stdio   [3]int
	Control int // socket that listens; or -1
	Start   int // fifo that a byte comes from when the program may run; or -1
	Links   []wire.Link
	Sockets []int // of the links that are no loopback
	// Throwaway says that nobody but its maker knows of it, and that what is mounted below the root is the container's alone.
	Throwaway bool
}

// Tree is a part of the host's files: a mount without what is mounted below.
type Tree struct {
	FD    int
	Below string // where it is mounted, if it was found below the tree before it; or ""
}

// Sandbox is an application kernel and the container in it.
type Sandbox struct {
	Options
	kernel  *kernel.Kernel
	network *stack.Stack // or nil: the host's
	server  *fileserver.Server
	init    *process
	streams []int  // Stdio; of a terminal, one
	alike   [3]int // which of Stdio are the same open file

	pausing sync.Mutex
	paused  bool // with pausing

	running    atomic.Bool // the container's program does, or may
	starting   sync.Mutex
	awake      bool        // the kernel runs processes; of starting
	configured atomic.Bool // the network is
}

// New makes a sandbox whose container waits for Run.
func New(o Options) (*Sandbox, error) {
	unix.Umask(0) // the kernel applies that of each process itself
	s := &Sandbox{Options: o, server: fileserver.New(), streams: o.Stdio[:], alike: sameStreams(o.Stdio)}
	if err := s.newKernel(); err != nil {
		return nil, err
	}
	if len(o.Links) > 0 {
		if err := s.configure(o.Links, o.Sockets); err != nil {
			return nil, err
		}
	}
	if err := s.takeTerminal(); err != nil {
		return nil, err
	}
	// Not before: the helpers are attached to by ptrace(2), and are dumpable as the process was that forked the first. Not
	// later: what comes now reads the container's files.
	if err := filter.Confine(wire.Nowhere, s.sockets()); err != nil {
		return nil, err
	}
	if err := s.create(); err != nil {
		return nil, err
	}
	// Before anybody can know that there is something to send signals to.
	sighandling.StartSignalForwarding(s.signal)
	if s.Control >= 0 {
		go s.serve()
	}
	return s, nil
}

// Run lets the container's program run when it may, and returns the status it ends with.
func (s *Sandbox) Run() (unix.WaitStatus, error) {
	if s.Start < 0 {
		if err := s.run(); err != nil {
			return 0, err
		}
	} else {
		fifo := os.NewFile(uintptr(s.Start), "start")
		if _, err := fifo.Read(make([]byte, 1)); err != nil {
			return 0, fmt.Errorf("start: %w", err)
		}
		if err := s.run(); err != nil {
			return 0, err
		}
		fifo.Close() // which tells Start that the program runs
	}
	ws := s.init.wait()
	if s.Throwaway && len(s.Links) > 0 {
		s.drain()
	}
	return ws, nil
}

// run lets the first process run.
func (s *Sandbox) run() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	s.running.Store(true)
	if t := s.init.terminal; t != nil {
		t.begin()
	}
	if s.awake {
		return s.kernel.SendExternalSignalThreadGroup(s.init.group, &linux.SignalInfo{Signo: int32(linux.SIGCONT)})
	}
	s.awake = true
	return s.kernel.Start()
}

// wake has the kernel run processes, for one of exec that comes before the first: that one is stopped before its first
// instruction, and goes on in run.
func (s *Sandbox) wake() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.awake {
		return nil
	}
	s.awake = true
	if err := s.kernel.SendExternalSignalThreadGroup(s.init.group, &linux.SignalInfo{Signo: int32(linux.SIGSTOP)}); err != nil {
		return err
	}
	return s.kernel.Start()
}

// signal passes a signal on that was sent to the sandbox's process, which stands for the container's first. While that one
// waits for its start, some end it, as kill(1) would though it is the first of its pid namespace.
func (s *Sandbox) signal(sig linux.Signal) {
	if !s.running.Load() {
		switch sig {
		case linux.SIGHUP, linux.SIGINT, linux.SIGQUIT, linux.SIGTERM:
			os.Exit(128 + int(sig))
		}
		return
	}
	s.deliver(s.init, sig)
}

// deliver passes a signal on to a process.
func (s *Sandbox) deliver(p *process, sig linux.Signal) {
	if sig == linux.SIGWINCH && p.terminal != nil && p.terminal.resize() {
		return // it was the host's terminal that said so
	}
	info := &linux.SignalInfo{Signo: int32(sig)}
	if s.Throwaway && p == s.init && slices.Contains(jobSignals, sig) {
		_ = p.group.ProcessGroup().SendSignal(info)
		return
	}
	if p == s.init && !s.Throwaway && spared(p.group, sig) {
		return
	}
	_ = s.kernel.SendExternalSignalThreadGroup(p.group, info)
}

// spared tells whether Linux would keep a signal from the first process of a pid namespace: one that it neither handles nor blocks
// (pid_namespaces(7)). What its own processes send it this kernel lets through.
func spared(init *kernel.ThreadGroup, sig linux.Signal) bool {
	switch sig {
	case linux.SIGKILL, linux.SIGSTOP, linux.SIGCONT:
		return false
	}
	action, err := init.SetSigAction(sig, nil)
	return err == nil && action.Handler == linux.SIG_DFL && init.Leader().SignalMask()&linux.SignalSetOf(sig) == 0
}

// signalAll passes a signal on to all processes.
func (s *Sandbox) signalAll(sig linux.Signal) {
	for _, tg := range s.kernel.RootPIDNamespace().ThreadGroups() {
		if tg == s.init.group && spared(tg, sig) {
			continue
		}
		_ = s.kernel.SendExternalSignalThreadGroup(tg, &linux.SignalInfo{Signo: int32(sig)})
	}
}

// jobSignals are those that a terminal, or the shell that it belongs to, sends to a whole job. Nobody else passes them on to a
// command that is thrown away with its container.
var jobSignals = []linux.Signal{
	linux.SIGHUP, linux.SIGINT, linux.SIGQUIT, linux.SIGTSTP, linux.SIGCONT, linux.SIGWINCH, linux.SIGTTIN, linux.SIGTTOU,
}
