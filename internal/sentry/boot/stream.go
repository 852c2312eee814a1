package boot

import (
	gocontext "context"
	"fmt"
	"hull/internal/sentry/errno"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fdnotifier"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/hostfd"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

// sharedFile is a regular file of the host's that others have open by the same description, as the shell has that called hull.
// The kernel would read and write it at offsets of its own; here they are the description's, as in native isolation.
type sharedFile struct {
	vfs.FileDescriptionImpl // of below: all that has nothing to do with the offset
	vfsfd                   vfs.FileDescription
	below                   *vfs.FileDescription

	key checkpoint.ResourceID // names the descriptor that is there after a restore; or empty

	mu sync.Mutex
	fd int // a copy: below has the other; -1 after a restore that had none

	// After a restore the descriptor may be another kind of file, that is waited for.
	polled bool
	queue  waiter.Queue
}

// shareOffset returns a description of the same file, which takes over that one.
func shareOffset(ctx context.Context, below *vfs.FileDescription, hostFD int, key checkpoint.ResourceID) (*vfs.FileDescription, error) {
	fd, err := unix.FcntlInt(uintptr(hostFD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		below.DecRef(ctx)
		return nil, err
	}
	f := &sharedFile{FileDescriptionImpl: below.Impl(), below: below, fd: fd, key: key}
	creds := auth.CredentialsFromContext(ctx)
	if err := f.vfsfd.Init(f, below.StatusFlags(), creds, below.Mount(), below.Dentry(), &vfs.FileDescriptionOptions{}); err != nil {
		f.Release(ctx)
		return nil, err
	}
	return &f.vfsfd, nil
}

// Release implements vfs.FileDescriptionImpl.
func (f *sharedFile) Release(ctx context.Context) {
	if f.polled {
		fdnotifier.RemoveFD(int32(f.fd))
	}
	unix.Close(f.fd)
	f.below.DecRef(ctx)
}

// StateTypeName implements state.Type; see remembered.
func (*sharedFile) StateTypeName() string { return "hull/internal/sentry/boot.sharedFile" }

// StateFields implements state.Type.
func (*sharedFile) StateFields() []string {
	return []string{"FileDescriptionImpl", "vfsfd", "below", "key"}
}

// StateSave implements state.SaverLoader.
func (f *sharedFile) StateSave(s state.Sink) {
	s.Save(0, &f.FileDescriptionImpl)
	s.Save(1, &f.vfsfd)
	s.Save(2, &f.below)
	s.Save(3, &f.key)
}

// StateLoad implements state.SaverLoader.
func (f *sharedFile) StateLoad(ctx gocontext.Context, s state.Source) {
	s.Load(0, &f.FileDescriptionImpl)
	s.Load(1, &f.vfsfd)
	s.Load(2, &f.below)
	s.Load(3, &f.key)
	s.AfterLoad(func() { f.reopen(vfs.RestoreFilesystemFDMapFromContext(ctx)) })
}

func init() { state.Register((*sharedFile)(nil)) }

// reopen takes a descriptor from those that a restored sandbox got.
func (f *sharedFile) reopen(files map[checkpoint.ResourceID]int) {
	f.fd = -1
	given, ok := files[f.key]
	if !ok {
		return
	}
	fd, err := unix.FcntlInt(uintptr(given), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		panic(os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err))
	}
	f.fd = fd
	if f.polled = pollable(fd); !f.polled {
		return
	}
	err = unix.SetNonblock(fd, true)
	if err == nil {
		err = fdnotifier.AddFD(int32(fd), &f.queue)
	}
	if err != nil {
		panic(err)
	}
}

// Readiness implements waiter.Waitable.
func (f *sharedFile) Readiness(mask waiter.EventMask) waiter.EventMask {
	if f.polled {
		return fdnotifier.NonBlockingPoll(int32(f.fd), mask)
	}
	return f.FileDescriptionImpl.Readiness(mask)
}

// EventRegister implements waiter.Waitable.
func (f *sharedFile) EventRegister(e *waiter.Entry) error {
	if !f.polled {
		return f.FileDescriptionImpl.EventRegister(e)
	}
	f.queue.EventRegister(e)
	if err := fdnotifier.UpdateFD(int32(f.fd)); err != nil {
		f.queue.EventUnregister(e)
		return err
	}
	return nil
}

// EventUnregister implements waiter.Waitable.
func (f *sharedFile) EventUnregister(e *waiter.Entry) {
	if !f.polled {
		f.FileDescriptionImpl.EventUnregister(e)
		return
	}
	f.queue.EventUnregister(e)
	if err := fdnotifier.UpdateFD(int32(f.fd)); err != nil {
		panic(fmt.Sprint("bug: ", err)) // it is one that was added
	}
}

// Read implements vfs.FileDescriptionImpl.
func (f *sharedFile) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	if opts.Flags&^linux.RWF_HIPRI != 0 {
		return 0, linuxerr.EOPNOTSUPP
	}
	rw := hostfd.GetReadWriterAt(int32(f.fd), -1, 0) // at the description's offset
	defer hostfd.PutReadWriterAt(rw)
	n, err := dst.CopyOutFrom(ctx, rw)
	return n, f.block(err)
}

