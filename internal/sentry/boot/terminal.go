package boot

import (
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/marshal"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/sentry/errno"
)

// terminal is that of a process: a pseudo terminal in the container's devpts, which the process and those it starts have open
// and can find by its name, as in native isolation. What it shows is copied to one of the host's, and what is typed there is
// typed here:
//
//	caller ── master ═ slave of the host ── terminal ── master ═ slave in the sandbox ── process
//
// Editing, signals and job control are those of the one in the sandbox. The host's only passes bytes on (EXTPROC, see package
// sandbox), and has the modes of the other, for the caller to see and to set.
type terminal struct {
	ctx    context.Context // of nobody's
	task   *kernel.Task    // of the process: calls of ioctl(2) are made in its name
	host   *os.File
	master *vfs.FileDescription
	name   string // in the directory of terminals

	mu    sync.Mutex
	size  unix.Winsize
	modes unix.Termios // of the host's, as they were set last

	copying sync.WaitGroup
	stop    chan struct{} // closed to end the copying; nil if it has not begun
	typed   []byte        // what the process's terminal had no room for yet; of copyIn
	shown   []byte        // what nobody took yet; of copyOut

	ended   chan struct{} // closed when the process has ended
	drained chan struct{} // closed when then all is copied that it has written
	closed  chan struct{}
	emptied sync.Once // for drained
	once    sync.Once // for close
	among   *terminals
}

// terminals are those that there are.
type terminals struct {
	mu       sync.Mutex
	list     []*terminal
	detached bool // while the kernel is saved: nothing is copied
}

func (ts *terminals) all() []*terminal {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return slices.Clone(ts.list)
}

func (ts *terminals) add(t *terminal) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.list, t.among = append(ts.list, t), ts
}

func (ts *terminals) remove(t *terminal) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.list = slices.DeleteFunc(ts.list, func(o *terminal) bool { return o == t })
}

// begin begins the copying of a terminal, or leaves that to attach.
func (ts *terminals) begin(t *terminal) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.stop = make(chan struct{})
	if !ts.detached {
		t.attach()
	}
}

// detach ends the copying of all, also of those that begin now; attach begins it again.
func (ts *terminals) detach() {
	ts.mu.Lock()
	ts.detached = true
	list := slices.Clone(ts.list)
	ts.mu.Unlock()
	for _, t := range list {
		t.detach()
	}
}

func (ts *terminals) attach() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.detached = false
	for _, t := range ts.list {
		t.attach()
	}
}

const ptsDir = "/dev/pts"

// newTerminal makes the terminal of a process that was not started yet, which becomes its controlling terminal and its
// descriptors 0, 1 and 2. It takes over the host's slave.
func (c *container) newTerminal(tg *kernel.ThreadGroup, table *kernel.FDTable, slave int) (t *terminal, err error) {
	t = newCopier(c.kernel.SupervisorContext(), tg)
	err = unix.SetNonblock(slave, true) // nobody else has this description
	t.host = os.NewFile(uintptr(slave), "terminal")
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	ctx := t.task.AsyncContext()
	dir, err := c.openPts(ctx)
	if err != nil {
		return nil, err
	}
	defer dir.DecRef(ctx)
	root := auth.NewRootCredentials(c.kernel.RootUserNamespace())
	at := func(name string) *vfs.PathOperation {
		return &vfs.PathOperation{Root: dir, Start: dir, Path: fspath.Parse(name)}
	}
	v := c.kernel.VFS()
	if t.master, err = v.OpenAt(ctx, root, at("ptmx"), &vfs.OpenOptions{Flags: linux.O_RDWR | linux.O_NOCTTY | linux.O_NONBLOCK}); err != nil {
		return nil, err
	}
	var n primitive.Uint32
	if err := t.ioctl(linux.TIOCGPTN, &n); err != nil {
		return nil, err
	}
	t.name = strconv.FormatUint(uint64(n), 10)
	if err := v.SetStatAt(ctx, root, at(t.name), &vfs.SetStatOptions{Stat: c.ptsOwner(t.task.Credentials())}); err != nil {
		return nil, err
	}
	replica, err := v.OpenAt(ctx, root, at(t.name), &vfs.OpenOptions{Flags: linux.O_RDWR})
	if err != nil {
		return nil, err
	}
	defer replica.DecRef(ctx)
	for fd := range int32(3) {
		if _, err := table.NewFDAt(ctx, fd, replica, kernel.FDFlags{}); err != nil {
			return nil, err
		}
	}
	c.terminals.add(t)
	return t, nil
}

