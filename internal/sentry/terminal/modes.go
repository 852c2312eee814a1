package terminal

import (
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/marshal"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/usermem"

	"hull/internal/sentry/errno"
)

// ioctl makes a call of ioctl(2) on the master, in the name of the process, by way of a page of its memory: terminals know
// no other. The page is there for that moment only.
func (t *Terminal) ioctl(request uint32, arg marshal.Marshallable) error {
	for try := 0; ; try++ {
		err := t.tryIoctl(request, arg)
		// The page was one of a program that has executed another in that moment.
		if !linuxerr.Equals(linuxerr.EFAULT, err) || try == 10 {
			return errno.Of(err)
		}
	}
}

func (t *Terminal) tryIoctl(request uint32, arg marshal.Marshallable) (err error) {
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

// Resize gives the process's terminal the size of the host's, and tells whether that was another before: the foreground
// processes then get their SIGWINCH from the terminal.
func (t *Terminal) Resize() bool {
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
func (t *Terminal) fd() (fd int) {
	fd = -1
	if c, err := t.host.SyscallConn(); err == nil {
		_ = c.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

func (t *Terminal) hostModes() (unix.Termios, error) {
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

func (t *Terminal) setHost(m unix.Termios) {
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
func (t *Terminal) sync() {
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
