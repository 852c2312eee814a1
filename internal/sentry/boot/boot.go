// Package boot makes a sandbox: an application kernel in this process, with a container in it, which others may join.
//
// It runs in a jail that is there before the first line of Go: what it may reach of the host are the descriptors it was
// given. The order of steps is newKernel, prepareMounts, create; nothing in any of them opens a file of the host by a path.
package boot

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"

	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink"       // sockets of the family
	_ "gvisor.dev/gvisor/pkg/sentry/socket/netlink/route" // and its protocol
	_ "gvisor.dev/gvisor/pkg/sentry/socket/unix"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux" // the system calls

	"hull/internal/sandbox/wire"
	"hull/internal/sentry/fileserver"
	"hull/internal/sentry/filter"
	"hull/internal/sentry/network"
	"hull/internal/sentry/rootfs"
	"hull/internal/sentry/stream"
	"hull/internal/sentry/terminal"
)

// Options are what a sandbox is made of. It takes over the descriptors.
type Options struct {
	Container // the first
	// Limits are those of the first in its cgroup, as hull sends them.
	Limits  map[string]string
	Control int // socket that listens; or -1
	Start   int // fifo that a byte comes from when the program may run; or -1
	Links   []wire.Link
	Sockets []int // of the links that are no loopback
	Image   []int // files of the one that the container was saved in; or nil
	// Throwaway says that nobody but its maker knows of it.
	Throwaway bool
	// View says how they see the host's files. An overlay is kept in the file OverlayFD, unless that is -1.
	rootfs.View
	OverlayFD int
	// Pod says that other containers are to join the first.
	Pod bool
	// HostSockets says what programs do with sockets of the host's in donated mounts.
	HostSockets filter.UnixSockets
	// KVM is the host's device of that name, if programs run by it; or -1.
	KVM int
}

// Sandbox is an application kernel and the containers in it.
type Sandbox struct {
	Options
	kernel  *kernel.Kernel
	network *network.Network // or nil: the host's
	server  *fileserver.Server
	uname   unix.Utsname
	root    *container // the first; the sandbox ends with it
	members members    // those that have joined it
	cgroups groups     // of all
	ends    ends
	written *pgalloc.MemoryFile // what is written to roots is in it, if that is kept in a file; or nil

	budget *rootfs.Budget // of files that are kept open
	host   unix.Sysinfo_t // what the host has

	saving  sync.RWMutex // held while something is made in the kernel, or the kernel is saved; before pausing
	pausing sync.Mutex
	paused  bool // with pausing: all of the kernel

	terminals   terminal.Set
	hostSockets stream.Sockets
	filter      *filter.Filter // until it is over the process
	parked      bool           // it was made before there was a container

	restoring *restoring // or nil
	restored  atomic.Bool
	going     chan struct{} // closed when what was restored goes on

	starting sync.Mutex
	awake    bool // the kernel runs processes; of starting
}

// New makes a sandbox whose container waits for Run.
func New(o Options) (*Sandbox, error) {
	unix.Umask(0) // the kernel applies that of each process itself
	s := &Sandbox{Options: o, server: fileserver.New(fileserver.Sockets(o.HostSockets)), going: make(chan struct{})}
	for _, fd := range o.Image {
		if s.restoring == nil {
			s.restoring = new(restoring)
		}
		s.restoring.files = append(s.restoring.files, os.NewFile(uintptr(fd), "image"))
	}
	s.root = &container{Sandbox: s, Container: o.Container, lock: logFD}
	if err := s.newKernel(); err != nil {
		return nil, err
	}
	// Not before: the helpers, whose memory has no handlers, would have them. All are caught before anybody can know that
	// there is something to send signals to.
	caught := make(chan error, 1)
	go func() { caught <- forwardSignals(s.signal) }()
	if err := s.configureFirst(); err != nil {
		return nil, err
	}
	// Not before: the helpers are attached to by ptrace(2), and are dumpable as the process was that forked the first. Not
	// later: what comes now reads the container's files.
	if s.filter == nil {
		var err error
		if s.filter, err = filter.Compile(s.confinement()); err != nil {
			return nil, err
		}
	}
	if err := filter.Confine(wire.Nowhere, s.filter); err != nil {
		return nil, err
	}
	s.filter = nil
	if s.restoring == nil {
		if err := s.root.create(); err != nil {
			return nil, err
		}
	}
	if err := <-caught; err != nil {
		return nil, err
	}
	if s.Control >= 0 {
		go s.serve()
	}
	return s, nil
}

// configureFirst does what comes before the container's files, as its configuration says.
func (s *Sandbox) configureFirst() error {
	if len(s.Links) > 0 {
		if err := s.network.Configure(s.Links, s.Sockets); err != nil {
			return err
		}
	}
	if err := s.root.takeTerminal(); err != nil {
		return err
	}
	if s.restoring != nil { // what follows is in the image
		return nil
	}
	return s.setSysctls()
}

// Run lets the container's program run when it may, and returns the status it ends with.
func (s *Sandbox) Run() (unix.WaitStatus, error) {
	if s.restoring != nil {
		<-s.going
	} else if s.Start < 0 {
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
	ws := s.root.init.wait()
	s.root.pumps.Drain()
	if s.Throwaway && len(s.Links) > 0 {
		s.kernel.WaitExited() // so that all is closed
		s.network.Drain()
	}
	return ws, nil
}