// adopt makes a terminal of one that was restored, for the first process. It takes over the host's slave.
func (s *Sandbox) adopt(tg *kernel.ThreadGroup, had *remembered, slave int) (*terminal, error) {
	t := newCopier(s.kernel.SupervisorContext(), tg)
	if err := unix.SetNonblock(slave, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	t.host, t.master, t.name = os.NewFile(uintptr(slave), "terminal"), had.master, had.terminal
	s.terminals.add(t)
	return t, nil
}

func newCopier(ctx context.Context, tg *kernel.ThreadGroup) *terminal {
	return &terminal{ctx: ctx, task: tg.Leader(), ended: make(chan struct{}), drained: make(chan struct{}), closed: make(chan struct{})}
}

// takeTerminal makes the host's terminal, if there is one, the controlling one of this process, which then gets its SIGWINCH,
// and its SIGHUP. It leaves the slave alone: the other streams of a process with a terminal are none.
func (c *container) takeTerminal() error {
	if !c.Spec.Process.Terminal {
		return nil
	}
	for _, fd := range c.Streams[1:] {
		unix.Close(fd)
	}
	c.Streams = c.Streams[:1]
	if err := unix.IoctlSetInt(c.Streams[0], unix.TIOCSCTTY, 0); err != nil {
		return errno.InField("process.terminal", os.NewSyscallError("ioctl TIOCSCTTY", err))
	}
	return nil
}

// bindConsole mounts the terminal of the first process on /dev/console.
func (c *container) bindConsole() error {
	ctx := c.init.group.Leader().AsyncContext()
	ns := vfs.MountNamespaceFromContext(ctx)
	defer ns.DecRef(ctx)
	m := &mounter{container: c, ctx: ctx, creds: auth.NewRootCredentials(c.kernel.RootUserNamespace()), root: ns.Root(ctx)}
	defer m.root.DecRef(ctx)
	console := "/dev/console"
	if err := m.makePath(&console, true); err != nil {
		return err
	}
	return c.kernel.VFS().BindAt(ctx, m.creds, m.at(path.Join(ptsDir, c.init.terminal.name)), m.at(console), false)
}

// openPts returns the container's directory of terminals, if it is one: the image may have put there what it wants.
func (c *container) openPts(ctx context.Context) (dir vfs.VirtualDentry, err error) {
	ns := vfs.MountNamespaceFromContext(ctx)
	if ns == nil {
		return dir, unix.ESRCH
	}
	defer ns.DecRef(ctx)
	root := ns.Root(ctx)
	defer root.DecRef(ctx)
	dir, err = c.kernel.VFS().GetDentryAt(ctx, auth.NewRootCredentials(c.kernel.RootUserNamespace()),
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(ptsDir)}, &vfs.GetDentryOptions{})
	if err != nil {
		return dir, &fault.Error{Step: "open " + ptsDir, Err: errno.Of(err)}
	}
	if dir.Mount().Filesystem().FilesystemType().Name() != devpts.Name {
		dir.DecRef(ctx)
		return dir, &fault.Error{Step: ptsDir + " is no mount of devpts", Err: unix.ENODEV}
	}
	return dir, nil
}

// ptsOwner returns the owner and mode that terminals of a process have: the user's, and what the options of the devpts say,
// as in native isolation.
func (c *container) ptsOwner(creds *auth.Credentials) linux.Statx {
	st := linux.Statx{Mask: linux.STATX_UID | linux.STATX_GID | linux.STATX_MODE,
		UID: uint32(creds.EffectiveKUID), GID: uint32(creds.EffectiveKGID), Mode: 0o600}
	for i, spec := range slices.Backward(c.Spec.Mounts) {
		if path.Clean(spec.Destination) != ptsDir {
			continue
		}
		parsed, err := mnt.Parse(i, spec, c.Bundle)
		if err != nil {
			break
		}
		for o := range strings.SplitSeq(strings.Join(parsed.Data, ","), ",") {
			key, value, _ := strings.Cut(o, "=")
			switch key {
			case "uid":
				st.UID = number(value, 10, st.UID)
			case "gid":
				st.GID = number(value, 10, st.GID)
			case "mode":
				st.Mode = uint16(number(value, 8, uint32(st.Mode))) & 0o777
			}
		}
		break
	}
	return st
}

