package boot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// streams is how many standard streams a process has.
const streams = 3

// serve answers other commands of hull's, each connection by itself. Who connects has come through the container's state
// directory, which only its owner can enter; what comes is looked at all the same.
func (s *Sandbox) serve() {
	for {
		conn, _, err := unix.Accept4(s.Control, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			go s.answer(conn)
		case unix.EINTR, unix.ECONNABORTED:
		default:
			log.Warningf("accept: %v", err)
			return
		}
	}
}

func (s *Sandbox) answer(conn int) {
	defer unix.Close(conn)
	var r wire.Request
	fds, err := wire.Receive(conn, &r, max(streams, wire.MaxLinks))
	if err != nil {
		return
	}
	var reply wire.Reply
	switch r.Op {
	case wire.Exec:
		s.exec(conn, &r, fds)
		return
	case wire.Signal:
		err = s.kernel.SendContainerSignal(s.ID, &linux.SignalInfo{Signo: int32(r.Signal)})
	case wire.Processes:
		reply.Processes, err = s.processes()
	case wire.Network:
		if err = checkLinks(r.Links); err == nil {
			err = s.configure(r.Links, fds)
		}
	default:
		err = fmt.Errorf("request %q: there is none", r.Op)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if err != nil {
		reply.Failure = wire.Fail(errnoOf(err))
	}
	_ = wire.Send(conn, reply)
}

// exec makes a process, lets it run when it may, and stays with it to its end.
func (s *Sandbox) exec(conn int, r *wire.Request, fds []int) {
	if len(fds) > streams {
		for _, fd := range fds[streams:] {
			unix.Close(fd)
		}
	}
	tg, files, err := s.newExec(r, fds)
	if err != nil {
		_ = wire.Send(conn, wire.Reply{Failure: wire.Fail(errnoOf(err))})
		return
	}
	err = wire.Send(conn, wire.Reply{})
	if err == nil {
		var b []byte
		b, _, err = wire.ReceiveBytes(conn, len(wire.Go), 0)
		if err == nil && string(b) != wire.Go {
			err = errors.New("no word to go")
		}
	}
	if err != nil {
		s.kill(tg)
	}
	s.kernel.StartProcess(tg)
	go s.forward(conn, tg)
	tg.WaitExited()
	for _, f := range files {
		f.leave()
	}
	ws := unix.WaitStatus(tg.ExitStatus())
	code, sig := uint32(ws.ExitStatus()), uint32(0)
	if ws.Signaled() {
		code, sig = 128+uint32(ws.Signal()), uint32(ws.Signal())
	}
	end := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, code), sig)
	_ = unix.Sendmsg(conn, end, nil, nil, unix.MSG_NOSIGNAL)
	_ = unix.Shutdown(conn, unix.SHUT_RDWR) // forward ends, too
}

func (s *Sandbox) newExec(r *wire.Request, fds []int) (*kernel.ThreadGroup, []*stream, error) {
	switch {
	case r.Process == nil || len(r.Process.Args) == 0:
		return nil, nil, fault.Spec("process.args", "must name a program")
	case len(fds) != streams:
		return nil, nil, fmt.Errorf("%d standard streams", len(fds))
	case !s.running.Load():
		return nil, nil, &fault.Error{Kind: fault.BadState, Err: errors.New("the container's program was not started yet")}
	}
	ns := s.init.Leader().MountNamespace()
	if ns == nil || !ns.TryIncRef() {
		return nil, nil, &fault.Error{Kind: fault.BadState, Err: errors.New("the container has stopped")}
	}
	return s.newProcess(r.Process, ns, [3]int(fds), r.Same)
}

// forward passes signals on, until the process has ended or nobody is there any more who waits for it: then it is killed.
func (s *Sandbox) forward(conn int, tg *kernel.ThreadGroup) {
	for {
		b, _, err := wire.ReceiveBytes(conn, wire.SignalSize, 0)
		if err != nil || len(b) != wire.SignalSize {
			s.kill(tg)
			return
		}
		sig := linux.Signal(binary.LittleEndian.Uint32(b))
		if sig.IsValid() {
			_ = s.kernel.SendExternalSignalThreadGroup(tg, &linux.SignalInfo{Signo: int32(sig)})
		}
	}
}

func (s *Sandbox) kill(tg *kernel.ThreadGroup) {
	_ = s.kernel.SendExternalSignalThreadGroup(tg, &linux.SignalInfo{Signo: int32(linux.SIGKILL)})
}

func (s *Sandbox) processes() (list []wire.Process, err error) {
	var found []*control.Process
	if err := control.Processes(s.kernel, s.ID, &found); err != nil {
		return nil, err
	}
	for _, p := range found {
		list = append(list, wire.Process{UID: int(p.UID), PID: int(p.PID), PPID: int(p.PPID), CPU: int(p.C),
			STime: p.STime, TTY: p.TTY, Time: p.Time, Command: p.Cmd})
	}
	return list, nil
}
