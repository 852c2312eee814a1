package boot

import (
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/hostfd"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// sharedFile is a regular file of the host's that others have open by the same description, as the shell has that called hull.
// The kernel would read and write it at offsets of its own; here they are the description's, as in native isolation.
type sharedFile struct {
	vfs.FileDescriptionImpl // of below: all that has nothing to do with the offset
	vfsfd                   vfs.FileDescription
	below                   *vfs.FileDescription

	mu sync.Mutex
	fd int // a copy: below has the other
}

// shareOffset returns a description of the same file, which takes over that one.
func shareOffset(ctx context.Context, below *vfs.FileDescription, hostFD int) (*vfs.FileDescription, error) {
	fd, err := unix.FcntlInt(uintptr(hostFD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		below.DecRef(ctx)
		return nil, err
	}
	f := &sharedFile{FileDescriptionImpl: below.Impl(), below: below, fd: fd}
	creds := auth.CredentialsFromContext(ctx)
	if err := f.vfsfd.Init(f, below.StatusFlags(), creds, below.Mount(), below.Dentry(), &vfs.FileDescriptionOptions{}); err != nil {
		f.Release(ctx)
		return nil, err
	}
	return &f.vfsfd, nil
}

// Release implements vfs.FileDescriptionImpl.
func (f *sharedFile) Release(ctx context.Context) {
	unix.Close(f.fd)
	f.below.DecRef(ctx)
}

// Read implements vfs.FileDescriptionImpl.
func (f *sharedFile) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	if opts.Flags&^linux.RWF_HIPRI != 0 {
		return 0, linuxerr.EOPNOTSUPP
	}
	rw := hostfd.GetReadWriterAt(int32(f.fd), -1, 0) // at the description's offset
	defer hostfd.PutReadWriterAt(rw)
	return dst.CopyOutFrom(ctx, rw)
}

// Write implements vfs.FileDescriptionImpl.
func (f *sharedFile) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (n int64, err error) {
	if opts.Flags != 0 {
		return 0, linuxerr.EOPNOTSUPP
	}
	f.mu.Lock()
	flags := f.vfsfd.StatusFlags()
	if flags&linux.O_APPEND != 0 { // the host's may not have it: fcntl(2) has set it here
		if _, err := unix.Seek(f.fd, 0, unix.SEEK_END); err != nil {
			f.mu.Unlock()
			return 0, err
		}
	}
	rw := hostfd.GetReadWriterAt(int32(f.fd), -1, 0)
	n, err = src.CopyInTo(ctx, rw)
	hostfd.PutReadWriterAt(rw)
	f.mu.Unlock()
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
func (s *Sandbox) importStreams(ctx context.Context, table *kernel.FDTable, stdio, alike [3]int, u specs.User) (files []*vfs.FileDescription, err error) {
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
			if by[number], err = s.newStream(ctx, fd, u); err != nil {
				s.closeStreams(files)
				return nil, err
			}
			files = append(files, by[number])
		}
		if _, err := table.NewFDAt(ctx, int32(number), by[number], kernel.FDFlags{}); err != nil {
			s.closeStreams(files)
			return nil, err
		}
	}
	return files, nil
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

func (s *Sandbox) newStream(ctx context.Context, fd int, u specs.User) (*vfs.FileDescription, error) {
	f, err := host.NewFD(ctx, s.kernel.HostMount(), fd, &host.NewFDOptions{
		VirtualOwner: true, UID: auth.KUID(u.UID), GID: auth.KGID(u.GID),
	})
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		return shareOffset(ctx, f, fd)
	}
	return f, nil
}
