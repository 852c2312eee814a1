package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/oci"
	"hull/internal/sandbox/wire"
	"hull/internal/stub"
)

// Exec starts another process in a running container. On the host there is none for it; a stub stands for it, which whoever
// waits for the process or sends it signals takes for it, unless only the caller does.
func (Engine) Exec(_ context.Context, r *engine.ExecRequest) (_ *engine.Process, err error) {
	k := &checker{}
	k.process(r.Process)
	k.extra(r.Extra)
	k.refuse(len(r.Cgroups) > 0, "", "sub-cgroups: its processes are none of the host's")
	k.streams(r.Stdio)
	if err := errors.Join(k.errs...); err != nil {
		return nil, err
	}
	if attached(r) {
		return execRemote(r)
	}
	conn, err := dial(&r.Container)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cfg := stub.Config{Extra: []*os.File{conn}}
	var master *os.File
	if r.Process.Terminal {
		var slave *os.File
		if master, slave, err = openTerminal(r.Process.ConsoleSize); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				master.Close()
			}
		}()
		defer slave.Close()
		cfg.Extra = append(cfg.Extra, slave)
		err = requestExec(conn, r, append([]*os.File{slave}, r.Extra...))
	} else {
		err = requestExec(conn, r, append(r.Stdio[:len(r.Stdio):len(r.Stdio)], r.Extra...))
	}
	if err != nil {
		return nil, err
	}
	// The sandbox makes the process meanwhile.
	s, err := stub.Start(cfg)
	if err != nil {
		return nil, err
	}
	if _, err := answer(conn); err != nil {
		s.Kill()
		return nil, err
	}
	if r.Process.Terminal {
		if err := takeTerminal(s); err != nil {
			s.Kill()
			return nil, err
		}
	}
	p := &engine.Process{Init: engine.Init{Pid: s.Pid}, PidFD: s.PidFD, Console: master}
	if r.Prepared != nil {
		master = nil // whatever comes of it
		if err := r.Prepared(p); err != nil {
			s.Kill()
			return nil, err
		}
	}
	if err := stand(s, nil, ""); err != nil {
		s.Kill()
		return nil, err
	}
	if err := unix.Sendmsg(int(conn.Fd()), []byte(wire.Go), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		_, _ = end(p.PidFD)
		return nil, noAnswer(err)
	}
	return p, nil
}

// end ends a process, and reaps it if it is a child. It returns how that has ended, which may be by itself before.
func end(pidfd *os.File) (unix.WaitStatus, error) {
	defer pidfd.Close()
	_ = unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
	_ = awaitEnd(pidfd)
	return stub.WaitPidFD(pidfd)
}

// requestExec asks the sandbox to make the process, with these files: its standard streams, or its terminal, and what comes behind.
func requestExec(conn *os.File, r *engine.ExecRequest, files []*os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	request := wire.Request{Op: wire.Exec, Container: r.ID, Process: r.Process, Path: r.Path, Extra: len(r.Extra), Attached: attached(r)}
	fds := streamFDs(&request, null, files)
	return noAnswer(wire.SendJSON(int(conn.Fd()), execJSON(&request), fds...))
}

// execJSON returns a request as encoding/json would write it, which takes half a millisecond until it has written its first.
func execJSON(r *wire.Request) []byte {
	b := append([]byte(`{"Op":"exec","Container":`), oci.EncodeString(r.Container)...)
	b = append(append(b, `,"Path":`...), oci.EncodeString(r.Path)...)
	b = fmt.Appendf(b, `,"Same":[%d,%d,%d],"Extra":%d,"Attached":%t,"Process":`, r.Same[0], r.Same[1], r.Same[2], r.Extra, r.Attached)
	return append(append(b, oci.EncodeProcess(r.Process)...), '}')
}

// streamFDs returns the descriptors of standard streams, of which null takes the place of those that there are none of, and says
// in the request which of them are the same.
func streamFDs(r *wire.Request, null *os.File, files []*os.File) []int {
	fds := make([]int, len(files))
	for i, f := range files {
		if f == nil {
			f = null
		}
		fds[i] = int(f.Fd())
		if i >= len(r.Same) {
			continue
		}
		r.Same[i] = i
		for j := range i {
			if same(fds[i], fds[j]) {
				r.Same[i] = j
				break
			}
		}
	}
	return fds
}

