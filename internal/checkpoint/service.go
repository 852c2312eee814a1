package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/criu"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/stub"
)

// oldestCRIU is that of the oldest release that hull speaks with: of 2018, with external network namespaces.
const oldestCRIU criu.Version = 31100

// criuPatience bounds the wait for a CRIU that was told to give up.
const criuPatience = 20 * time.Second

// service is a CRIU that runs, a child of this program's.
type service struct {
	*criu.Conn
	version  criu.Version
	process  *stub.Stub
	serves   bool // process is CRIU, and no stub any more
	stderr   *os.File
	options  *rpc.CriuOpts
	work     *os.File // directory of its log
	log      string   // name of its log there
	namesLog bool     // an error has named it
	trace    func(line string)
}

// launch is what a CRIU has from its start, which is what the processes have that it makes.
type launch struct {
	image *engine.Image
	spec  *specs.Spec
	log   string // name of its log

	stdin  *os.File               // nil: the null device
	extra  []*os.File             // descriptors, from firstInherited on
	steps  func(*stub.Batch)      // emits what is done before it is executed; or nil
	cgroup *os.File               // see stub.Config
	joined func(*stub.Stub) error // called with it while it waits; or nil
	trace  func(string)
}

// CRIU's descriptors behind the standard streams. Behind what is inherited are the socket and the directories.
const (
	criuReport     = stub.FirstExtra
	firstInherited = criuReport + 1
)

// startCRIU starts a CRIU, asks for its version, and prepares its options.
func startCRIU(ctx context.Context, o launch) (_ *service, err error) {
	if os.Geteuid() != 0 {
		return nil, &fault.Error{Step: "CRIU", Kind: fault.Unsupported,
			Err:  unix.EPERM,
			Hint: "containers are saved and restored by root alone"}
	}
	program, err := criu.Find(o.image.Program)
	if err != nil {
		return nil, err
	}
	s := &service{log: o.log, trace: o.trace}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	socket := firstInherited + len(o.extra)
	if err := s.setOptions(&o, socket+1); err != nil {
		return nil, err
	}
	report, reportW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer report.Close()
	defer reportW.Close()
	stderr, stderrW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.stderr = stderr
	defer stderrW.Close()
	s.process, err = stub.Start(stub.Config{
		Stdio: [3]*os.File{o.stdin, nil, stderrW}, Extra: append([]*os.File{reportW}, o.extra...), Cgroup: o.cgroup, Trace: stub.TraceLines(o.trace),
	})
	if err != nil {
		return nil, err
	}
	if err := s.prepare(&o, socket); err != nil {
		return nil, err
	}
	if o.joined != nil {
		if err := o.joined(s.process); err != nil {
			return nil, err
		}
	}
	b := new(stub.Batch)
	b.DefaultSignals()
	for _, fd := range []int{stub.Control, criuReport} {
		b.Call(unix.SYS_FCNTL, stub.Int(fd), stub.Int(unix.F_SETFD), stub.Int(unix.FD_CLOEXEC))
	}
	b.Execve(program, criu.Args(socket), os.Environ())
	if err := s.process.Last(b, criuReport, stub.ExitSetup); err != nil {
		return nil, err
	}
	s.serves = true
	reportW.Close()
	stderrW.Close()
	if err := stub.ReadReport(report, b.Steps(), stub.Timeout); err != nil {
		return nil, fmt.Errorf("%s: %w", program, fault.Errno(err))
	}
	if s.version, err = s.Version(ctx); err != nil {
		return nil, s.explainStart(ctx, program, err)
	}
	if s.version < oldestCRIU {
		return nil, tooOld(s.version, oldestCRIU, "hull")
	}
	return s, nil
}

// prepare has the stub do what comes before CRIU. It makes the socket itself, since CRIU takes descriptors for those of the
// process that has done that; and it opens the directories, in the mount namespace that it is in then: from another's CRIU
// can't mount anything in its working directory.
func (s *service) prepare(o *launch, socket int) error {
	b := new(stub.Batch)
	if o.steps != nil {
		o.steps(b)
	}
	b.In("")
	const seqpacket = unix.SOCK_SEQPACKET | unix.SOCK_CLOEXEC
	pair := b.Out(8)
	b.Call(unix.SYS_SOCKETPAIR, stub.Int(unix.AF_UNIX), stub.Int(seqpacket), stub.Int(0), pair.Arg())
	ours, theirs := b.Load(pair, 0), b.Load(pair, 4)
	b.SendFDs(ours.Arg())
	b.Close(ours.FD())
	b.Dup3(theirs.FD(), socket, 0)
	for i, dir := range s.directories(o.image) {
		fd := b.Openat(stub.CWD, dir.Name(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		var st unix.Stat_t
		if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir.Name(), Err: err}
		}
		at := b.Statx(fd)
		same := "the directory that hull has opened: " + dir.Name()
		b.Assert(b.Load(at, stub.StatxIno).Arg(), 1<<32-1, st.Ino&(1<<32-1), unix.ESTALE, same)
		b.Assert(b.Load(at, stub.StatxIno+4).Arg(), 1<<32-1, st.Ino>>32, unix.ESTALE, same)
		b.Assert(b.Load(at, stub.StatxDevMajor).Arg(), 1<<32-1, uint64(unix.Major(st.Dev)), unix.ESTALE, same)
		b.Assert(b.Load(at, stub.StatxDevMinor).Arg(), 1<<32-1, uint64(unix.Minor(st.Dev)), unix.ESTALE, same)
		b.Dup3(fd, socket+1+i, 0)
	}
	if err := s.process.Do(b); err != nil {
		return err
	}
	files := s.process.Files()
	if len(files) != 1 {
		return stub.ErrGone
	}
	var err error
	s.Conn, err = criu.NewConn(files[0])
	return err
}

