package stub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// initSocket is where a stub has the socket that the stub it clones will use.
const initSocket = 4

// FirstExtra is the number of the first of Config.Extra in a stub.
const FirstExtra = 5

// Timeout bounds every wait for a stub: a stub that is frozen with its cgroup, or that waits for a file system that
// doesn't answer, never replies.
const Timeout = 30 * time.Second

// Errors of a stub that can't answer.
var (
	ErrGone    = errors.New("the process that sets up the container ended")
	ErrTimeout = errors.New("the process that sets up the container does not answer")
)

// Config says how a stub starts.
type Config struct {
	// Stdio are descriptors 0, 1 and 2 of the stub. Nil means /dev/null.
	Stdio [3]*os.File
	// Extra are further descriptors, numbered from FirstExtra.
	Extra []*os.File
	// Cgroup is a directory of cgroup v2 that the stub is cloned into (CLONE_INTO_CGROUP, Linux 5.7), or nil. Where that
	// can't be the stub starts in the caller's own; InCgroup tells. Moving it there afterwards may then go by other
	// means, or fail with a better reason.
	//
	// It is another stub that clones it. The child that vfork(2) gives this program would be frozen or throttled with the
	// cgroup, and this program with it: the thread that has called vfork(2) waits for execve(2), and Go stops no other
	// meanwhile, for its garbage collection, nor forks.
	Cgroup *os.File
	// Patient is asked, if it is set, when a stub has not answered in time, and tells whether to wait as long again.
	Patient func() bool
	// Trace is told of every call, if it is set.
	Trace func(Call)
}

// Stub is a process that executes batches.
type Stub struct {
	Pid   int
	PidFD *os.File

	// InCgroup tells whether the stub was cloned into the cgroup that Config or SendFork was given.
	InCgroup bool

	conn   *conn // nil after Close
	next   *conn // to the stub that Fork makes
	stage1 *Stub // the stub that has cloned this one, until it is reaped
	clones bool  // it was told to clone a stub, and has not answered
	trace  func(Call)
	sent   *Batch
	owed   *Batch // whose reply comes before that to sent: the one that the stub was cloned in
	told   int    // entries of sent, from its beginning, that another stub has executed and trace was told of
	began  time.Time
}

// Start starts a stub in the namespaces of the caller.
func Start(cfg Config) (_ *Stub, err error) {
	extra := cfg.Extra
	var cgroupNext *conn
	if cfg.Cgroup != nil {
		var theirs *os.File
		if cgroupNext, theirs, err = socketpair(); err != nil {
			return nil, err
		}
		defer theirs.Close()
		extra = append(slices.Clone(extra), cfg.Cgroup, theirs)
	}
	s, err := spawn(cfg.Stdio, extra)
	if err != nil {
		if cgroupNext != nil {
			cgroupNext.close()
		}
		return nil, err
	}
	if cfg.Cgroup != nil {
		dir := FirstExtra + len(cfg.Extra)
		if s, err = s.intoCgroup(dir, dir+1, cgroupNext); err != nil {
			cgroupNext.close()
			return nil, err
		}
	}
	s.conn.patient, s.next.patient = cfg.Patient, cfg.Patient
	s.trace = cfg.Trace // of what the container needs
	return s, nil
}

// spawn starts a stub in the namespaces and the cgroups of the caller.
func spawn(stdio [3]*os.File, extra []*os.File) (_ *Stub, err error) {
	image, err := newImage(FirstExtra + len(extra))
	if err != nil {
		return nil, err
	}
	defer image.Close()

	conn, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	next, theirNext, err := socketpair()
	if err != nil {
		conn.close()
		return nil, err
	}
	defer theirNext.Close()

	files := make([]uintptr, 0, FirstExtra+len(extra)+1)
	var null *os.File
	for _, f := range stdio {
		if f == nil {
			if null == nil {
				if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
					return nil, errors.Join(err, conn.close(), next.close())
				}
				defer null.Close()
			}
			f = null
		}
		files = append(files, f.Fd())
	}
	files = append(files, theirs.Fd(), theirNext.Fd())
	for _, f := range extra {
		files = append(files, f.Fd())
	}
	// The image gets a number of its own, too: any other might be one that the child puts another file at. The stub
	// closes it.
	kept := len(files)
	files = append(files, image.Fd())
	pidfd := -1
	// The process group is how a stub's child is found if the stub dies before it could tell of it, see reapGroup.
	attr := &syscall.ProcAttr{Files: files, Sys: &syscall.SysProcAttr{PidFD: &pidfd, Setpgid: true}}
	pid, err := syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", kept), []string{"hull init"}, attr)
	runtime.KeepAlive(extra)
	if err != nil {
		conn.close()
		next.close()
		return nil, &fault.Error{Step: "execve of the stub", Err: err}
	}
	// From now on the stub's end is an end of file: nobody else may hold these.
	theirs.Close()
	theirNext.Close()
	s := &Stub{Pid: pid, PidFD: newPidFD(pidfd), conn: conn, next: next}
	if err := s.closeInherited(kept); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

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