// block returns the error that has a program wait for the file.
func (f *sharedFile) block(err error) error {
	if f.polled && linuxerr.Equals(linuxerr.EAGAIN, err) {
		return linuxerr.ErrWouldBlock
	}
	return err
}

// Write implements vfs.FileDescriptionImpl.
func (f *sharedFile) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (n int64, err error) {
	if opts.Flags != 0 {
		return 0, linuxerr.EOPNOTSUPP
	}
	f.mu.Lock()
	flags := f.vfsfd.StatusFlags()
	if flags&linux.O_APPEND != 0 { // the host's may not have it: fcntl(2) has set it here
		if _, err := unix.Seek(f.fd, 0, unix.SEEK_END); err != nil && !f.polled {
			f.mu.Unlock()
			return 0, err
		}
	}
	rw := hostfd.GetReadWriterAt(int32(f.fd), -1, 0)
	n, err = src.CopyInTo(ctx, rw)
	hostfd.PutReadWriterAt(rw)
	f.mu.Unlock()
	err = f.block(err)
	if n > 0 && flags&(linux.O_SYNC|linux.O_DSYNC) != 0 {
		if serr := f.Sync(ctx, vfs.SyncOptions{}); serr != nil {
			return n, serr
		}
	}
	return n, err
}

// Seek implements vfs.FileDescriptionImpl.
func (f *sharedFile) Seek(_ context.Context, offset int64, whence int32) (int64, error) {
	return unix.Seek(f.fd, offset, int(whence))
}

// importStreams makes the host's descriptors, which it takes over, those from 0 on of a process.
func (c *container) importStreams(ctx context.Context, table *kernel.FDTable, stdio, alike [3]int, u specs.User) (files []*vfs.FileDescription, err error) {
	left := stdio[:]
	defer func() {
		for _, fd := range left { // after an error; who waits for the end of a pipe must not wait for this process
			unix.Close(fd)
		}
	}()
	var by [3]*vfs.FileDescription
	for number, fd := range stdio {
		left = stdio[number+1:]
		if i := alike[number]; i >= 0 && i < number && by[i] != nil {
			by[number] = by[i]
			unix.Close(fd)
		} else {
			if by[number], err = c.newStream(ctx, number, fd, u); err != nil {
				c.closeStreams(files)
				return nil, err
			}
			files = append(files, by[number])
		}
		if _, err := table.NewFDAt(ctx, int32(number), by[number], kernel.FDFlags{}); err != nil {
			c.closeStreams(files)
			return nil, err
		}
	}
	return files, nil
}

// importExtra makes the host's descriptors, which it takes over, those from 3 on of a process.
func (c *container) importExtra(ctx context.Context, table *kernel.FDTable, extra []int, u specs.User) error {
	for i, fd := range extra {
		number := streams + i
		f, err := c.newStream(ctx, number, fd, u)
		if err != nil {
			for _, fd := range extra[i:] {
				unix.Close(fd)
			}
			return fmt.Errorf("descriptor %d: %w", number, errno.Of(err))
		}
		_, err = table.NewFDAt(ctx, int32(number), f, kernel.FDFlags{})
		f.DecRef(ctx) // the table has one
		if err != nil {
			for _, fd := range extra[i+1:] {
				unix.Close(fd)
			}
			return fmt.Errorf("descriptor %d: %w", number, errno.Of(err))
		}
	}
	return nil
}

