package boot

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"

	"hull/internal/fault"
	"hull/internal/sandbox/image"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/checksum"
	"hull/internal/sentry/errno"
	"hull/internal/sentry/network"
	"hull/internal/sentry/rootfs"
)

// The names in the kernel of what is saved beside it: the streams and terminals, and the container's cgroup namespace.
const (
	savedKey   = "hull"
	savedGroup = "hull.cgroup"
)

// checkpoint saves the kernel in the three files, and says so. The container goes on when it is told to, or when nobody is there
// any more who could: until then its programs do nothing, so that what is saved and what has happened are the same.
func (s *Sandbox) checkpoint(conn int, r *wire.Request, fds []int) {
	saved, resume, err := s.save(r, fds)
	if err != nil {
		_ = wire.Send(conn, wire.Reply{Failure: wire.Fail(errno.Of(err))})
		return
	}
	if r.Leave {
		resume()
		_ = wire.Send(conn, wire.Reply{Saved: saved})
		return
	}
	defer resume()
	if wire.Send(conn, wire.Reply{Saved: saved}) == nil {
		_, _, _ = wire.ReceiveBytes(conn, wire.SignalSize, 0)
	}
}

// save stops all programs and saves the kernel in the files, which it takes over. Without an error they go on by resume.
func (s *Sandbox) save(r *wire.Request, fds []int) (_ *image.Contents, resume func(), err error) {
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "image")
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) != len(image.Files) {
		return nil, nil, fmt.Errorf("%d files to save in", len(files))
	}
	for _, f := range files {
		// Nobody may read what is written to a pipe, and the programs would stand for ever.
		if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
			return nil, nil, errors.New("a file to save in that is no regular file")
		}
	}
	if err := s.savable(); err != nil {
		return nil, nil, err
	}
	s.saving.Lock() // nobody joins, and no process is added
	s.pausing.Lock()
	unlock := func() {
		s.pausing.Unlock()
		s.saving.Unlock()
	}
	if s.root.stopped != nil || s.members.count() > 0 {
		unlock()
		return nil, nil, &fault.Error{Kind: fault.Unsupported, Err: errors.New("the container shares its sandbox with others")}
	}
	// Stops are counted, and none is saved: a container that is paused stays so, and runs where it is restored.
	s.kernel.Pause()
	s.terminals.Detach() // the copying waits at files of the kernel's
	goOn := func() {
		s.kernel.BeforeResume(s.kernel.SupervisorContext())
		s.terminals.Attach()
		s.kernel.Unpause()
		unlock()
	}
	defer func() {
		if p := recover(); p != nil { // beforeSave of what can't be saved does so
			log.Warningf("checkpoint: %v\n%s", p, debug.Stack())
			err = fmt.Errorf("%v", p)
		}
		if err != nil {
			goOn()
		}
	}()
	s.kernel.ReceiveTaskStates()
	s.kernel.AddStateToCheckpoint(savedKey, s.terminals.Saved(s.root.init.terminal))
	defer s.kernel.PopCheckpointState(savedKey)
	s.kernel.AddStateToCheckpoint(savedGroup, s.root.group.ns)
	defer s.kernel.PopCheckpointState(savedGroup)
	c := &image.Contents{Module: moduleVersion(), CPU: cpuid.HostFeatureSet().Fixed().FlagString(), Polled: s.root.polled}
	kernel, memory := checksum.NewWriter(files[image.Kernel]), checksum.NewWriter(files[image.Memory])
	pagesFD, err := unix.FcntlInt(files[image.Pages].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	pages := checksum.NewPagesWriter(stateio.NewPagesFileFDWriterDefault(int32(pagesFD)))
	// As one that goes on: what is taken away of the others, above all the network, could not be given back if the image
	// comes to nothing.
	err = s.kernel.SaveTo(s.kernel.SupervisorContext(), kernel, memory, pages, false, true)
	if err = errors.Join(err, kernel.Err(), memory.Err()); err != nil {
		return nil, nil, err
	}
	c.Files = [...]image.File{kernel.File, memory.File, pages.File}
	return c, goOn, nil
}

// savable refuses what can be saved, but not restored.
func (s *Sandbox) savable() error {
	refuse := func(why string) error {
		return &fault.Error{Kind: fault.Unsupported, Err: errors.New(why)}
	}
	if s.root.init == nil || !s.root.running.Load() {
		return &fault.Error{Kind: fault.BadState, Err: errors.New("the container's program doesn't run yet")}
	}
	if network.IsHost(s.Spec) {
		return refuse("the container has the host's network: its sockets are the host's, which can't be saved")
	}
	if s.HostSockets.Any() {
		return refuse("its programs have sockets of the host's (host-uds), which a restored one's could not")
	}
	if s.written != nil {
		return refuse("what is written to its root is kept in a file (overlay), which is none of the image's")
	}
	if rootfs.ServesFUSE() {
		return refuse("a program has /dev/fuse open, or a FUSE file system is mounted: what is asked of its server could be lost")
	}
	if s.hostSockets.Open(s.kernel.SupervisorContext()) {
		return refuse("a process has a socket of the host's open that it was given as a stream: it can't be saved")
	}
	return nil
}

// moduleVersion returns the version of the kernel's sources.
func moduleVersion() string {
	const module = "gvisor.dev/gvisor"
	if info, ok := debug.ReadBuildInfo(); ok {
		if i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == module }); i >= 0 {
			return info.Deps[i].Version
		}
	}
	return "unknown"
}
