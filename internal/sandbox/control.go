package sandbox

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"hull/internal/sandbox/wire"
)

// listen makes the control socket. Its path may be longer than an address can be: it is bound by way of the directory's
// descriptor.
func listen(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), wire.Control)
	// Of the file that bind makes; others than the owner have no business with it.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(fd, address(d)); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "bind", Path: filepath.Join(dir, wire.Control), Err: err}
	}
	if err := unix.Listen(fd, 16); err != nil {
		f.Close()
		return nil, os.NewSyscallError("listen", err)
	}
	return f, nil
}

func address(dir *os.File) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + wire.Control}
}
