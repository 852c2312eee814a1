package stream

import (
	gocontext "context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fdnotifier"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/hostfd"
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

// The four methods that follow say to the kernel's encoder what there is to be saved. Others have theirs made by a program that is
// no part of the kernel's module.

// StateTypeName implements state.Type. An image has that name, whatever this package is called.
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
