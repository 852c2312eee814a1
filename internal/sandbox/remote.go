package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/linux"
	"hull/internal/sandbox/wire"
)

// attached tells whether a process needs none of the host's that stands for it. With a terminal it does: the kernel tells that one of a new
// size.
func attached(r *engine.ExecRequest) bool { return r.Attached && !r.Process.Terminal }

// execRemote has the sandbox start a process for which there is none on this host.
func execRemote(r *engine.ExecRequest) (*engine.Process, error) {
	conn, err := dial(&r.Container)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := requestExec(conn, r, append(r.Stdio[:len(r.Stdio):len(r.Stdio)], r.Extra...)); err != nil {
		return nil, err
	}
	if _, err := answer(conn); err != nil {
		return nil, err
	}
	// What comes next is the process's end, however late. Who waits for it is not to have a thread wait in the kernel, where Close wouldn't
	// wake it up, and where the descriptor's number could be another file's by the time it has.
	f, err := linux.Pollable(conn, wire.Control)
	if err != nil {
		return nil, err
	}
	return &engine.Process{Remote: &remote{f}}, nil
}

// remote is a process in a sandbox, by the connection that it was asked for, which doesn't block.
type remote struct{ conn *os.File }

func (p *remote) Wait() (unix.WaitStatus, error) {
	var end wire.End
	err := wire.Await(p.conn, func(fd int) (err error) {
		end, err = wire.ReceiveEnd(fd)
		return err
	})
	switch {
	case errors.Is(err, wire.ErrEnd), errors.Is(err, unix.ECONNRESET):
		return unix.WaitStatus(unix.SIGKILL), nil // what the end of the sandbox is for its processes
	case err != nil:
		return 0, fmt.Errorf("the end of a process in a sandbox: %w", err)
	case end.Signal != 0:
		return unix.WaitStatus(end.Signal), nil
	}
	return unix.WaitStatus(end.Code << 8), nil
}

func (p *remote) Signal(sig unix.Signal) error {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	message := string(binary.LittleEndian.AppendUint32(nil, uint32(sig)))
	if closed := raw.Control(func(fd uintptr) { err = wire.SendBytes(int(fd), message) }); closed != nil {
		return closed
	}
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("sendmsg", err)
}

func (p *remote) Close() error { return p.conn.Close() }
