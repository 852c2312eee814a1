package stub

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
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