// same tells whether two descriptors are of one open file, and have one offset: standard error is standard output where a
// shell was told 2>&1.
func same(a, b int) bool {
	const file = 0 // KCMP_FILE, include/uapi/linux/kcmp.h; x/sys has none
	self := uintptr(unix.Getpid())
	r, _, errno := unix.RawSyscall6(unix.SYS_KCMP, self, self, file, uintptr(a), uintptr(b), 0)
	return errno == 0 && r == 0
}

// takeTerminal has the stub lead a session whose terminal is the process's: it tells of a new size, and of a hangup.
func takeTerminal(s *stub.Stub) error {
	b := new(stub.Batch)
	// Who leads a process group can't lead a session, so it goes to ours before.
	b.Call(unix.SYS_SETPGID, stub.Int(0), stub.Int(unix.Getpgrp()))
	b.Call(unix.SYS_SETSID)
	slave := stub.Fd(stub.FirstExtra + 1)
	b.In("process.terminal")
	b.Ioctl(slave, unix.TIOCSCTTY, stub.Int(0))
	b.Note("TIOCSCTTY")
	b.Close(slave)
	return s.Do(b)
}

// stand leaves the stub with passing on signals, and ending as the process does. With a fifo, nil otherwise, it lets the process
// run when a byte comes from there, as a parked init does, and then closes it. limit is "", or the file with the limit of memory
// of the cgroup that the stub is alone in: see endForMemory.
func stand(s *stub.Stub, fifo *stub.FD, limit string) error {
	conn := stub.Fd(stub.FirstExtra)
	b := new(stub.Batch)
	b.Call(unix.SYS_PRLIMIT64, stub.Int(0), stub.Int(unix.RLIMIT_CORE), b.Const(make([]byte, 16)).Arg(), stub.Int(0))
	b.BlockSignals(^uint64(0))
	all := b.Const([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	signals := b.Call(unix.SYS_SIGNALFD4, stub.Int(-1), all.Arg(), stub.Int(8), stub.Int(unix.SFD_CLOEXEC|unix.SFD_NONBLOCK))
	poll, files := b.Const(make([]byte, 24)), 2 // of struct pollfd: int fd; short events, revents
	b.Store(poll, 0, conn.Arg())
	b.Store(poll, 8, signals.Arg())
	if fifo != nil {
		b.Store(poll, 16, fifo.Arg())
		files++
	}
	signal, end, gone, again, died := b.Out(128), b.Out(wire.EndSize), b.Label(), b.Label(), b.Label()
	b.Mark(again)
	b.Store(poll, 4, stub.Int(unix.POLLIN))
	b.Store(poll, 12, stub.Int(unix.POLLIN))
	b.Store(poll, 20, stub.Int(unix.POLLIN))
	b.Retry(b.Call(unix.SYS_PPOLL, poll.Arg(), stub.Int(files), stub.Int(0), stub.Int(0), stub.Int(8)), unix.EINTR)
	ended := b.Call(unix.SYS_RECVFROM, conn.Arg(), end.Arg(), stub.Int(wire.EndSize), stub.Int(unix.MSG_DONTWAIT), stub.Int(0), stub.Int(0))
	wait := b.Label()
	b.OnErr(ended, unix.EAGAIN, wait)
	b.OnErr(ended, 0, gone)
	whole := b.Assert(ended.Arg(), ^uint64(0), wire.EndSize, unix.EPIPE, "the process's end")
	b.OnErr(whole, 0, gone)
	code, sig := b.Load(end, 0), b.Load(end, 4)
	b.OnErr(b.Assert(sig.Arg(), ^uint64(0), 0, unix.EINTR, "no signal"), 0, died)
	b.Call(unix.SYS_EXIT_GROUP, code.Arg())
	b.Mark(died)
	endForMemory(b, sig, limit)
	b.Ignore(b.Call(unix.SYS_RT_SIGACTION, sig.Arg(), b.Const(make([]byte, 32)).Arg(), stub.Int(0), stub.Int(8)), 0)
	self := b.Call(unix.SYS_GETPID)
	b.Ignore(b.Call(unix.SYS_KILL, self.Arg(), sig.Arg()), 0)
	b.BlockSignals(0)
	b.Call(unix.SYS_EXIT_GROUP, code.Arg())
	b.Mark(gone)
	const killed = 128 + 9 // what the end of the sandbox is for its processes
	b.Call(unix.SYS_EXIT_GROUP, stub.Int(killed))
	b.Mark(wait)
	if fifo != nil {
		letGo(b, *fifo, poll, gone)
	}
	got := b.Call(unix.SYS_READ, signals.Arg(), signal.Arg(), stub.Int(128))
	b.OnErr(got, 0, again)
	b.Ignore(b.Call(unix.SYS_SENDTO, conn.Arg(), signal.Arg(), stub.Int(wire.SignalSize), stub.Int(unix.MSG_NOSIGNAL), stub.Int(0), stub.Int(0)), 0)
	b.Goto(again)
	// The last descriptor is none: there is nobody to report to.
	return s.Last(b, stub.FirstExtra+3, stub.ExitSetup)
}

// endForMemory emits what has the stub end for want of memory if the container has. Its limit is not the host's kernel's, but what
// counts such ends, wakes who waits for one, and is asked for the reason by engines is (memory.events, memory.oom_control): so the
// stub has that kernel leave it hardly any memory, and takes more. If that can't be, or there is no limit, it ends by the signal
// alone.
func endForMemory(b *stub.Batch, sig stub.Result, limit string) {
	const left, more = "2097152", 4 << 20
	other, kill := b.Label(), b.Label()
	b.OnErr(b.Assert(sig.Arg(), wire.ForMemory, wire.ForMemory, unix.EINTR, "memory"), 0, other)
	if limit != "" {
		file := b.Call(unix.SYS_OPENAT, stub.Int(unix.AT_FDCWD), b.String(limit).Arg(), stub.Int(unix.O_WRONLY|unix.O_CLOEXEC), stub.Int(0))
		b.OnErr(file, 0, kill)
		b.OnErr(b.Call(unix.SYS_WRITE, file.Arg(), b.String(left).Arg(), stub.Int(len(left))), 0, kill)
		// MAP_LOCKED: or it could be swapped out.
		b.Ignore(b.Call(unix.SYS_MMAP, stub.Int(0), stub.Int(more), stub.Int(unix.PROT_READ|unix.PROT_WRITE),
			stub.Int(unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE|unix.MAP_LOCKED), stub.Int(-1), stub.Int(0)), 0)
	}
	b.Mark(kill)
	self := b.Call(unix.SYS_GETPID)
	b.Ignore(b.Call(unix.SYS_KILL, self.Arg(), stub.Int(int(unix.SIGKILL))), 0)
	b.Mark(other)
}

// letGo emits what lets the process run if there is a byte in the fifo, which is the third of poll.
func letGo(b *stub.Batch, fifo stub.FD, poll stub.Data, gone stub.Label) {
	conn, none := stub.Fd(stub.FirstExtra), b.Label()
	const readable = unix.POLLIN << 16 // of revents
	b.OnErr(b.Assert(b.Load(poll, 20).Arg(), readable, readable, unix.EAGAIN, "a byte in the fifo"), 0, none)
	heard := b.Out(wire.SignalSize)
	b.Call(unix.SYS_READ, fifo.Arg(), heard.Arg(), stub.Int(1))
	word := b.String(wire.Go)
	b.OnErr(b.Call(unix.SYS_SENDTO, conn.Arg(), word.Arg(), stub.Int(len(wire.Go)), stub.Int(unix.MSG_NOSIGNAL), stub.Int(0), stub.Int(0)), 0, gone)
	answer := b.Call(unix.SYS_RECVFROM, conn.Arg(), heard.Arg(), stub.Int(wire.SignalSize), stub.Int(0), stub.Int(0), stub.Int(0))
	b.OnErr(answer, 0, gone)
	b.OnErr(b.Assert(answer.Arg(), ^uint64(0), uint64(len(wire.Go)), unix.EPIPE, "the program runs"), 0, gone)
	b.Close(fifo)
	b.Store(poll, 16, stub.Int(-1)) // which ppoll(2) leaves out
	b.Mark(none)
}

// SignalAll sends a signal to all processes of a container.
func (Engine) SignalAll(c *engine.Container, sig unix.Signal) error {
	_, err := request(c, wire.Request{Op: wire.Signal, Signal: int(sig)})
	return err
}

// Processes lists the processes of a container, as its kernel sees them.
func (Engine) Processes(c *engine.Container) ([]wire.Process, error) {
	reply, err := request(c, wire.Request{Op: wire.Processes})
	for i := range reply.Processes {
		p := &reply.Processes[i]
		for _, s := range []*string{&p.STime, &p.TTY, &p.Time, &p.Command} {
			*s = wire.Printable(*s)
		}
	}
	return reply.Processes, err
}

// Usage returns what the processes of a container use, as its kernel counts it.
func (Engine) Usage(c *engine.Container) (*wire.Usage, error) {
	reply, err := request(c, wire.Request{Op: wire.Count})
	return reply.Usage, err
}

// Limit sets limits in the cgroup that a container has in its kernel.
func (Engine) Limit(c *engine.Container, files map[string]string) error {
	_, err := request(c, wire.Request{Op: wire.Update, Limits: files})
	return err
}

// Memory returns what the memory of a sandbox is used for.
func (Engine) Memory(c *engine.Container) (*wire.MemoryKinds, error) {
	reply, err := request(c, wire.Request{Op: wire.Count})
	if err == nil && reply.Memory == nil {
		err = errors.New("the sandbox's answer lacks it")
	}
	return reply.Memory, err
}

// Wait waits for the end of a process, which is named by its pid in the container, or with root in the whole sandbox.
func (Engine) Wait(ctx context.Context, c *engine.Container, pid int, root bool) (unix.WaitStatus, error) {
	conn, err := dial(c)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	fd := int(conn.Fd())
	if err := wire.Send(fd, wire.Request{Op: wire.Wait, Container: c.ID, PID: pid, Root: root}); err != nil {
		return 0, noAnswer(err)
	}
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if n > 0 {
			break
		}
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
	}
	var reply wire.Reply
	if _, err := wire.Receive(fd, &reply, 0); err != nil {
		return 0, noAnswer(err)
	}
	switch {
	case reply.Failure != nil:
		return 0, reply.Failure.Err()
	case reply.Status == nil:
		return 0, errors.New("the sandbox's answer lacks the status")
	}
	return unix.WaitStatus(*reply.Status), nil
}

// Pause has the kernel stop the container's programs. They are not frozen by the host's kernel: a helper that is frozen amid a
// system call which the sandbox was notified of (seccomp_unotify(2)) begins it anew afterwards, and the notification that was
// not yet received then counts twice; systrap takes that for the helper's end, and kills the program.
func (Engine) Pause(_ context.Context, c *engine.Container) error {
	_, err := request(c, wire.Request{Op: wire.Pause})
	return err
}

// Resume lets them go on.
func (Engine) Resume(c *engine.Container) error {
	_, err := request(c, wire.Request{Op: wire.Resume})
	return err
}

// Paused tells whether the container whose state directory this is was paused: a sandbox has its log locked meanwhile, so
// that nobody has to wait for its answer.
func Paused(dir string) (bool, error) {
	path := filepath.Join(dir, wire.Log)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock); err != nil {
		return false, &os.PathError{Op: "fcntl F_OFD_GETLK", Path: path, Err: err}
	}
	return lock.Type != unix.F_UNLCK, nil
}

// request asks the sandbox of a container by a connection of its own.
func request(c *engine.Container, r wire.Request, fds ...int) (wire.Reply, error) {
	conn, err := dial(c)
	if err != nil {
		return wire.Reply{}, err
	}
	defer conn.Close()
	r.Container = c.ID
	return ask(conn, r, fds...)
}

// ask sends a request and returns the reply.
func ask(conn *os.File, r wire.Request, fds ...int) (reply wire.Reply, err error) {
	if err := wire.Send(int(conn.Fd()), r, fds...); err != nil {
		return reply, noAnswer(err)
	}
	return answer(conn)
}

// answer returns the reply to a request.
func answer(conn *os.File) (reply wire.Reply, err error) {
	if _, err := wire.Receive(int(conn.Fd()), &reply, 0); err != nil {
		return reply, noAnswer(err)
	}
	if reply.Failure != nil {
		return reply, reply.Failure.Err()
	}
	return reply, nil
}

func noAnswer(err error) error {
	if errors.Is(err, wire.ErrEnd) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return &fault.Error{Kind: fault.BadState, Err: errors.New("the container has stopped")}
	}
	if errors.Is(err, unix.EAGAIN) {
		err = errors.New("the sandbox does not answer")
	}
	return err
}
