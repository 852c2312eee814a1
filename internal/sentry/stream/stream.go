// Package stream makes files of a sandbox's kernel of the host's descriptors that a process is given: its standard streams, and what
// comes behind them. Package boot has it do so for each process that is made, and for those that are restored.
package stream

import (
	"fmt"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/sentry/errno"
)

// Count is how many standard streams a process has.
const Count = 3

// Importer makes what a process has of the host's descriptors.
type Importer struct {
	Mount   *vfs.Mount // the kernel's, of what it has of the host's
	User    specs.User // whose the files are
	Sockets *Sockets   // gets those that are sockets
	// Name is the container's if the process is its first, whose streams are there again when it is restored; else "".
	Name string
	// Polled tells afterwards which of those streams are waited for: pipes, and terminals of the host's. Regular files and the
	// null device never are.
	Polled [Count]bool
}

// Streams makes the host's descriptors, which it takes over, those from 0 on of a process. alike says which of them are the same as
// others.
func (i *Importer) Streams(ctx context.Context, table *kernel.FDTable, stdio, alike [Count]int) (err error) {
	var files []*vfs.FileDescription
	left := stdio[:]
	defer func() {
		for _, f := range files { // the table has them; or, after an error, nobody
			f.DecRef(ctx)
		}
		for _, fd := range left { // after an error; who waits for the end of a pipe must not wait for this process
			unix.Close(fd)
		}
	}()
	var by [Count]*vfs.FileDescription
	for number, fd := range stdio {
		left = stdio[number+1:]
		if j := alike[number]; j >= 0 && j < number && by[j] != nil {
			by[number] = by[j]
			unix.Close(fd)
		} else {
			if by[number], err = i.file(ctx, number, fd); err != nil {
				return err
			}
			files = append(files, by[number])
		}
		if _, err := table.NewFDAt(ctx, int32(number), by[number], kernel.FDFlags{}); err != nil {
			return err
		}
	}
	return nil
}

// Extra makes the host's descriptors, which it takes over, those of a process that come behind the standard streams.
func (i *Importer) Extra(ctx context.Context, table *kernel.FDTable, extra []int) error {
	for n, fd := range extra {
		number := Count + n
		f, err := i.file(ctx, number, fd)
		if err != nil {
			for _, fd := range extra[n+1:] { // that one is gone
				unix.Close(fd)
			}
			return fmt.Errorf("descriptor %d: %w", number, errno.Of(err))
		}
		_, err = table.NewFDAt(ctx, int32(number), f, kernel.FDFlags{})
		f.DecRef(ctx) // the table has one
		if err != nil {
			for _, fd := range extra[n+1:] {
				unix.Close(fd)
			}
			return fmt.Errorf("descriptor %d: %w", number, errno.Of(err))
		}
	}
	return nil
}

// Same tells of each stream which one is the same open file: itself, or one before it. Standard error is standard output
// where a shell was told 2>&1, and then both have one offset.
func Same(stdio [Count]int) (alike [Count]int) {
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

// kind is what kind of file of the host's a standard stream is.
type kind int

const (
	held   kind = iota // regular files, and the null device: never waited for
	polled             // pipes, and terminals of the host's
	socket
)

// Sockets are files that are sockets of the host's. The kernel would save them by the numbers of their descriptors.
type Sockets struct {
	mu   sync.Mutex
	list []*vfs.FileDescription
}

func (s *Sockets) add(f *vfs.FileDescription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, f)
}

// Open tells whether some process has one of them open.
func (s *Sockets) Open(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(f *vfs.FileDescription) bool {
		if !f.TryIncRef() {
			return true
		}
		f.DecRef(ctx)
		return false
	})
	return len(s.list) > 0
}

// file makes a file of a descriptor, which it takes over. Those of the container's first process, which is not there yet, are there
// again when it is restored; those of others are not.
func (i *Importer) file(ctx context.Context, number, fd int) (*vfs.FileDescription, error) {
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_PATH != 0 {
		unix.Close(fd)
		return nil, unix.EBADF
	}
	if unseekable(fd) {
		unix.Close(fd) // NewFD refuses it, too, but leaves it open
		return nil, unix.ESPIPE
	}
	o := &host.NewFDOptions{VirtualOwner: true, UID: auth.KUID(i.User.UID), GID: auth.KGID(i.User.GID), Savable: true}
	kind := kindOf(fd)
	if i.Name != "" {
		o.Restorable, o.RestoreKey = true, host.MakeResourceID(i.Name, number)
		i.Polled[number] = kind == polled
	}
	f, err := host.NewFD(ctx, i.Mount, fd, o)
	if err == nil && kind == socket {
		i.Sockets.add(f)
	}
	if err != nil || kind != held {
		return f, err
	}
	return shareOffset(ctx, f, fd, o.RestoreKey)
}

func kindOf(fd int) kind {
	var st unix.Stat_t
	switch {
	case unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return socket
	case pollable(fd):
		return polled
	}
	return held
}

// unseekable tells whether it is a regular file that can't seek, and so is not to be mapped either: the kernel has none.
func unseekable(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	_, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	return err == unix.ESPIPE
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
