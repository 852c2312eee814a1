package boot

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// stream is a standard stream: a file that the host has open for the container.
//
// The kernel reads and writes a regular file of the host's at offsets of its own, while other programs that have it open by
// the same description, as the shell that has called hull, go by the host's. So it begins at that one, and leaves it where
// it ends.
type stream struct {
	ctx    context.Context
	fd     int // a copy: the kernel has the other
	offset bool
	begin  int64
	file   *vfs.FileDescription
}

// importStreams makes the host's descriptors those from 0 on of a process.
func (s *Sandbox) importStreams(ctx context.Context, table *kernel.FDTable, stdio, alike [3]int, u specs.User) (files []*stream, err error) {
	var by [3]*stream
	for number, fd := range stdio {
		if i := alike[number]; i >= 0 && i < number && by[i] != nil {
			by[number] = by[i]
			unix.Close(fd)
		} else {
			if by[number], err = s.newStream(ctx, fd, u); err != nil {
				closeStreams(files)
				return nil, err
			}
			files = append(files, by[number])
		}
		if _, err := table.NewFDAt(ctx, int32(number), by[number].file, kernel.FDFlags{}); err != nil {
			closeStreams(files)
			return nil, err
		}
	}
	return files, nil
}

func closeStreams(files []*stream) {
	for _, f := range files {
		f.close()
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

func (s *Sandbox) newStream(ctx context.Context, fd int, u specs.User) (*stream, error) {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := &stream{ctx: s.kernel.SupervisorContext(), fd: copied}
	f.file, err = host.NewFD(ctx, s.kernel.HostMount(), fd, &host.NewFDOptions{
		VirtualOwner: true, UID: auth.KUID(u.UID), GID: auth.KGID(u.GID),
	})
	if err != nil {
		unix.Close(copied)
		return nil, err
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		if at, err := unix.Seek(fd, 0, unix.SEEK_CUR); err == nil && at >= 0 {
			_, err = f.file.Seek(ctx, at, linux.SEEK_SET)
			f.offset, f.begin = err == nil, at
		}
	}
	return f, nil
}

// close gives the file up: who waits for the end of a pipe must not wait for this process.
func (f *stream) close() {
	unix.Close(f.fd)
	f.file.DecRef(f.ctx)
}

// leave puts the host's offset where the container's is, if that has moved: another process may have written meanwhile.
func (f *stream) leave() {
	defer f.close()
	if !f.offset {
		return
	}
	if at, err := f.file.Seek(f.ctx, 0, linux.SEEK_CUR); err == nil && at != f.begin {
		_, _ = unix.Seek(f.fd, at, unix.SEEK_SET)
	}
}
