package native

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/proc"
	"hull/internal/stub"
)

// Dial connects with a TCP port of the container's own loopback: by a stub that enters its network namespace.
func (Engine) Dial(_ *engine.Container, init engine.Init, port uint16) (*os.File, error) {
	pidfd, err := proc.Open(init)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	s, err := stub.Start(stub.Config{Extra: []*os.File{pidfd}})
	if err != nil {
		return nil, err
	}
	defer s.Kill()
	b := new(stub.Batch)
	entered, user, failed, sent := b.Label(), b.Label(), b.Label(), b.Label()
	// Who is root over the namespace needs no detour by the user namespace that owns it.
	direct := b.Call(unix.SYS_SETNS, stub.Int(stub.FirstExtra), stub.Int(unix.CLONE_NEWNET))
	b.Note("net, Linux 5.8")
	b.OnErr(direct, unix.EPERM, user)
	b.OnOK(direct, entered)
	b.Mark(user)
	b.Call(unix.SYS_SETNS, stub.Int(stub.FirstExtra), stub.Int(unix.CLONE_NEWUSER|unix.CLONE_NEWNET))
	b.Note("user and net")
	b.Mark(entered)
	v4 := connect(b, unix.AF_INET, []byte{unix.AF_INET, 0, byte(port >> 8), byte(port), 127, 0, 0, 1, 15: 0})
	b.OnErr(v4.connected, 0, failed)
	b.SendFDs(v4.socket.Arg())
	b.Goto(sent)
	b.Mark(failed)
	v6 := connect(b, unix.AF_INET6, []byte{unix.AF_INET6, 0, byte(port >> 8), byte(port), 23: 1, 27: 0})
	b.SendFDs(v6.socket.Arg())
	b.Mark(sent)
	if err := s.Do(b); err != nil {
		if errors.Is(err, unix.ECONNREFUSED) {
			err = unix.ECONNREFUSED
		}
		return nil, &fault.Error{Step: "connect with the container's loopback", Err: err}
	}
	files := s.Files()
	if len(files) != 1 {
		return nil, stub.ErrGone
	}
	defer files[0].Close()
	return linux.Pollable(files[0], "connection")
}

type attempt struct{ socket, connected stub.Result }

// connect emits a connection to an address, which is in the form of the architectures that hull is for: little endian.
func connect(b *stub.Batch, family int, address []byte) attempt {
	socket := b.Call(unix.SYS_SOCKET, stub.Int(family), stub.Int(unix.SOCK_STREAM|unix.SOCK_CLOEXEC), stub.Int(0))
	connected := b.Call(unix.SYS_CONNECT, socket.Arg(), b.Const(address).Arg(), stub.Int(len(address)))
	return attempt{socket, connected}
}