func number(s string, base int, otherwise uint32) uint32 {
	if n, err := strconv.ParseUint(s, base, 32); err == nil {
		return uint32(n)
	}
	return otherwise
}

// ioctl makes a call of ioctl(2) on the master, in the name of the process, by way of a page of its memory: terminals know
// no other. The page is there for that moment only.
func (t *terminal) ioctl(request uint32, arg marshal.Marshallable) error {
	for try := 0; ; try++ {
		err := t.tryIoctl(request, arg)
		// The page was one of a program that has executed another in that moment.
		if !linuxerr.Equals(linuxerr.EFAULT, err) || try == 10 {
			return errno.Of(err)
		}
	}
}

func (t *terminal) tryIoctl(request uint32, arg marshal.Marshallable) (err error) {
	var memory *mm.MemoryManager
	t.task.WithMuLocked(func(task *kernel.Task) {
		if m := task.MemoryManager(); m != nil && m.IncUsers() {
			memory = m
		}
	})
	if memory == nil {
		return unix.ESRCH
	}
	ctx := t.task.AsyncContext()
	defer memory.DecUsers(ctx)
	defer func() {
		// What has no memory any more, because it ends in this moment, is not expected to make calls.
		if recover() != nil {
			err = unix.ESRCH
		}
	}()
	page, err := memory.MMap(ctx, memmap.MMapOpts{Length: hostarch.PageSize, Private: true,
		Perms: hostarch.ReadWrite, MaxPerms: hostarch.AnyAccess})
	if err != nil {
		return err
	}
	defer func() { _ = memory.MUnmap(ctx, page, hostarch.PageSize) }()
	b := make([]byte, arg.SizeBytes())
	arg.MarshalUnsafe(b)
	if _, err := memory.CopyOut(ctx, page, b, usermem.IOOpts{}); err != nil {
		return err
	}
	args := arch.SyscallArguments{{}, {Value: uintptr(request)}, {Value: uintptr(page)}}
	if _, err := t.master.Ioctl(ctx, memory, unix.SYS_IOCTL, args); err != nil {
		return err
	}
	if _, err := memory.CopyIn(ctx, page, b, usermem.IOOpts{}); err != nil {
		return err
	}
	arg.UnmarshalUnsafe(b)
	return nil
}

// begin gives the process's terminal the size and modes that the host's has got, and begins to copy. It comes right before the
// process's first instruction.
func (t *terminal) begin() {
	t.resize()
	if modes, err := t.hostModes(); err == nil && t.ioctl(linux.TCSETS, insideModes(modes)) == nil {
		t.setHost(modes)
	}
	t.among.begin(t)
}

// goOn is begin for a terminal that was restored: that has the modes, and the host's gets them.
func (t *terminal) goOn() {
	t.resize()
	var in linux.Termios
	if t.ioctl(linux.TCGETS, &in) == nil {
		t.setHost(outsideModes(&in))
	}
	t.among.begin(t)
}

// attach begins the copying, unless it is over.
func (t *terminal) attach() {
	select {
	case <-t.closed:
		return
	default:
	}
	if t.stop == nil {
		return
	}
	t.stop = make(chan struct{})
	_ = t.host.SetDeadline(time.Time{})
	t.master.IncRef() // copyIn's
	t.copying.Add(2)
	go t.copyIn(t.stop)
	go t.copyOut(t.stop)
}

// detach ends the copying: the kernel can't save what waits for its files.
func (t *terminal) detach() {
	if t.stop == nil {
		return
	}
	close(t.stop)
	_ = t.host.SetDeadline(time.Unix(1, 0))
	t.copying.Wait()
}

