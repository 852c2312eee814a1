package sandbox

import (
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// Dial connects with a TCP port of the container's loopback, which its kernel does: what it has connected to is carried by a
// socket pair.
func (Engine) Dial(c *engine.Container, _ engine.Init, port uint16) (*os.File, error) {
	conn, err := dial(c)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "connection")
	defer unix.Close(pair[1])
	if _, err := ask(conn, wire.Request{Op: wire.Dial, Container: c.ID, Port: port}, pair[1]); err != nil {
		ours.Close()
		return nil, &fault.Error{Step: "connect with the container's loopback", Err: err}
	}
	return ours, nil
}
