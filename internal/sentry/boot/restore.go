package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
	"gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/sighandling"
	"gvisor.dev/gvisor/pkg/timing"

	"hull/internal/fault"
	"hull/internal/sandbox/image"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/checksum"
	"hull/internal/sentry/network"
	"hull/internal/sentry/platform"
	"hull/internal/sentry/terminal"
)

// restoring is a sandbox that waits for being told to go on where another was saved.
type restoring struct {
	files   []*os.File
	network *wire.Request // that came before; or nil
	sockets []int
	begun   atomic.Bool
}

// newRestored makes a kernel with nothing in it, to be filled by restore.
func (s *Sandbox) newRestored(ready <-chan made) error {
	k := &kernel.Kernel{Platform: platform.Later()}
	k.AllowSUID = true
	s.kernel = k
	memory, err := newMemory()
	if err != nil {
		return err
	}
	k.SetMemoryFile(memory)
	p := <-ready
	if p.error != nil {
		return p.error
	}
	k.Platform = p.Platform
	return sighandling.IgnoreChildStop()
}

// notRestoring refuses what a sandbox can't do that is not filled yet.
func (s *Sandbox) notRestoring(r *wire.Request) error {
	if s.restoring == nil || r.Op == wire.Network || r.Op == wire.Restore || s.restored.Load() {
		return nil
	}
	return &fault.Error{Kind: fault.BadState, Err: errors.New("the container is being restored")}
}

// keepNetwork keeps a request for the network until there is one. It returns the descriptors that it hasn't kept.
func (s *Sandbox) keepNetwork(r *wire.Request, fds []int) (left []int, err error) {
	if s.restoring.network != nil {
		return fds, network.AlreadyConfigured()
	}
	if err := network.CheckLinks(r.Links); err != nil {
		return fds, err
	}
	s.restoring.network, s.restoring.sockets = r, fds
	return nil, nil
}

// restore fills the kernel with what was saved, and has it go on.
func (s *Sandbox) restore(saved *image.Contents) (err error) {
	defer func() {
		if p := recover(); p != nil { // whatever is in an image
			log.Warningf("restore: %v\n%s", p, debug.Stack())
			err = fmt.Errorf("%v", p)
		}
	}()
	if saved == nil || s.restoring == nil || len(s.restoring.files) != len(image.Files) || s.restoring.begun.Swap(true) {
		return &fault.Error{Kind: fault.BadState, Err: errors.New("there is nothing to be restored")}
	}
	s.root.polled = saved.Polled
	if err := usable(saved); err != nil {
		return err
	}
	state, err := checksum.Read(s.restoring.files[image.Kernel], saved.Files[image.Kernel])
	if err != nil {
		return damaged(image.Kernel, err)
	}
	memory, err := checksum.Read(s.restoring.files[image.Memory], saved.Files[image.Memory])
	if err != nil {
		return damaged(image.Memory, err)
	}
	if err := s.load(state, memory, saved.Files[image.Pages]); err != nil {
		return err
	}
	if err := s.proceed(); err != nil {
		return err
	}
	for _, f := range s.restoring.files {
		f.Close()
	}
	s.restored.Store(true)
	close(s.going)
	return nil
}

func damaged(file int, err error) error {
	return fmt.Errorf("the image is damaged: %s: %w", image.Files[file], err)
}

// usable refuses an image of another kernel, or of another processor.
func usable(saved *image.Contents) error {
	if own := moduleVersion(); saved.Module != own {
		return fmt.Errorf("the image was saved by the kernel gvisor %q, and this one is %s", cut(saved.Module), own)
	}
	have := strings.Fields(cpuid.HostFeatureSet().Fixed().FlagString())
	for f := range strings.FieldsSeq(saved.CPU) {
		if !slices.Contains(have, f) {
			return &fault.Error{Kind: fault.Unsupported,
				Err: fmt.Errorf("the image was saved on a processor with %s, which this one has not", cut(f))}
		}
	}
	return nil
}

func cut(s string) string { return s[:min(len(s), 100)] }