// resize gives the process's terminal the size of the host's, and tells whether that was another before: the foreground
// processes then get their SIGWINCH from the terminal.
func (t *terminal) resize() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ws, err := unix.IoctlGetWinsize(t.fd(), unix.TIOCGWINSZ)
	if err != nil || *ws == t.size {
		return false
	}
	t.size = *ws
	return t.ioctl(linux.TIOCSWINSZ, &linux.Winsize{Row: ws.Row, Col: ws.Col, Xpixel: ws.Xpixel, Ypixel: ws.Ypixel}) == nil
}

// fd returns the host's slave. File.Fd would make it a blocking one.
func (t *terminal) fd() (fd int) {
	fd = -1
	if c, err := t.host.SyscallConn(); err == nil {
		_ = c.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

func (t *terminal) hostModes() (unix.Termios, error) {
	m, err := unix.IoctlGetTermios(t.fd(), unix.TCGETS)
	if err != nil {
		return unix.Termios{}, err
	}
	m.Ispeed, m.Ospeed = 0, 0 // TCGETS has none
	return *m, nil
}

// hostOf returns the modes of the host's terminal beside those of the process's: the same, but for what would change bytes,
// or keep them back.
func hostOf(m unix.Termios) unix.Termios {
	m.Iflag &^= unix.ISTRIP | unix.IUCLC // EXTPROC doesn't hold with these
	m.Oflag &^= unix.OPOST
	m.Lflag |= unix.EXTPROC
	m.Cc[unix.VMIN], m.Cc[unix.VTIME] = 1, 0
	return m
}

func (t *terminal) setHost(m unix.Termios) {
	m = hostOf(m)
	if unix.IoctlSetTermios(t.fd(), unix.TCSETS, &m) == nil {
		t.modes = m
	}
}

func insideModes(m unix.Termios) *linux.Termios {
	in := &linux.Termios{InputFlags: m.Iflag, OutputFlags: m.Oflag, ControlFlags: m.Cflag, LocalFlags: m.Lflag &^ unix.EXTPROC,
		LineDiscipline: m.Line}
	copy(in.ControlCharacters[:], m.Cc[:])
	return in
}

func outsideModes(in *linux.Termios) (m unix.Termios) {
	m = unix.Termios{Iflag: in.InputFlags, Oflag: in.OutputFlags, Cflag: in.ControlFlags, Lflag: in.LocalFlags, Line: in.LineDiscipline}
	copy(m.Cc[:], in.ControlCharacters[:])
	return m
}

// sync carries modes over, in both directions: what the caller has changed at the host's terminal since it was set last, and what
// the process has at its own.
func (t *terminal) sync() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, err := t.hostModes()
	var in linux.Termios
	if err != nil || t.ioctl(linux.TCGETS, &in) != nil {
		return
	}
	theirs := outsideModes(&in)
	if now != t.modes {
		theirs = changed(theirs, t.modes, now)
		_ = t.ioctl(linux.TCSETS, insideModes(theirs))
	} else if hostOf(theirs) == now {
		return
	}
	t.setHost(theirs)
}

// changed returns m with what is different in two other modes.
func changed(m, old, now unix.Termios) unix.Termios {
	for _, f := range []struct{ m, old, now *uint32 }{
		{&m.Iflag, &old.Iflag, &now.Iflag}, {&m.Oflag, &old.Oflag, &now.Oflag},
		{&m.Cflag, &old.Cflag, &now.Cflag}, {&m.Lflag, &old.Lflag, &now.Lflag},
	} {
		which := *f.old ^ *f.now
		*f.m = *f.m&^which | *f.now&which
	}
	for i := range m.Cc {
		if old.Cc[i] != now.Cc[i] {
			m.Cc[i] = now.Cc[i]
		}
	}
	return m
}

// copyIn types what comes from the host's terminal.
func (t *terminal) copyIn(stop <-chan struct{}) {
	defer t.copying.Done()
	defer t.master.DecRef(t.ctx)
	room, writable := waiter.NewChannelEntry(waiter.WritableEvents)
	if err := t.master.EventRegister(&room); err != nil {
		return
	}
	defer t.master.EventUnregister(&room)
	buf := make([]byte, 4096)
	for {
		if len(t.typed) == 0 {
			n, err := t.host.Read(buf)
			if errors.Is(err, io.EOF) {
				// The end-of-file character alone, unless the terminal is gone.
				m, gone := t.hostModes()
				if gone != nil {
					return
				}
				buf[0], n, err = m.Cc[unix.VEOF], 1, nil
			}
			if err != nil {
				return
			}
			t.typed = buf[:n]
			t.sync()
		}
		for len(t.typed) > 0 {
			n, err := t.master.Write(t.ctx, usermem.BytesIOSequence(t.typed), vfs.WriteOptions{})
			if t.signals(t.typed[:n]) {
				t.letGoOn()
			}
			t.typed = t.typed[n:]
			if err == nil {
				continue
			}
			if !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
				return
			}
			select {
			case <-writable:
			case <-t.closed:
				return
			case <-stop:
				return
			}
		}
	}
}

