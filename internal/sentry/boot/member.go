package boot

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/nsfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/oci"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/errno"
	"hull/internal/sentry/rootfs"
	"hull/internal/sentry/stream"
)

// members are the containers that have joined the first. Each has the connection by which it was asked for: at the other end is
// the process that stands for it on the host, and when that is gone, the container is ended and taken away.
type members struct {
	mu   sync.Mutex
	byID map[string]*member
}

// member is one of them.
type member struct {
	*container
	conn int
	made atomic.Bool   // all of it is there
	gone chan struct{} // closed when nothing is left of it
}

// removeTimeout bounds how long it is waited for the end of a member, all of whose processes are killed.
const removeTimeout = 10 * time.Second

// container returns the container of that id.
func (s *Sandbox) container(id string) (*container, error) {
	if id == s.root.ID {
		return s.root, nil
	}
	if m := s.members.find(id); m != nil && m.made.Load() {
		return m.container, nil
	}
	return nil, errStopped()
}

func (l *members) find(id string) *member {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byID[id]
}

// hangUp has what waits for messages at the connection of a member find its end, and returns the member, or nil. It is closed by
// who has removed the member: meanwhile its number is no other file's.
func (l *members) hangUp(id string) *member {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.byID[id]
	if m == nil {
		return nil
	}
	if err := unix.Shutdown(m.conn, unix.SHUT_RD); err != nil && err != unix.ENOTCONN {
		log.Warningf("shutdown: %v", err)
	}
	return m
}

// count returns how many there are.
func (l *members) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byID)
}

// add adds a member, when one of the same id that ends has gone.
func (l *members) add(m *member) error {
	for again := true; ; again = false {
		l.mu.Lock()
		old := l.byID[m.ID]
		if old == nil {
			break
		}
		l.mu.Unlock()
		if !again || !old.waitGone() {
			return &fault.Error{Kind: fault.BadState, Err: fmt.Errorf("there is a container %q in the sandbox", m.ID)}
		}
	}
	defer l.mu.Unlock()
	if len(l.byID) >= wire.MaxMembers {
		return &fault.Error{Kind: fault.Unsupported, Err: fmt.Errorf("not possible in sandbox isolation: more than %d containers beside the first", wire.MaxMembers)}
	}
	if l.byID == nil {
		l.byID = make(map[string]*member)
	}
	l.byID[m.ID] = m
	return nil
}

// remove takes a member away of which nothing is left.
func (l *members) remove(m *member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byID, m.ID)
	close(m.gone)
}

func (m *member) waitGone() bool {
	select {
	case <-m.gone:
		return true
	case <-time.After(removeTimeout):
		return false
	}
}

// join makes a container that joins the others, and stays with it to its end.
func (s *Sandbox) join(conn int, r *wire.Request, fds []int) {
	m, err := s.newMember(conn, r, fds)
	if err != nil {
		_ = wire.Send(conn, wire.Reply{Failure: wire.Fail(errno.Of(err))})
		return
	}
	defer func() {
		m.release()
		s.members.remove(m)
	}()
	var end wire.End
	if err = wire.Send(conn, wire.Reply{}); err == nil {
		end, err = m.awaitStart(conn)
	}
	if err != nil || end != (wire.End{}) {
		m.giveUp()
		if err == nil {
			_ = wire.SendEnd(conn, end)
		}
		for err == nil { // see below
			_, _, err = receive(conn)
		}
		return
	}
	m.kernel.StartProcess(m.init.group)
	_ = wire.SendBytes(conn, wire.Go)
	alone := make(chan struct{})
	go func() {
		defer close(alone)
		m.forward(conn, m.init)
		m.kill(m.init.group)
		m.watch.close() // or it would end only when its quota lets it
		m.resume()      // or it would never end
	}()
	ws := m.init.wait()
	m.end()
	end = endOf(ws)
	if m.watch.killed.Load() && unix.Signal(end.Signal) == unix.SIGKILL {
		end.Signal |= wire.ForMemory
	}
	_ = wire.SendEnd(conn, end)
	<-alone // to close a connection that has signals in it would take the end away from the other side
}

