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

// Connect implements lisafs.ControlFDImpl. A mount's own directory is what .. leads to there, and its links are not followed.
// Datagrams are refused: a socket of them could be told to send anywhere.
func (f *file) Connect(kind uint32) (int, error) {
	if f.socket == nil || kind != unix.SOCK_STREAM && kind != unix.SOCK_SEQPACKET {
		return -1, unix.ECONNREFUSED
	}
	fd, err := unix.Socket(unix.AF_UNIX, int(kind)|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := f.server.at(f.socket.dir, f.socket.name, func(a unix.Sockaddr) error { return unix.Connect(fd, a) }); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// at calls do with the address of a name in a directory, which is the working directory meanwhile: nothing else in this process has
// to do with that. Afterwards it is the root, which is empty, or the mount would stay that the directory is in, and with it a file
// system of the host's, when the container has long gone.
func (s *Server) at(dir int, name string, do func(unix.Sockaddr) error) error {
	s.cwd.Lock()
	defer s.cwd.Unlock()
	root, err := unix.Openat(dir, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := unix.Fchdir(dir); err != nil {
		return err
	}
	err = do(&unix.SockaddrUnix{Name: "./" + name}) // a name alone could be one of an abstract socket
	if berr := unix.Fchdir(root); err == nil {
		err = berr
	}
	return err
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
	if err = f.server.at(f.fd, name, func(a unix.Sockaddr) error { return unix.Bind(fd, a) }); err != nil {
		return nil, stat, nil, -1, err
	}
	if err = giveSocket(f.fd, name, int(uid), int(gid)); err == unix.EEXIST {
		return nil, stat, nil, -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(f.fd, name, 0)
		}
	}()
	if err != nil {
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

// giveSocket gives a socket that was just made to its owner. In a directory that others have, too, they may have put another file in its
// place, whose owner stays.
func giveSocket(dir int, name string, uid, gid int) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch stat, err := statx(fd); {
	case err != nil:
		return err
	case stat.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return unix.EEXIST
	}
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
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