// load decodes the image. The host's descriptors take the places of those that there were.
func (s *Sandbox) load(state, memory []byte, want image.File) error {
	files, err := s.descriptors()
	if err != nil {
		return err
	}
	k := s.kernel
	pages, err := unix.FcntlInt(s.restoring.files[image.Pages].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	reader := checksum.NewPagesReader(stateio.NewPagesFileFDReaderDefault(int32(pages)))
	loader := kernel.NewAsyncMFLoader(io.NopCloser(bytes.NewReader(memory)), reader, k.MemoryFile(), nil)
	private := make(map[checkpoint.ResourceID]*pgalloc.MemoryFile)
	loader.KickoffPrivate(private)
	ctx := context.WithValues(k.SupervisorContext(), map[any]any{vfs.CtxRestoreFilesystemFDMap: files, pgalloc.CtxMemoryFileMap: private})
	err = k.LoadFrom(ctx, bytes.NewReader(state), loader, nil, configure{s}, time.NewCalibratedClocks(false), &vfs.CompleteRestoreOptions{}, (*timing.Timeline)(nil))
	if err = errors.Join(err, loader.Wait()); err != nil {
		log.Warningf("restore: %v", err)
		what, _, _ := strings.Cut(err.Error(), "\n") // stacks of the decoder may follow
		return fmt.Errorf("the image can't be used: %s", what)
	}
	if reader.Length == want.Length && reader.Checksum == want.Checksum {
		return nil
	}
	// It may have pages that nobody needs any more.
	if err := checksum.CheckPages(s.restoring.files[image.Pages], want); err != nil {
		return damaged(image.Pages, err)
	}
	return nil
}

// descriptors returns those that the image's file systems and streams get.
func (s *Sandbox) descriptors() (map[checkpoint.ResourceID]int, error) {
	c := s.root
	m := make(map[checkpoint.ResourceID]int)
	if err := c.files().Restore(m); err != nil {
		return nil, err
	}
	if c.Spec.Process.Terminal {
		return m, nil
	}
	for i, fd := range c.Streams {
		if c.polled[i] {
			var err error
			if fd, err = c.pumps.Fit(i, fd); err != nil {
				return nil, err
			}
		}
		m[host.MakeResourceID(containerName, i)] = fd
	}
	return m, nil
}

// configure makes the devices of a network that was restored.
type configure struct{ *Sandbox }

// ConfigureNetwork implements inet.NetworkArgs.
func (c configure) ConfigureNetwork(n inet.Stack) error {
	own, ok := n.(*netstack.Stack)
	if !ok {
		return errors.New("the image is of a container with another kind of network")
	}
	s := c.Sandbox
	var err error
	if s.network, err = network.Restored(own); err != nil || s.restoring.network == nil {
		return err
	}
	_, err = s.network.Take(s.restoring.network, s.restoring.sockets)
	return err
}

// proceed lets a kernel run that was filled.
func (s *Sandbox) proceed() error {
	k, c := s.kernel, s.root
	group := k.GlobalInit()
	if group == nil || group.Leader() == nil {
		return errors.New("the image has no first process")
	}
	for _, t := range k.TaskSet().Root.Tasks() {
		t.RestoreContainerID(c.ID)
	}
	k.RestoreContainerMapping(map[string]string{containerName: c.ID})
	k.SetSaver(noSaver{s})
	c.pids, c.ipc, c.uts = k.RootPIDNamespace(), k.RootIPCNamespace(), k.RootUTSNamespace()
	p := &process{group: group}
	had, _ := k.PopCheckpointState(savedKey).(*terminal.Saved)
	if had == nil {
		return errors.New("the image is none of a container's")
	}
	had.Release(k.SupervisorContext())
	if err := c.restoreGroup(); err != nil {
		return err
	}
	// Processes of exec end with the sandbox that they were made in: whoever waited for them waits no longer.
	for _, tg := range c.pids.ThreadGroups() {
		if l := tg.Leader(); l != nil && l.Origin == kernel.OriginExec && l.Parent() == nil {
			_ = k.SendExternalSignalThreadGroup(tg, &linux.SignalInfo{Signo: int32(linux.SIGKILL)})
		}
	}
	if had.HasTerminal() != c.Spec.Process.Terminal {
		return errors.New("the image is of a container with a terminal, or without, as this one is not")
	}
	if had.HasTerminal() {
		var err error
		if p.terminal, err = s.terminals.Adopt(k, group, had, c.Streams[0]); err != nil {
			return err
		}
	}
	c.init = p
	s.starting.Lock()
	defer s.starting.Unlock()
	s.awake = true
	c.running.Store(true)
	if p.terminal != nil {
		p.terminal.GoOn()
	}
	return k.Start()
}

// restoreGroup finds the container's cgroup, and gives it the limits that the container has now.
func (c *container) restoreGroup() error {
	ns, _ := c.kernel.PopCheckpointState(savedGroup).(*kernel.CgroupNamespace)
	if ns == nil {
		return errors.New("the image is of a container without a cgroup")
	}
	var err error
	if c.group, err = c.cgroups.restored(c, ns); err != nil {
		return err
	}
	c.group.changed = c.tellMemory
	return c.group.set(c.allLimits())
}

// allLimits returns all limits of the first container: that it has none, of what hull doesn't say. What was saved may have had others.
func (s *Sandbox) allLimits() map[string]string {
	all := map[string]string{memoryMax: "max", cpuMax: "max 100000", pidsMax: "max"}
	maps.Copy(all, s.Limits)
	return all
}