// awaitStart waits until the container's program may run. What comes is its end, if a signal ends it before.
func (m *member) awaitStart(conn int) (end wire.End, err error) {
	for {
		went, sig, err := receive(conn)
		switch {
		case err != nil:
			return end, err
		case went:
			m.running.Store(true)
			if t := m.init.terminal; t != nil {
				t.Begin()
			}
			return end, nil
		case wire.EndsParked(unix.Signal(sig)):
			return wire.End{Code: 128 + uint32(sig)}, nil
		}
	}
}

func (m *member) resume() {
	if err := m.pause(false); err != nil {
		log.Warningf("%s: %v", m.ID, err)
	}
}

// giveUp ends the container, whose program was not started.
func (m *member) giveUp() {
	m.kill(m.init.group)
	m.kernel.StartProcess(m.init.group) // or it would never end
	m.end()
	if t := m.init.terminal; t != nil {
		t.Close()
	}
}

// end ends all that is left of the container's processes.
func (m *member) end() {
	if m.watch != nil {
		m.watch.close()
	}
	m.resume()
	// What is being added may wait for one of them: for the server of a file system that its program is in.
	for _, tg := range m.groups() {
		m.kill(tg)
	}
	m.adding.Lock()
	m.over = true
	m.adding.Unlock()
	m.resume()
	waited := make(map[*kernel.ThreadGroup]bool)
	for again := true; again; {
		again = false
		for _, tg := range m.groups() {
			if waited[tg] {
				continue
			}
			waited[tg], again = true, true
			m.kill(tg)
			tg.WaitExited()
		}
	}
	m.execs.end()
}

// newMember makes a container of what was sent, and takes over the descriptors.
func (s *Sandbox) newMember(conn int, r *wire.Request, fds []int) (*member, error) {
	s.saving.RLock()
	defer s.saving.RUnlock()
	m := &member{container: &container{Sandbox: s, lock: -1, kept: rootfs.Share{Of: s.budget, Pod: true}}, conn: conn, gone: make(chan struct{})}
	if err := m.take(r, fds); err != nil {
		m.release()
		return nil, err
	}
	if err := s.members.add(m); err != nil {
		m.release()
		return nil, err
	}
	err := s.wake()
	if err == nil {
		err = m.enterNamespaces(r.Member)
	}
	if err == nil {
		err = m.enterGroup(func(limits) { m.watch.wake() })
	}
	if err == nil {
		m.watch = newWatch(m.group)
		err = m.group.set(r.Member.Limits)
	}
	if err == nil {
		err = s.notPaused()
	}
	if err == nil {
		if err = m.create(); err == nil {
			m.watch.first.Store(m.init.group)
		}
	}
	if err != nil {
		if m.init != nil { // what failed came after
			m.giveUp()
		} else {
			m.end()
		}
		m.release()
		s.members.remove(m)
		return nil, err
	}
	m.made.Store(true)
	return m, nil
}

// take checks what was sent, and takes over the descriptors.
func (m *member) take(r *wire.Request, fds []int) error {
	for _, fd := range fds {
		m.Files = append(m.Files, rootfs.Tree{FD: fd}) // what is not another's
	}
	if r.Member == nil || r.Container == "" || len(fds) < wire.MemberFiles {
		return errors.New("no container that could be made")
	}
	m.ID, m.Bundle, m.Same, m.lock, m.Files = r.Container, r.Member.Bundle, r.Same, fds[1], m.Files[wire.MemberFiles:]
	raw, err := readSealed(fds[0], "the configuration")
	if err != nil {
		return err
	}
	cfg, err := oci.Parse("config.json", raw)
	if err != nil {
		return err
	}
	m.Spec = cfg.Spec
	if m.Spec.Process == nil || len(m.Spec.Process.Args) == 0 || m.Spec.Root == nil || m.Spec.Linux == nil {
		return errors.New("no configuration of a container")
	}
	rest, streams := fds[wire.MemberFiles:], stream.Count
	if m.Spec.Process.Terminal {
		streams = 1
	}
	if len(rest) != streams+len(r.Member.Below) {
		return fmt.Errorf("%d descriptors of standard streams and files", len(rest))
	}
	m.Streams, m.Files = rest[:streams], m.Files[streams:]
	for i, below := range r.Member.Below {
		m.Files[i].Below = below
	}
	return checkTrees(m.Spec.Mounts, m.Bundle, m.Files)
}

