package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// listen makes the control socket. Its path may be longer than an address can be: it is bound by way of the directory's
// descriptor.
func listen(dir string) (*os.File, error) {
	d, f, err := socket(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd := int(f.Fd())
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

// dial connects with the sandbox of a container.
func dial(c *engine.Container) (*os.File, error) {
	dir, stopped := c.Dir, errors.New("the container has stopped")
	if c.Pod != nil {
		dir, stopped = c.Pod.Dir, fmt.Errorf("container %q, in whose sandbox it is, has stopped", c.Pod.ID)
	}
	d, f, err := socket(dir)
	if c.Pod != nil && errors.Is(err, unix.ENOENT) {
		return nil, &fault.Error{Kind: fault.BadState, Err: stopped}
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd := int(f.Fd())
	// One that is frozen never answers, nor takes what it is sent. The timeouts are the file's: a stub that has it, too, asks
	// before it reads.
	wait := unix.NsecToTimeval(int64(bootTimeout))
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
	if err == nil {
		err = unix.Connect(fd, address(d))
	}
	if err == unix.ECONNREFUSED || err == unix.ENOENT {
		err = &fault.Error{Kind: fault.BadState, Err: stopped}
	}
	if err != nil {
		f.Close()
		return nil, &fault.Error{Step: "connect with the sandbox", Err: err}
	}
	return f, nil
}

// socket opens a container's directory and a socket without an address.
func socket(dir string) (d, f *os.File, err error) {
	if d, err = os.Open(dir); err != nil {
		return nil, nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		d.Close()
		return nil, nil, os.NewSyscallError("socket", err)
	}
	return d, os.NewFile(uintptr(fd), wire.Control), nil
}

func address(dir *os.File) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + wire.Control}
}