func (s *service) directories(i *engine.Image) []*os.File {
	if s.work == i.Dir {
		return []*os.File{i.Dir}
	}
	return []*os.File{i.Dir, s.work}
}

func tooOld(is, want criu.Version, what string) error {
	return &fault.Error{Step: "CRIU", Kind: fault.Unsupported, Err: fmt.Errorf("version %v is too old: %s needs %v", is, what, want)}
}

// needs returns an error if CRIU is older than what needs that version.
func (s *service) needs(v criu.Version, what string) error {
	if s.version < v {
		return tooOld(s.version, v, what)
	}
	return nil
}

// has returns an error if CRIU, with this kernel, lacks a feature that is wanted.
func (s *service) has(ctx context.Context, want *rpc.CriuFeatures) error {
	missing, err := s.Features(ctx, want)
	if err != nil {
		return fmt.Errorf("CRIU's features: %w", err)
	}
	if len(missing) > 0 {
		return &fault.Error{Step: "CRIU", Kind: fault.Unsupported,
			Err:  fmt.Errorf("version %v with this kernel lacks %s", s.version, missing[0]),
			Hint: "criu check --all says what there is"}
	}
	return nil
}

// explainStart returns why CRIU has not answered.
func (s *service) explainStart(ctx context.Context, program string, err error) error {
	if context.Cause(ctx) != nil || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", program, err)
	}
	said := s.said()
	if said == "" {
		said = "it ends without an answer"
	}
	return &fault.Error{Step: program, Kind: fault.Unsupported,
		Err:  errors.New(said),
		Hint: "criu check says whether this CRIU works with this kernel"}
}

// said returns the first error that a CRIU that has ended has written to its standard error. Processes that it has left have
// that open, too: the end is not waited for.
func (s *service) said() string {
	s.wait()
	_ = s.stderr.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	const most = 64 << 10
	b, _ := io.ReadAll(io.LimitReader(s.stderr, most))
	return criu.FirstError(bytes.NewReader(b))
}

// run has CRIU do what was asked, by its options.
func (s *service) run(ctx context.Context, kind rpc.CriuReqType, notify func(criu.Notification) error) error {
	s.tell(kind.String())
	alive, done := s.whileAlive(ctx)
	defer done()
	_, err := s.Do(alive, &rpc.CriuReq{Type: &kind, Opts: s.options}, func(n criu.Notification) error {
		s.tell(n.Step)
		return notify(n)
	})
	s.tell("end")
	if err == nil {
		return nil
	}
	if context.Cause(ctx) != nil {
		return context.Cause(ctx)
	}
	// It takes back what it has done, and its log says why, when it has ended.
	s.Close()
	s.wait()
	var failed *criu.Failure
	if !errors.As(err, &failed) && !errors.Is(err, io.EOF) {
		return err // of a notification, or of the socket
	}
	why := criu.Reason(s.work, s.log)
	if why == "" {
		why = s.said()
	}
	path := s.work.Name() + "/" + s.log
	s.namesLog = true
	if why == "" {
		if errors.Is(err, io.EOF) {
			err = errors.New("it has ended, or was killed, before it was done")
		}
		return &fault.Error{Step: "CRIU", Err: err, Hint: "its log is " + path}
	}
	return &fault.Error{Step: "CRIU", Err: errors.Join(errors.New(why)), Hint: hintOf(why) + "the whole log is " + path}
}

// whileAlive returns a context that ends soon after CRIU, by io.EOF: processes that it leaves when it is killed have its end of
// the connection, too. What it has said before it ended is read by then. done is called when nothing is waited for any more.
func (s *service) whileAlive(ctx context.Context) (alive context.Context, done func()) {
	alive, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for alive.Err() == nil {
			fds := []unix.PollFd{{Fd: int32(s.process.PidFD.Fd()), Events: unix.POLLIN}}
			if n, _ := unix.Poll(fds, 50); n > 0 {
				select {
				case <-alive.Done():
				case <-time.After(500 * time.Millisecond):
					cancel(io.EOF)
				}
				return
			}
		}
	}()
	return alive, func() { cancel(nil); <-ended }
}

// tell traces what CRIU is at.
func (s *service) tell(step string) {
	if s.trace != nil {
		s.trace("CRIU " + s.version.String() + ": " + step)
	}
}

// end ends CRIU, whatever it is at.
func (s *service) end() {
	if s.Conn != nil {
		s.Close()
	}
	if s.process != nil {
		if s.serves {
			s.wait()
		}
		s.process.Kill()
	}
	if s.stderr != nil {
		s.stderr.Close()
	}
	if s.work != nil && s.options != nil && s.options.WorkDirFd != nil {
		s.work.Close()
	}
}

// wait waits until CRIU has ended, whose connection is closed. Who has frozen processes is not killed while it may thaw them.
func (s *service) wait() {
	if s.process.PidFD == nil {
		return
	}
	for deadline := time.Now().Add(criuPatience); time.Now().Before(deadline); {
		fds := []unix.PollFd{{Fd: int32(s.process.PidFD.Fd()), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, 1000); n > 0 {
			return
		}
	}
}