// signals tells whether something of what was typed may be a signal for the job in the foreground.
func (t *terminal) signals(typed []byte) bool {
	t.mu.Lock()
	cc := t.modes.Cc
	t.mu.Unlock()
	for _, c := range typed {
		if c != 0 && (c == cc[unix.VSUSP] || c == cc[unix.VINTR] || c == cc[unix.VQUIT]) { // 0 is none
			return true
		}
	}
	return false
}

// letGoOn undoes stops in the process's job that nobody else could undo. The process leads its session, so that no shell is
// above it, and Linux does not stop such a job, an orphaned process group, for a ^Z (setpgid(2)); this kernel does. What stops
// itself, as editors do at a ^Z, goes on at the next one, or at the ^C that shall end it. Who handles or ignores ^Z, as a shell
// does that has jobs, is left alone.
func (t *terminal) letGoOn() {
	job := t.task.ThreadGroup().ProcessGroup()
	if job == nil {
		return // the process has ended
	}
	for _, tg := range t.task.PIDNamespace().ThreadGroups() {
		if tg.ProcessGroup() != job {
			continue
		}
		if action, err := tg.SetSigAction(linux.SIGTSTP, nil); err == nil && action.Handler == linux.SIG_DFL {
			_ = tg.SendSignal(kernel.SignalInfoPriv(linux.SIGCONT))
		}
	}
}

// hangupPause is how long a terminal that nobody has open is left alone: the process may open it again.
const hangupPause = 100 * time.Millisecond

// copyOut shows what the process writes, and after its end those that it has left behind. Where nobody takes it any more, it is
// lost.
func (t *terminal) copyOut(stop <-chan struct{}) {
	defer t.copying.Done()
	defer func() {
		select {
		case <-stop:
		default:
			t.close()
		}
	}()
	more, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp)
	if err := t.master.EventRegister(&more); err != nil {
		t.emptied.Do(func() { close(t.drained) })
		return
	}
	defer t.master.EventUnregister(&more)
	buf := make([]byte, 4096)
	ended, over := t.ended, false
	for {
		select {
		case <-stop:
			return
		default:
		}
		if len(t.shown) > 0 {
			n, err := t.host.Write(t.shown)
			if t.shown = t.shown[n:]; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.shown = nil
			}
			continue
		}
		n, err := t.master.Read(t.ctx, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
		if n > 0 {
			t.sync()
			t.shown = buf[:n]
			continue
		}
		if over && ended != nil {
			ended = nil
			t.emptied.Do(func() { close(t.drained) })
		}
		nobody := !linuxerr.Equals(linuxerr.ErrWouldBlock, err)
		if nobody && over {
			return
		}
		var again <-chan time.Time
		if nobody {
			again = time.After(hangupPause)
		}
		select {
		case <-readable:
		case <-again:
		case <-ended:
			over = true
		case <-stop:
			return
		}
	}
}

// leave waits, after the process's end, until all is copied that it has written; for one that was killed only a moment, since
// the caller may be the one who doesn't read.
func (t *terminal) leave(ws unix.WaitStatus) {
	close(t.ended)
	var enough <-chan time.Time
	if ws.Signaled() {
		enough = time.After(time.Second)
	}
	select {
	case <-t.drained:
	case <-enough:
	}
}

// close gives the terminal up. Who has the other end finds a hangup.
func (t *terminal) close() {
	t.once.Do(func() {
		close(t.closed)
		if t.among != nil {
			t.among.remove(t)
		}
		t.host.Close()
		if t.master != nil {
			t.master.DecRef(t.ctx)
		}
	})
}