// release gives up what the container has of the descriptors, and of its pid namespace.
func (m *member) release() {
	for _, t := range m.Files {
		unix.Close(t.FD)
	}
	for _, fd := range m.Streams {
		unix.Close(fd)
	}
	m.pausing.Lock()
	if m.lock >= 0 {
		unix.Close(m.lock)
	}
	m.lock = -1
	m.pausing.Unlock()
	if m.watch != nil {
		m.watch.close()
	}
	if m.group != nil {
		m.group.remove()
	}
	m.kept.Return()
	ctx := m.kernel.SupervisorContext()
	if m.pids != nil {
		m.pids.DecRef(ctx)
		m.ipc.DecRef(ctx)
		m.uts.DecRef(ctx)
	}
}

// enterNamespaces takes references to the namespaces that the container has: new ones where its configuration has one without a
// path, else the pod's.
func (m *member) enterNamespaces(r *wire.Member) error {
	k, users, ctx := m.kernel, m.kernel.RootUserNamespace(), m.kernel.SupervisorContext()
	pids, ipc, uts := k.RootPIDNamespace(), k.RootIPCNamespace(), k.RootUTSNamespace()
	if r.PIDs == "" {
		pids = pids.NewChild(ctx, k, users)
	} else {
		c, err := m.Sandbox.container(r.PIDs)
		if err != nil {
			return err
		}
		pids = c.pids
		if err := c.add(func() error { pids.IncRef(); return nil }); err != nil {
			return err
		}
	}
	if m.makes(specs.IPCNamespace) {
		ipc = kernel.NewIPCNamespace(users)
		if err := ipc.InitPosixQueues(ctx, k.VFS(), auth.NewRootCredentials(users)); err != nil {
			pids.DecRef(ctx)
			return err
		}
		ipc.SetInode(k.GetNamespaceInode(ctx, ipc).(*nsfs.Inode))
	} else {
		ipc.IncRef()
	}
	if m.makes(specs.UTSNamespace) {
		uts = m.names(m.Spec, users)
		uts.SetInode(k.GetNamespaceInode(ctx, uts).(*nsfs.Inode))
	} else {
		uts.IncRef()
	}
	m.pids, m.ipc, m.uts = pids, ipc, uts
	return nil
}

// makes tells whether the container's configuration has a new namespace of that type.
func (c *container) makes(t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(c.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t && ns.Path == "" })
}

// checkTrees checks the trees of a member: as many as its configuration has mounts for; directories and regular files; each a
// mount of its own, since the names of one lead to all of it.
func checkTrees(mounts []specs.Mount, bundle string, trees []rootfs.Tree) error {
	want := 1
	for i, s := range mounts {
		p, err := mnt.Parse(i, s, bundle)
		if err != nil {
			return err
		}
		if p.Bind {
			want++
		}
	}
	seen := make(map[uint64]bool)
	for i, t := range trees {
		var st unix.Statx_t
		if err := unix.Statx(t.FD, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE|unix.STATX_MNT_ID, &st); err != nil {
			return os.NewSyscallError("statx", err)
		}
		if t.Below == "" {
			want--
		}
		kind := st.Mode & unix.S_IFMT
		switch {
		case i == 0 && (kind != unix.S_IFDIR || t.Below != ""), kind != unix.S_IFDIR && kind != unix.S_IFREG:
			return fmt.Errorf("file %d: neither a directory nor a regular file", i)
		case st.Mask&unix.STATX_MNT_ID != 0 && seen[st.Mnt_id]:
			return fmt.Errorf("file %d: of the same mount as another", i)
		}
		seen[st.Mnt_id] = true
	}
	if want != 0 {
		return fmt.Errorf("%d files of the host, which are not those of the configuration", len(trees))
	}
	return nil
}

// discard ends a member and waits until nothing is left of it. Without one of that id there is nothing to do.
func (s *Sandbox) discard(id string) error {
	m := s.members.hangUp(id)
	if m == nil {
		return nil
	}
	if !m.waitGone() {
		return &fault.Error{Kind: fault.BadState, Err: fmt.Errorf("processes of %s do not end", id)}
	}
	return nil
}

func endOf(ws unix.WaitStatus) wire.End {
	if ws.Signaled() {
		return wire.End{Code: 128 + uint32(ws.Signal()), Signal: uint32(ws.Signal())}
	}
	return wire.End{Code: uint32(ws.ExitStatus())}
}
