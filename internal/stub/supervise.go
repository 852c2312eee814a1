package stub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// supervision is where the reply of a supervisor has what it knows of its program.
type supervision struct {
	status, usage Data
}

// rusageSize is the size of struct rusage on 64-bit machines (getrusage(2)).
const rusageSize = 144

// A supervisor tells by a note that its program was stopped, or that it has ended and hull may look around: the wait
// status, or 0, and what no reply has there, which begins with a small number of entries.
const (
	noteSize      = 8
	noteMark      = 0xffffffff << 32
	statusStopped = 0x7f // the low byte of the wait status of a process that was stopped (wait(2))
)

// Supervise emits what makes the stub the supervisor of a program; the calls that program emits, of which the last is
// execve, are executed by a child of the stub. The first process of a pid namespace has no default actions for signals
// and has to reap what others leave behind (pid_namespaces(7)), which few programs expect. A supervisor does that. It
// ends when the program does, whatever else still runs, and when the parent does: as the first process of its pid
// namespace it takes all others along. The program can't change that without tracing the supervisor.
//
// If it lingers, it tells of the program's end, and ends when it is answered: its cgroup is there until then.
func (b *Batch) Supervise(lingers bool, program func()) {
	s := &supervision{status: b.Out(4), usage: b.Out(rusageSize)}
	b.supervision = s
	pidfd := b.Out(4)
	child, parent, end := b.Label(), b.Label(), b.Label()
	b.In("")
	pid := b.Call(unix.SYS_CLONE, Int(unix.CLONE_PIDFD|uint64(unix.SIGCHLD)), Int(0), pidfd.Arg())
	b.branch(child, parent)
	b.Mark(parent)
	b.SendFDs(b.Load(pidfd, 0).Arg())
	b.leaveWithParent(end)
	again := b.Label()
	b.Mark(again)
	ended := b.Call(unix.SYS_WAIT4, Int(-1), s.status.Arg(), Int(unix.WUNTRACED), s.usage.Arg())
	b.Retry(ended, unix.EINTR)
	is := b.Call(opTest, ended.Arg(), Int(-1), pid.Arg(), Int(unix.EAGAIN))
	b.OnErr(is, 0, again)
	status := b.Load(s.status, 0)
	stopped := b.Label()
	is = b.Call(opTest, status.Arg(), Int(0xff), Int(statusStopped), Int(unix.EAGAIN))
	b.OnOK(is, stopped)
	b.OnErr(is, 0, end)
	b.Mark(stopped)
	note := b.Const(binary.LittleEndian.AppendUint64(nil, noteMark))
	b.Store(note, 0, status.Arg())
	told := b.Call(unix.SYS_SENDTO, Int(Control), note.Arg(), Int(noteSize), Int(unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT), Int(0), Int(0))
	b.OnOK(told, again)
	b.OnErr(told, 0, again) // of so many that the parent reads none of them
	b.Mark(child)
	program()
	b.Mark(end)
	if lingers {
		b.linger()
	}
}

// linger emits waiting for an answer, or the parent's end.
func (b *Batch) linger() {
	b.In("")
	b.Ignore(b.Call(unix.SYS_FCNTL, Int(Control), Int(unix.F_SETFL), Int(unix.O_RDWR)), 0) // no SIGIO from now on
	note := b.Const(binary.LittleEndian.AppendUint64(nil, noteMark))
	b.Ignore(b.Call(unix.SYS_SENDTO, Int(Control), note.Arg(), Int(noteSize), Int(unix.MSG_NOSIGNAL), Int(0), Int(0)), 0)
	answer := b.Call(unix.SYS_RECVFROM, Int(Control), b.Out(8).Arg(), Int(1), Int(0), Int(0), Int(0))
	b.Retry(answer, unix.EINTR)
	b.Ignore(answer, 0)
}

// leaveWithParent emits what gives up all descriptors but the socket, and lets its end of file end the stub: the
// kernel tells of it by SIGIO, for which ExitOn has a handler. It also does when the parent's last batch has come: whoever
// sends wakes the reader first and signals then, and the reader may be here before that.
//
// A parent-death signal would not do: it is tied to the thread of the parent that has started the stub.
func (b *Batch) leaveWithParent(gone Label) {
	b.Call(opStore, Int(batchAddr+headerReplyFD), Int(Control))
	b.closeRange(0, Control-1)
	b.closeRange(Control+1, 1<<32-1)
	pid := b.Call(unix.SYS_GETPID)
	b.Call(unix.SYS_FCNTL, Int(Control), Int(unix.F_SETOWN), pid.Arg())
	b.Call(unix.SYS_FCNTL, Int(Control), Int(unix.F_SETFL), Int(unix.O_RDWR|unix.O_ASYNC))
	b.ExitOn(unix.SIGIO)
	// The parent may have ended before the signal was asked for. While it lives there is nothing to read.
	r := b.Call(unix.SYS_RECVFROM, Int(Control), b.Out(8).Arg(), Int(1), Int(unix.MSG_PEEK|unix.MSG_DONTWAIT), Int(0), Int(0))
	alive := b.Label()
	b.OnOK(r, gone)
	b.OnErr(r, unix.EAGAIN, alive)
	b.Mark(alive)
}