// closeInherited does what the interpreter could not where close_range(2) is missing (it is in Linux 5.9): it closes
// all descriptors from first on that this program has. Those before are made close-on-exec, since nobody can say "all"
// later either: what hooks are not to have must be so from the start.
func (s *Stub) closeInherited(first int) error {
	if err := unix.CloseRange(math.MaxInt32, math.MaxInt32, 0); err == nil {
		return nil
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	b := new(Batch)
	b.Call(unix.SYS_CLOSE, Int(first)) // the image
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > first {
			b.Ignore(b.Call(unix.SYS_CLOSE, Int(fd)), 0)
		}
	}
	for fd := Control; fd < first; fd++ {
		b.Call(unix.SYS_FCNTL, Int(fd), Int(unix.F_SETFD), Int(unix.FD_CLOEXEC))
	}
	return s.Do(b)
}

// Do sends the batch, waits for the stub to execute it and takes the results. The error is a *fault.Error with the
// field, the call and the errno of the entry that failed.
func (s *Stub) Do(b *Batch) error {
	if b.Len() == 0 {
		return nil
	}
	if err := s.Send(b); err != nil {
		return err
	}
	return s.Receive()
}

// Send hands the batch to the stub without waiting, so that the caller can do something else meanwhile.
// Receive must follow.
func (s *Stub) Send(b *Batch) error {
	msg, err := b.encode(s.trace != nil)
	if err != nil {
		return err
	}
	s.began = time.Now()
	if err := s.conn.write(msg, nil); err != nil {
		return err
	}
	s.sent = b
	return nil
}

// Receive waits for the reply to the batch that was sent.
func (s *Stub) Receive() error {
	b, told, owed := s.sent, s.told, s.owed
	s.sent, s.told, s.owed = nil, 0, nil
	if owed != nil {
		if err := s.receive(owed, nil, 0); err != nil {
			return err
		}
	}
	return s.receive(b, s.trace, told)
}

func (s *Stub) receive(b *Batch, trace func(Call), told int) error {
	reply := b.wire[:b.replySize()]
	if err := s.conn.readFull(reply, Timeout); err != nil {
		return err
	}
	failed, errno, err := b.decode(reply)
	if err != nil {
		return err
	}
	if trace != nil {
		b.traceTo(trace, told)
	}
	if failed < 0 {
		return nil
	}
	return b.failure(failed, errno)
}

// failure describes the call that failed.
func (b *Batch) failure(i int, errno unix.Errno) error {
	step := b.entries.at(i).step()
	return &fault.Error{Field: step.Field, Step: step.Name, Err: errno}
}

func (e *entry) step() Step {
	name := e.note
	if e.nr != opTest {
		name = strings.TrimSpace(callName(e.nr) + " " + e.note)
	}
	return Step{e.field, name}
}

// Files returns the descriptors that batches have sent with SendFDs since the last call. The caller closes them.
func (s *Stub) Files() []*os.File {
	if s.conn == nil {
		return nil
	}
	return s.conn.take()
}

