package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/errno"
	"hull/internal/sentry/network"
	"hull/internal/sentry/stream"
)

// serve answers other commands of hull's, each connection by itself. Who connects has come through the container's state
// directory, which only its owner can enter; what comes is looked at all the same.
func (s *Sandbox) serve() {
	for {
		conn, _, err := unix.Accept4(s.Control, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			go s.serve()
			s.answer(conn) // here, for this thread is awake
			return
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			// The container's programs may have opened all that there is, and close it again, or be killed by a command that
			// waits for being heard.
			time.Sleep(50 * time.Millisecond)
		default:
			log.Warningf("accept: %v", err)
			return
		}
	}
}

func (s *Sandbox) answer(conn int) {
	defer unix.Close(conn)
	var r wire.Request
	fds, err := wire.Receive(conn, &r, wire.MaxFiles)
	if err != nil {
		return
	}
	var reply wire.Reply
	if err := s.notRestoring(&r); err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		_ = wire.Send(conn, wire.Reply{Failure: wire.Fail(err)})
		return
	}
	switch r.Op {
	case wire.Create:
		s.join(conn, &r, fds)
		return
	case wire.Remove:
		err = s.discard(r.Container)
	case wire.Checkpoint:
		s.checkpoint(conn, &r, fds)
		return
	case wire.Restore:
		err = s.restore(r.Image)
	default:
		var c *container
		if c, err = s.container(r.Container); err != nil {
			break
		}
		if r.Op == wire.Exec {
			c.exec(conn, &r, fds)
			return
		}
		if r.Op == wire.Wait && len(fds) == 0 {
			c.await(conn, &r)
			return
		}
		fds, err = c.request(&r, &reply, fds)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if err != nil {
		reply.Failure = wire.Fail(errno.Of(err))
	}
	if err := wire.Send(conn, reply); err != nil {
		_ = wire.Send(conn, wire.Reply{Failure: wire.Fail(err)}) // more than a message can be, or nobody is there any more
	}
}

// request does what is done with one reply. It returns the descriptors that it hasn't taken.
func (c *container) request(r *wire.Request, reply *wire.Reply, fds []int) (left []int, err error) {
	switch r.Op {
	case wire.Signal:
		switch sig := linux.Signal(r.Signal); {
		case sig.IsValid():
			c.signalAll(sig)
		case sig != 0:
			err = unix.EINVAL
		}
	case wire.Processes:
		reply.Processes, err = c.processes()
	case wire.Count:
		if reply.Usage, err = c.usage(); err == nil {
			reply.Memory, err = c.memory()
		}
	case wire.Pause, wire.Resume:
		err = c.pause(r.Op == wire.Pause)
	case wire.Update:
		err = c.group.set(r.Limits)
	case wire.Debug:
		return nil, c.debug(r, fds)
	case wire.Network:
		if c.restoring != nil {
			return c.keepNetwork(r, fds)
		}
		if c.root.running.Load() {
			return fds, network.AlreadyConfigured()
		}
		return c.network.Take(r, fds)
	case wire.Dial:
		if len(fds) != 1 {
			return fds, fmt.Errorf("%d sockets", len(fds))
		}
		if !c.root.running.Load() {
			return fds, &fault.Error{Kind: fault.BadState, Err: errors.New("the container's program was not started yet")}
		}
		return nil, c.network.Dial(fds[0], r.Port)
	default:
		err = fmt.Errorf("request %q: there is none", r.Op)
	}
	return fds, err
}

