package stub

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// intoCgroup returns a stub like s in the cgroup whose directory it has as descriptor dir, or s itself where the kernel
// can't clone into it. Descriptor socket is the other end of next, which the new stub's Fork will use.
func (s *Stub) intoCgroup(dir, socket int, next *conn) (*Stub, error) {
	b := new(Batch)
	pidfd := b.Out(4)
	child, parent, end := b.Label(), b.Label(), b.Label()
	b.clone3(0, pidfd, Fd(dir), child, parent)
	b.Goto(end)
	b.Mark(parent)
	b.SendFDs(b.Load(pidfd, 0).Arg())
	b.Close(Fd(initSocket))
	b.Goto(end)
	b.Mark(child)
	b.Call(unix.SYS_SETPGID, Int(0), Int(0)) // see reapGroup
	b.Call(unix.SYS_DUP3, Int(initSocket), Int(Control), Int(unix.O_CLOEXEC))
	b.Call(unix.SYS_DUP3, Int(socket), Int(initSocket), Int(unix.O_CLOEXEC))
	b.Mark(end)
	b.Close(Fd(dir))
	b.Close(Fd(socket))
	s.clones = true
	err := s.Send(b)
	if err == nil {
		err = s.Receive()
	}
	if err != nil {
		s.Kill()
		return nil, err
	}
	n, err := s.cloned(b)
	if err != nil {
		s.Kill()
		return nil, err
	}
	if n == nil {
		s.clones = false
		return s, next.close()
	}
	n.next, n.owed = next, b
	return n, nil
}

// Fork executes pre in the stub and lets it clone a child with the namespaces in flags (CLONE_NEW*). The child is the
// caller's, as the stub itself is. It inherits the descriptors and namespaces of the stub and is returned as a stub of
// its own; the first one is ended. Fork can be used once.
func (s *Stub) Fork(pre *Batch, flags uint64) (*Stub, error) {
	if err := s.SendFork(pre, flags, nil, nil); err != nil {
		return nil, err
	}
	return s.ReceiveFork()
}

// SendFork is Fork without waiting. ReceiveFork must follow.
//
// cgroup is a directory of cgroup v2 that pre has opened and the child is cloned into, or nil. Where the kernel can't do
// that (CLONE_INTO_CGROUP, Linux 5.7) the child stays in the stub's cgroup; InCgroup tells. The calls that child emits, unless
// it is nil, are the child's first.
func (s *Stub) SendFork(pre *Batch, flags uint64, cgroup *FD, child func()) error {
	b := pre
	pidfd := b.Out(4)
	cloned, parent, end := b.Label(), b.Label(), b.Label()
	if cgroup != nil {
		b.clone3(flags, pidfd, *cgroup, cloned, parent)
	}
	b.Call(unix.SYS_CLONE, Int(flags|unix.CLONE_PARENT|unix.CLONE_PIDFD|uint64(unix.SIGCHLD)), Int(0), pidfd.Arg())
	b.Note(NamespaceNames(flags))
	b.branch(cloned, parent)
	b.Mark(parent)
	fd := b.Load(pidfd, 0)
	b.SendFDs(fd.Arg())
	b.Goto(end)
	b.Mark(cloned)
	b.Call(unix.SYS_DUP3, Int(initSocket), Int(Control), Int(unix.O_CLOEXEC))
	if child != nil {
		child()
	}
	b.Mark(end)
	b.Call(unix.SYS_CLOSE, Int(initSocket))
	s.clones = true
	return s.Send(b)
}

// clone3 emits a clone into a cgroup. If it fails, the batch goes on with the next entry.
func (b *Batch) clone3(flags uint64, pidfd Data, cgroup FD, child, parent Label) {
	// struct clone_args (clone(2)): flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
	// set_tid_size, cgroup. With CLONE_PARENT the signal is the stub's own.
	const size, pidfdAt, cgroupAt = 88, 8, 80
	args := make([]byte, size)
	binary.LittleEndian.PutUint64(args, flags|unix.CLONE_PARENT|unix.CLONE_PIDFD|unix.CLONE_INTO_CGROUP)
	d := b.Const(args)
	b.Store(d, pidfdAt, pidfd.Arg()) // the interpreter's addresses have 32 bits
	b.Store(d, cgroupAt, cgroup.Arg())
	r := b.Call(unix.SYS_CLONE3, d.Arg(), Int(size))
	b.Note(NamespaceNames(flags))
	failed := b.Label()
	b.OnErr(r, 0, failed)
	b.branch(child, parent)
	b.Mark(failed)
}

// branch emits a jump to child or to parent, by what the clone before it returned.
func (b *Batch) branch(child, parent Label) {
	pid := Result(b.Len() - 1)
	in := b.Assert(pid.Arg(), ^uint64(0), 0, unix.EAGAIN, "in the parent")
	b.OnOK(in, child)
	b.OnErr(in, 0, parent)
}

// ReceiveFork waits for what SendFork asked for.
func (s *Stub) ReceiveFork() (*Stub, error) {
	b := s.sent
	if err := s.Receive(); err != nil {
		return nil, err
	}
	n, err := s.cloned(b)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, ErrGone
	}
	// The child's own reply to the same batch.
	n.sent = b
	if err := n.Receive(); err != nil {
		n.Kill()
		return nil, err
	}
	return n, nil
}

// cloned returns the stub that s has cloned in b, and ends s; or nil, if it has cloned none.
func (s *Stub) cloned(b *Batch) (*Stub, error) {
	files := s.Files()
	if len(files) == 0 {
		return nil, nil
	}
	fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	files[0].Close()
	if err != nil {
		return nil, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	n := &Stub{PidFD: newPidFD(fd), conn: s.next, stage1: s, trace: s.trace}
	for i := range b.Len() {
		switch e := b.entries.at(i); {
		case e.nr == unix.SYS_CLONE3 && e.result > 0:
			n.Pid, n.InCgroup, n.told = int(e.result), true, i+1
		case e.nr == unix.SYS_CLONE && e.result > 0:
			n.Pid, n.told = int(e.result), i+1
		}
	}
	s.next, s.clones = nil, false
	s.Close()
	return n, nil
}
