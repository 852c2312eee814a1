package fileserver

import (
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
)

// socket is where a socket of the host's is: its own descriptor can't be connected with, since there is no /proc.
type socket struct {
	dir  int // a descriptor of its own
	name string
}

func newSocket(dir int, name string) (*socket, error) {
	fd, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &socket{fd, name}, nil
}

// Connect implements lisafs.ControlFDImpl. Nothing else in this process has to do with its working directory, which the name is
// looked up in; a mount's own directory is what .. leads to there, and its links are not followed. Datagrams are refused: a socket of
// them could be told to send anywhere.
func (f *file) Connect(kind uint32) (int, error) {
	if f.socket == nil || kind != unix.SOCK_STREAM && kind != unix.SOCK_SEQPACKET {
		return -1, unix.ECONNREFUSED
	}
	fd, err := unix.Socket(unix.AF_UNIX, int(kind)|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	f.server.cwd.Lock()
	defer f.server.cwd.Unlock()
	if err = unix.Fchdir(f.socket.dir); err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: "./" + f.socket.name}) // a name alone could be one of an abstract socket
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// BindAt implements lisafs.ControlFDImpl: it makes a socket of the host's, with the owner and the mode that the program's has. After
// EPERM the kernel makes one of its own there; so for datagrams, since a socket of them could be told to send anywhere.
func (f *file) BindAt(name string, kind uint32, mode linux.FileMode, uid lisafs.UID, gid lisafs.GID) (
	child *lisafs.ControlFD, stat lisafs.Statx, bound *lisafs.BoundSocketFD, notify int, err error,
) {
	if !f.server.sockets.Bind || !f.dir || kind != unix.SOCK_STREAM && kind != unix.SOCK_SEQPACKET {
		return nil, stat, nil, -1, unix.EPERM
	}
	fd, err := unix.Socket(unix.AF_UNIX, int(kind)|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, stat, nil, -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// Of the file that bind makes: nobody finds it there with another mode.
	if err = unix.Fchmod(fd, uint32(mode.Permissions())); err != nil {
		return nil, stat, nil, -1, err
	}
	if err = f.bind(fd, name); err != nil {
		return nil, stat, nil, -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(f.fd, name, 0)
		}
	}()
	if err = unix.Fchownat(f.fd, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, stat, nil, -1, err
	}
	if notify, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, stat, nil, -1, err
	}
	if child, stat, err = f.Walk(name); err != nil {
		unix.Close(notify)
		return nil, stat, nil, -1, err
	}
	s := &boundSocket{fd: fd}
	s.bound.Init(child, s)
	return child, stat, &s.bound, notify, nil
}

// bind binds a socket to a name in the directory; see Connect.
func (f *file) bind(fd int, name string) error {
	f.server.cwd.Lock()
	defer f.server.cwd.Unlock()
	if err := unix.Fchdir(f.fd); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrUnix{Name: "./" + name})
}

// boundSocket is a socket of the host's that a program has bound.
type boundSocket struct {
	bound lisafs.BoundSocketFD
	fd    int
}

// FD implements lisafs.BoundSocketFDImpl.
func (s *boundSocket) FD() *lisafs.BoundSocketFD {
	if s == nil {
		return nil
	}
	return &s.bound
}

// Listen implements lisafs.BoundSocketFDImpl.
func (s *boundSocket) Listen(backlog int32) error { return unix.Listen(s.fd, int(backlog)) }

// Accept implements lisafs.BoundSocketFDImpl.
func (s *boundSocket) Accept() (int, string, error) {
	fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	return fd, "", err
}

// Close implements lisafs.BoundSocketFDImpl.
func (s *boundSocket) Close() { unix.Close(s.fd) }