// exec makes a process, lets it run when it may, and stays with it to its end.
func (c *container) exec(conn int, r *wire.Request, fds []int) {
	p, err := c.newExec(conn, r, fds)
	if err != nil {
		_ = wire.Send(conn, wire.Reply{Failure: wire.Fail(errno.Of(err))})
		return
	}
	if r.Attached {
		c.start(p) // before there is somebody else who wants a processor
	}
	err = wire.Send(conn, wire.Reply{})
	for went := r.Attached; err == nil && !went; {
		went, err = c.hear(conn, p)
	}
	if err != nil {
		c.kill(p.group)
	}
	if !r.Attached {
		c.start(p)
	}
	alone := make(chan struct{})
	go func() {
		defer close(alone)
		if c.forward(conn, p); !r.Attached {
			c.kill(p.group)
		}
	}()
	p.group.WaitExited()
	c.execs.remove(conn)
	_ = wire.SendEnd(conn, endOf(p.wait()))
	<-alone // to close a connection that has signals in it would take the end away from the other side
}

// start lets a process run.
func (c *container) start(p *process) {
	if p.terminal != nil {
		p.terminal.Begin()
	}
	c.kernel.StartProcess(p.group)
}

// hear receives one message about a process: a signal, which it passes on, or the word to go.
func (c *container) hear(conn int, p *process) (went bool, err error) {
	went, sig, err := receive(conn)
	if sig.IsValid() {
		c.deliver(p, sig)
	}
	return went, err
}

// receive receives one message about a process: a signal, or the word to go.
func receive(conn int) (went bool, sig linux.Signal, err error) {
	b, _, err := wire.ReceiveBytes(conn, wire.SignalSize, 0)
	switch {
	case err != nil:
		return false, 0, err
	case string(b) == wire.Go:
		return true, 0, nil
	case len(b) != wire.SignalSize:
		return false, 0, errors.New("neither a signal nor the word to go")
	}
	return false, linux.Signal(binary.LittleEndian.Uint32(b)), nil
}

// newExec takes over the descriptors. What it makes is among execs.
func (c *container) newExec(conn int, r *wire.Request, fds []int) (p *process, err error) {
	c.saving.RLock()
	defer c.saving.RUnlock()
	left := fds
	err = c.add(func() error {
		ns, err := c.checkExec(r, len(fds))
		if err != nil {
			return err
		}
		left = nil
		if p, err = c.newProcess(r.Process, r.Path, ns, fds, r.Same); err == nil {
			c.execs.add(conn)
		}
		return err
	})
	for _, fd := range left {
		unix.Close(fd)
	}
	switch {
	case err == nil:
		c.stopIfPaused()
	case c.init.group.Leader().MountNamespace() == nil: // it has ended meanwhile, which shows in many ways
		err = errStopped()
	}
	return p, err
}

// checkExec returns a reference to the container's mount namespace, if the request can be.
func (c *container) checkExec(r *wire.Request, fds int) (*vfs.MountNamespace, error) {
	switch {
	case r.Process == nil || len(r.Process.Args) == 0:
		return nil, fault.Spec("process.args", "must name a program")
	case r.Extra < 0, r.Process.Terminal && fds-r.Extra != 1, !r.Process.Terminal && fds-r.Extra != stream.Count:
		return nil, fmt.Errorf("%d standard streams", fds-r.Extra)
	}
	if err := c.wake(); err != nil {
		return nil, err
	}
	ns := c.init.group.Leader().MountNamespace()
	if ns == nil || !ns.TryIncRef() {
		return nil, errStopped()
	}
	return ns, nil
}

func errStopped() error {
	return &fault.Error{Kind: fault.BadState, Err: errors.New("the container has stopped")}
}

// forward passes signals on, until nobody is there any more who waits for the process.
func (c *container) forward(conn int, p *process) {
	for {
		if _, err := c.hear(conn, p); err != nil {
			return
		}
	}
}

func (c *container) processes() (list []wire.Process, err error) {
	var found []*control.Process
	if err := control.Processes(c.kernel, c.ID, &found); err != nil {
		return nil, err
	}
	for _, p := range found {
		list = append(list, wire.Process{UID: int(p.UID), PID: int(p.PID), PPID: int(p.PPID), CPU: int(p.C),
			STime: p.STime, TTY: p.TTY, Time: p.Time, Command: p.Cmd})
	}
	return list, nil
}