// closeStreams gives files up: who waits for the end of a pipe must not wait for this process.
func (s *Sandbox) closeStreams(files []*vfs.FileDescription) {
	for _, f := range files {
		f.DecRef(s.kernel.SupervisorContext())
	}
}

// sameStreams tells of each stream which one is the same open file: itself, or one before it. Standard error is standard output
// where a shell was told 2>&1, and then both have one offset.
func sameStreams(stdio [3]int) (alike [3]int) {
	const file = 0 // KCMP_FILE, include/uapi/linux/kcmp.h; x/sys has none
	self := uintptr(unix.Getpid())
	for i := range stdio {
		alike[i] = i
		for j := range i {
			if r, _, errno := unix.RawSyscall6(unix.SYS_KCMP, self, self, file, uintptr(stdio[i]), uintptr(stdio[j]), 0); errno == 0 && r == 0 {
				alike[i] = j
				break
			}
		}
	}
	return alike
}

// streamKind is what kind of file of the host's a standard stream is.
type streamKind int

const (
	heldStream   streamKind = iota // regular files, and the null device: never waited for
	polledStream                   // pipes, and terminals of the host's
	socketStream
)

// hostSockets are files that are sockets of the host's. The kernel would save them by the numbers of their descriptors.
type hostSockets struct {
	mu   sync.Mutex
	list []*vfs.FileDescription
}

func (h *hostSockets) add(f *vfs.FileDescription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, f)
}

// open tells whether some process has one of them open.
func (h *hostSockets) open(ctx context.Context) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = slices.DeleteFunc(h.list, func(f *vfs.FileDescription) bool {
		if !f.TryIncRef() {
			return true
		}
		f.DecRef(ctx)
		return false
	})
	return len(h.list) > 0
}

// newStream makes a stream of a descriptor. Those of the container's first process, which is not there yet, are there again when it
// is restored; those of others are not.
func (c *container) newStream(ctx context.Context, number, fd int, u specs.User) (*vfs.FileDescription, error) {
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_PATH != 0 {
		unix.Close(fd)
		return nil, unix.EBADF
	}
	o := &host.NewFDOptions{VirtualOwner: true, UID: auth.KUID(u.UID), GID: auth.KGID(u.GID), Savable: true}
	kind := kindOf(fd)
	if c.init == nil {
		o.Restorable, o.RestoreKey = true, host.MakeResourceID(c.name(), number)
		c.kinds[number] = kind
	}
	f, err := host.NewFD(ctx, c.kernel.HostMount(), fd, o)
	if err == nil && kind == socketStream {
		c.hostSockets.add(f)
	}
	if err != nil || kind != heldStream {
		return f, err
	}
	return shareOffset(ctx, f, fd, o.RestoreKey)
}

func kindOf(fd int) streamKind {
	var st unix.Stat_t
	switch {
	case unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return socketStream
	case pollable(fd):
		return polledStream
	}
	return heldStream
}

// pollable tells whether a file can be waited for.
func pollable(fd int) bool {
	e, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(e)
	return unix.EpollCtl(e, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{}) == nil
}

// fit returns what takes the place of a stream that was saved: the descriptor, or, where that stream was waited for and the
// descriptor can't be, a pipe that is copied from there, or to there.
func (c *container) fit(number, fd int) (int, error) {
	if !c.restoring.polled[number] || pollable(fd) {
		return fd, nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	r, w := os.NewFile(uintptr(pipe[0]), "pipe"), os.NewFile(uintptr(pipe[1]), "pipe")
	own := os.NewFile(uintptr(fd), "stream")
	inside, from, to := r, own, w
	if number > 0 {
		inside, from, to = w, r, own
		c.pumps.Add(1)
	}
	fd, err := unix.FcntlInt(inside.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	inside.Close()
	go func() {
		// By read(2) and write(2): the filter has none of the calls that files are copied by.
		_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
		to.Close()
		if number > 0 {
			c.pumps.Done()
		}
	}()
	return fd, err
}

// drainPumps waits, when the container's first process has ended, for what it has written to a pipe that is copied; but not for
// processes that it has left behind, which may have it open, too.
func (c *container) drainPumps() {
	done := make(chan struct{})
	go func() {
		c.pumps.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}
