package fileserver

import "golang.org/x/sys/unix"

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