// closeRange emits the closing of descriptors. Before Linux 5.9 those are closed that a stub may have.
func (b *Batch) closeRange(first int, last uint32) {
	r := b.Call(unix.SYS_CLOSE_RANGE, Int(first), Int(last), Int(0))
	done, each := b.Label(), b.Label()
	b.OnOK(r, done)
	b.OnErr(r, 0, each)
	b.Mark(each)
	const most = 64
	for fd := first; fd <= int(min(last, most)); fd++ {
		b.Ignore(b.Call(unix.SYS_CLOSE, Int(fd)), 0)
	}
	b.Mark(done)
}

// Supervisor is a stub that waits for its program.
type Supervisor struct {
	// Program is a pidfd of the program, to signal it. It is not the parent's child. The caller closes it when nobody
	// signals any more; Wait doesn't.
	Program *os.File

	stub  *Stub
	batch *Batch
	mu    sync.Mutex // for Kill, which comes from other goroutines than Wait
	ended bool
}

// LastSupervised is Last for a batch that ends in Supervise. The stub stays connected: its parent's end is its own.
func (s *Stub) LastSupervised(b *Batch, report, exit int) (*Supervisor, error) {
	b.last, b.replyFD, b.exit = true, report, exit
	msg, err := b.encode(false)
	if err != nil {
		return nil, err
	}
	// The first stub is out of the way before the program is cloned: a limit of processes may leave no room for both.
	s.reapStage1()
	if err := s.conn.write(msg, nil); err != nil {
		return nil, err
	}
	program, err := s.conn.readFile(Timeout)
	if err != nil {
		return nil, err
	}
	return &Supervisor{Program: program, stub: s, batch: b}, nil
}

// Ended is how a program has ended.
type Ended struct {
	Status unix.WaitStatus
	// What it and its descendants, as far as they were waited for, have used (getrusage(2)).
	User, System time.Duration
	MaxRSS       int64 // bytes, of the largest of them
}

// Wait waits until the program has ended, and with it all other processes of its pid namespace. Close or Kill on the
// stub ends them before. A supervisor that was killed is reported as the program's end, one that has left its program as an
// error. stopped is called whenever a
// signal stops the program, and lingering while a supervisor that does so lingers; unless they are nil.
func (s *Supervisor) Wait(stopped func(unix.Signal), lingering func()) (Ended, error) {
	rerr := s.receive(stopped, lingering)
	ws, err := WaitPidFD(s.stub.PidFD)
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.stub.PidFD.Close()
	s.stub.Close()
	if err != nil {
		return Ended{}, err
	}
	switch {
	case rerr == nil:
	case ws.Exited() && !errors.Is(rerr, os.ErrClosed):
		return Ended{}, fmt.Errorf("the program's supervisor has left with status %d: %w", ws.ExitStatus(), rerr)
	default:
		return Ended{Status: ws}, nil
	}
	usage := s.batch.Bytes(s.batch.supervision.usage)
	field := func(i int) int64 { return int64(binary.LittleEndian.Uint64(usage[8*i:])) }
	const usec = time.Microsecond
	return Ended{
		Status: unix.WaitStatus(s.batch.Uint32(s.batch.supervision.status, 0)),
		User:   time.Duration(field(0))*time.Second + time.Duration(field(1))*usec,
		System: time.Duration(field(2))*time.Second + time.Duration(field(3))*usec,
		MaxRSS: field(4) << 10,
	}, nil
}

// receive takes notes, up to the reply.
func (s *Supervisor) receive(stopped func(unix.Signal), lingering func()) error {
	reply := s.batch.wire[:s.batch.replySize()]
	for {
		if err := s.stub.conn.readFull(reply[:noteSize], 0); err != nil {
			return err
		}
		note := binary.LittleEndian.Uint64(reply)
		if note < noteMark {
			break
		}
		switch {
		case note&0xff == statusStopped:
			if stopped != nil {
				stopped(unix.Signal(note >> 8 & 0xff))
			}
		default:
			if lingering != nil {
				lingering()
			}
			if err := s.stub.conn.write([]byte{0}, nil); err != nil {
				return err
			}
		}
	}
	if err := s.stub.conn.readFull(reply[noteSize:], 0); err != nil {
		return err
	}
	failed, errno, err := s.batch.decode(reply)
	if err != nil {
		return err
	}
	if s.stub.trace != nil {
		s.batch.traceTo(s.stub.trace, 0)
	}
	if failed >= 0 {
		return s.batch.failure(failed, errno)
	}
	return nil
}

// Kill ends the supervisor, and with it the program. Wait still has to be called.
func (s *Supervisor) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(int(s.stub.PidFD.Fd()), unix.SIGKILL, nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}