// PassFDs sends descriptors to the stub; the batch sent next takes them with Batch.RecvFDs, in the same order.
func (s *Stub) PassFDs(files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	err := s.conn.write([]byte{0}, unix.UnixRights(fds...))
	runtime.KeepAlive(files)
	return err
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

// Last hands over a batch that the stub executes alone, and closes the socket. The batch ends in execve. If a call
// fails, the stub writes its reply to descriptor report, which must be open in the stub and close-on-exec, and exits
// with status exit; ReadReport reads that.
func (s *Stub) Last(b *Batch, report, exit int) error {
	b.last, b.replyFD, b.exit = true, report, exit
	msg, err := b.encode(false)
	if err != nil {
		return err
	}
	if err := s.conn.write(msg, nil); err != nil {
		return err
	}
	s.reapStage1()
	return s.Close()
}

func (s *Stub) reapStage1() {
	for first := s.stage1; first != nil; first = first.stage1 {
		first.reap()
	}
	s.stage1 = nil
}

// Step is what an error says of one call of a batch.
type Step struct {
	Field string `json:"field,omitempty"`
	Name  string `json:"name"`
}

// Steps returns what errors say of the batch's calls, for whoever reads the report of a stub that was left with it.
func (b *Batch) Steps() []Step {
	steps := make([]Step, b.Len())
	for i := range steps {
		steps[i] = b.entries.at(i).step()
	}
	return steps
}

// ReadReport waits for what a stub writes to the descriptor it reports to, after the batch it was left with has
// failed. An end of file without a word is success: execve has closed the descriptor. The stub may also have died, or
// its seccomp filter may have kept it from writing; then only its status tells.
func ReadReport(r *os.File, steps []Step, timeout time.Duration) error {
	if err := r.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	report, err := io.ReadAll(io.LimitReader(r, batchMax))
	if err != nil {
		return waitError(err)
	}
	if len(report) == 0 {
		return nil
	}
	if len(report) < headerSize {
		return fmt.Errorf("report of %d bytes", len(report))
	}
	le := binary.LittleEndian
	at, errno := le.Uint64(report[headerStopped:]), le.Uint64(report[headerErrno:])
	if at >= uint64(len(steps)) || errno > 4095 {
		return fmt.Errorf("report out of range: entry %d, errno %d", at, errno)
	}
	return &fault.Error{Field: steps[at].Field, Step: steps[at].Name, Err: unix.Errno(errno)}
}

// Close closes the socket. A stub that waits for a batch exits.
func (s *Stub) Close() error {
	if s.next != nil {
		s.next.close()
		s.next = nil
	}
	if s.conn == nil {
		return nil
	}
	err := s.conn.close()
	s.conn = nil
	return err
}

// Kill ends the stub and reaps it. One that is frozen on cgroup v1 ends when it is thawed; it is reaped then.
func (s *Stub) Kill() {
	s.Close()
	s.reapStage1()
	if s.PidFD != nil {
		unix.PidfdSendSignal(int(s.PidFD.Fd()), unix.SIGKILL, nil, 0)
		s.reap()
	}
}

// reapTimeout bounds the wait for a stub that has nothing more to do, or was killed.
var reapTimeout = 5 * time.Second

// reap reaps a stub that is about to end, now or, if it doesn't, in the background.
func (s *Stub) reap() {
	pidfd := s.PidFD
	if pidfd == nil {
		return
	}
	s.PidFD = nil
	finish := func() {
		if s.clones {
			s.reapGroup(pidfd)
		}
		_, _ = WaitPidFD(pidfd)
		pidfd.Close()
	}
	if endsWithin(pidfd, reapTimeout) {
		finish()
	} else {
		go finish()
	}
}

// reapGroup ends a child that the stub may have cloned without having told of it: one that was killed with its cgroup,
// say. The child is this program's to reap, and until it is reaped the pid namespace that it is in doesn't end.
func (s *Stub) reapGroup(pidfd *os.File) {
	// Until the stub is reaped its number is its group's, and nobody else's.
	for unix.Waitid(unix.P_PIDFD, int(pidfd.Fd()), nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	unix.Kill(-s.Pid, unix.SIGKILL)
	for {
		if err := unix.Waitid(unix.P_PGID, s.Pid, nil, unix.WEXITED, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}

// Wait waits until the process has ended, reaps it and closes its pidfd. ECHILD means that someone else in this
// program has reaped it.
func (s *Stub) Wait() (unix.WaitStatus, error) {
	defer func() {
		if s.PidFD != nil {
			s.PidFD.Close()
			s.PidFD = nil
		}
	}()
	return WaitPidFD(s.PidFD)
}

// waitStatus makes a status as of wait4(2) of what waitid(2) tells.
func waitStatus(info *unix.Siginfo) unix.WaitStatus {
	// In struct siginfo of 64-bit machines, si_code is at 8 and si_status at 24.
	raw := siginfoBytes(info)
	code := int32(binary.LittleEndian.Uint32(raw[8:]))
	status := binary.LittleEndian.Uint32(raw[24:])
	const exited, dumped = 1, 3
	switch code {
	case exited:
		return unix.WaitStatus(status << 8)
	case dumped:
		return unix.WaitStatus(status | 0x80)
	default:
		return unix.WaitStatus(status)
	}
}
