package linux

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// peerTimeout bounds how long hull waits for the process at the other end of a socket that the user named.
const peerTimeout = 10 * time.Second

// SendFile connects to the unix stream socket at path and sends a message with one descriptor (SCM_RIGHTS, unix(7)).
func SendFile(path string, msg []byte, f *os.File) error {
	conn, err := dialUnix(path)
	if err != nil {
		return err
	}
	defer unix.Close(conn)
	n, err := unix.SendmsgN(conn, msg, unix.UnixRights(int(f.Fd())), nil, unix.MSG_NOSIGNAL)
	runtime.KeepAlive(f)
	if err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	for n < len(msg) {
		m, err := unix.SendmsgN(conn, msg[n:], nil, nil, unix.MSG_NOSIGNAL)
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		n += m
	}
	return nil
}

// Connect carries what comes from each of two connections to the other, until both ends have said all. Where one has, the other
// is told.
func Connect(a, b *os.File) {
	var both sync.WaitGroup
	for _, d := range [][2]*os.File{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(d[0], d[1])
			if raw, err := d[0].SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
			}
		})
	}
	both.Wait()
}

// dialUnix connects through the socket's directory: a path may be longer than an address, which has 108 bytes.
func dialUnix(path string) (int, error) {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// A send timeout also bounds connect (socket(7)).
	tv := unix.NsecToTimeval(int64(peerTimeout))
	if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		unix.Close(conn)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path))
	if err := unix.Connect(conn, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(conn)
		return -1, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return conn, nil
}
