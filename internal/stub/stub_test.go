package stub

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

func start(t testing.TB, cfg Config) *Stub {
	t.Helper()
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

func do(t testing.TB, s *Stub, b *Batch) {
	t.Helper()
	if err := s.Do(b); err != nil {
		t.Fatal(err)
	}
}

func TestDoReturnsResultsAndOutputs(t *testing.T) {
	s := start(t, Config{})
	b := new(Batch)
	pid := b.Call(unix.SYS_GETPID)
	cwd := b.Out(unix.PathMax)
	b.Call(unix.SYS_GETCWD, cwd.Arg(), Int(unix.PathMax))
	do(t, s, b)
	if got := int(b.Value(pid)); got != s.Pid {
		t.Errorf("getpid = %d, want %d", got, s.Pid)
	}
	want, _ := os.Getwd()
	if got, _, _ := bytes.Cut(b.Bytes(cwd), []byte{0}); string(got) != want {
		t.Errorf("getcwd = %q, want %q", got, want)
	}
}

func TestEarlierResultAsArgument(t *testing.T) {
	s := start(t, Config{})
	b := new(Batch)
	fd := b.Openat(CWD, "/dev/null", unix.O_RDWR, 0)
	stat := b.Statx(fd)
	major := b.Load(stat, StatxRdevMajor)
	b.Assert(major.Arg(), ^uint64(0), 1, unix.ENODEV, "major number")
	n := b.Write(fd, []byte("12345"))
	b.Close(fd)
	do(t, s, b)
	if b.Value(n) != 5 {
		t.Errorf("write = %d, want 5", b.Value(n))
	}
}

// Numbers of more than 32 bits, or that would have a sign then, are kept elsewhere than in the entry; it goes for several of one
// call, and with a trace.
func TestWideNumbers(t *testing.T) {
	for _, trace := range []func(Call){nil, func(Call) {}} {
		s := start(t, Config{Trace: trace})
		b := new(Batch)
		d := b.Out(8)
		b.Store(d, 4, Int(uint32(1<<32-2)))
		got := b.Load(d, 4)
		b.Assert(got.Arg(), ^uint64(0), 1<<32-2, unix.EINVAL, "32 bits without a sign")
		b.Assert(Int(uint64(0x123456789abcdef0)), 0xffff00000000ffff, 0x123400000000def0, unix.EINVAL, "64 bits")
		b.Assert(Int(-5), ^uint64(0), ^uint64(4), unix.EINVAL, "negative")
		b.Assert(Int(uint32(1<<31)), ^uint64(0), 1<<31, unix.EINVAL, "the first that is wide")
		do(t, s, b)
		if v := b.Value(got); v != 1<<32-2 {
			t.Errorf("%#x", v)
		}
	}
}

func TestFailureNamesFieldAndCall(t *testing.T) {
	s := start(t, Config{})
	b := new(Batch)
	b.In(`mounts[2] "/proc"`)
	b.Openat(CWD, "/does/not/exist", 0, 0)
	after := b.Call(unix.SYS_GETPID)
	err := s.Do(b)
	var e *fault.Error
	if !errors.As(err, &e) || !errors.Is(err, unix.ENOENT) {
		t.Fatalf("error = %v, want ENOENT", err)
	}
	const want = `mounts[2] "/proc": openat "/does/not/exist": no such file or directory`
	if err.Error() != want {
		t.Errorf("error = %s\nwant    %s", err, want)
	}
	if b.Value(after) != 0 {
		t.Error("the batch went on after the failure")
	}
}

func TestJumps(t *testing.T) {
	s := start(t, Config{})
	b := new(Batch)
	missing := b.Openat(CWD, "/does/not/exist", 0, 0)
	fallback := b.Label()
	b.OnErr(missing.Result(), unix.ENOENT, fallback)
	skipped := b.Call(unix.SYS_GETPID)
	b.Mark(fallback)
	b.Ignore(b.Call(unix.SYS_CLOSE, Int(12345)), 0)
	other := b.Call(unix.SYS_CLOSE, Int(12345))
	b.Ignore(other, unix.ENOENT)
	if err := s.Do(b); !errors.Is(err, unix.EBADF) {
		t.Errorf("error = %v, want EBADF: only ENOENT is ignored", err)
	}
	if b.Value(skipped) != 0 {
		t.Error("a jumped-over call was made")
	}
	if b.Errno(missing.Result()) != unix.ENOENT {
		t.Errorf("errno = %v, want ENOENT", b.Errno(missing.Result()))
	}
}

func TestDescriptorsCross(t *testing.T) {
	s := start(t, Config{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := new(Batch)
	fds := b.RecvFDs(1)
	b.Write(fds[0], []byte("over"))
	null := b.Openat(CWD, "/dev/null", unix.O_RDWR, 0)
	b.SendFDs(null.Arg(), fds[0].Arg())
	b.Close(fds[0])
	if err := s.Send(b); err != nil {
		t.Fatal(err)
	}
	if err := s.PassFDs(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := s.Receive(); err != nil {
		t.Fatal(err)
	}
	files := s.Files()
	if len(files) != 2 {
		t.Fatalf("%d descriptors, want 2", len(files))
	}
	files[1].WriteString("!")
	closeAll(files)
	if got, _ := io.ReadAll(r); string(got) != "over!" {
		t.Errorf("read %q", got)
	}
}

func TestForkMakesInitOfNewNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s := start(t, Config{})
	init, err := s.Fork(new(Batch), unix.CLONE_NEWPID|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWNET)
	if err != nil {
		t.Fatal(err)
	}
	b := new(Batch)
	pid := b.Call(unix.SYS_GETPID)
	do(t, init, b)
	if b.Value(pid) != 1 {
		t.Errorf("getpid = %d, want 1", b.Value(pid))
	}
	init.Kill()
	if init.Pid <= 0 {
		t.Errorf("pid = %d", init.Pid)
	}
}

func TestForkReportsFailureBeforeClone(t *testing.T) {
	s := start(t, Config{})
	b := new(Batch)
	b.In("linux.namespaces[0].path")
	b.Openat(CWD, "/does/not/exist", 0, 0)
	if _, err := s.Fork(b, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("error = %v, want ENOENT", err)
	}
}

func TestLastBecomesProgram(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := start(t, Config{Stdio: [3]*os.File{nil, w, nil}})
	w.Close()
	b := new(Batch)
	b.Execve("/bin/echo", []string{"echo", "a", "b c"}, []string{"X=1"})
	if err := s.Last(b, 2, 111); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(r); string(got) != "a b c\n" {
		t.Errorf("read %q", got)
	}
	ws, err := s.Wait()
	if err != nil || ws.ExitStatus() != 0 {
		t.Errorf("status %v, %v", ws, err)
	}
}

func TestLastReportsFailure(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := start(t, Config{Extra: []*os.File{w}})
	w.Close()
	b := new(Batch)
	b.In("process.args[0]")
	b.Execve("/does/not/exist", []string{"x"}, nil)
	if err := s.Last(b, FirstExtra, 111); err != nil {
		t.Fatal(err)
	}
	const want = `process.args[0]: execve "/does/not/exist": no such file or directory`
	if err := ReadReport(r, b.Steps(), Timeout); err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant    %s", err, want)
	}
	if ws, err := s.Wait(); err != nil || ws.ExitStatus() != 111 {
		t.Errorf("status %v, %v", ws, err)
	}
}

func TestStubEndsWithItsParent(t *testing.T) {
	s := start(t, Config{})
	do(t, s, func() *Batch { b := new(Batch); b.Call(unix.SYS_GETPID); return b }())
	s.Close()
	if ws, err := s.Wait(); err != nil || ws.ExitStatus() != 125 {
		t.Errorf("status %v, %v; want exit 125", ws, err)
	}
}

// TestExitOn: signals are blocked in a stub, and in the first process of a pid namespace those without a handler have
// no effect.
func TestExitOn(t *testing.T) {
	s := start(t, Config{})
	init, err := s.Fork(new(Batch), unix.CLONE_NEWPID)
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer init.Kill()
	b := new(Batch)
	b.ExitOn(unix.SIGTERM)
	do(t, init, b)
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM} {
		if err := unix.PidfdSendSignal(int(init.PidFD.Fd()), sig, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if ws, err := init.Wait(); err != nil || ws.ExitStatus() != 128+int(unix.SIGTERM) {
		t.Errorf("status %v, %v; want exit 143", ws, err)
	}
}

// An answer is waited for again and again, as long as there is a reason for it to be late.
func TestPatience(t *testing.T) {
	c, theirs, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	defer theirs.Close()
	asked := 0
	c.patient = func() bool {
		if asked++; asked == 3 {
			theirs.Write([]byte{1})
		}
		return asked < 4
	}
	p := make([]byte, 2)
	if err := c.readFull(p, time.Millisecond); err != ErrTimeout || asked != 4 || p[0] != 1 {
		t.Errorf("%v, asked %d times, %v", err, asked, p)
	}
}

func TestKilledStubIsAnError(t *testing.T) {
	s := start(t, Config{})
	unix.PidfdSendSignal(int(s.PidFD.Fd()), unix.SIGKILL, nil, 0)
	b := new(Batch)
	b.Call(unix.SYS_GETPID)
	if err := s.Do(b); !errors.Is(err, ErrGone) {
		t.Errorf("error = %v, want ErrGone", err)
	}
}

// Rule 5 and 7: nothing of the parent is in the stub.
func TestStubIsClean(t *testing.T) {
	t.Setenv("CANARY", "secret")
	leak, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	s := start(t, Config{})
	b := new(Batch)
	b.Call(unix.SYS_GETPID)
	do(t, s, b)
	proc := "/proc/" + itoa(s.Pid)
	if env, err := os.ReadFile(proc + "/environ"); err == nil && len(env) > 0 {
		t.Errorf("environ %q", env)
	}
	if got, err := os.ReadFile(proc + "/cmdline"); err == nil && string(got) != "hull init\x00" {
		t.Errorf("cmdline %q", got)
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err == nil && len(fds) != 5 {
		t.Errorf("%d descriptors, want 0 to 4", len(fds))
	}
	status, _ := os.ReadFile(proc + "/status")
	if !bytes.Contains(status, []byte("SigBlk:\tfffffffffffbfeff")) {
		t.Errorf("signals not blocked:\n%s", status)
	}
}

func TestLargeBatch(t *testing.T) {
	s := start(t, Config{})
	b := new(Batch)
	fd := b.Openat(CWD, "/dev/null", unix.O_RDWR, 0)
	n := b.Write(fd, make([]byte, 3<<20))
	b.Close(fd)
	do(t, s, b)
	if b.Value(n) != 3<<20 {
		t.Errorf("write = %d", b.Value(n))
	}
}

func TestTraceNamesCalls(t *testing.T) {
	var lines []string
	s := start(t, Config{Trace: func(c Call) { c.Took = 0; lines = append(lines, c.String()) }})
	b := new(Batch)
	b.In("root.path")
	fd := b.Openat(CWD, "/dev/null", 0, 0)
	b.Ignore(b.Call(unix.SYS_CLOSE, Int(4096)), 0)
	b.Close(fd)
	do(t, s, b)
	want := []string{
		`root.path: openat(AT_FDCWD, "/dev/null", 0x80000, 0) = 5 <0 µs>`,
		`root.path: close(4096) = -1 EBADF (bad file descriptor) <0 µs>`,
		`root.path: close(5) = 0 <0 µs>`,
	}
	if len(lines) != len(want) {
		t.Fatalf("trace %q", lines)
	}
	for i := range want {
		if lines[i] != want[i] {
			t.Errorf("line %d %s\nwant   %s", i, lines[i], want[i])
		}
	}
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := Start(Config{})
		if err != nil {
			b.Fatal(err)
		}
		s.Kill()
	}
}

func BenchmarkDo(b *testing.B) {
	s := start(b, Config{})
	for b.Loop() {
		batch := new(Batch)
		batch.Call(unix.SYS_GETPID)
		do(b, s, batch)
	}
}

// Hosts may forbid executable memory files: vm.memfd_noexec=2.
func TestImageWithoutMemfd(t *testing.T) {
	f, err := newTmpfile(image(5), errors.New("forbidden"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("the image can be written to")
	}
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f} // the stub reads its end of file from here: it is no socket
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Errorf("not executed: %v", err)
	}
}

// A child that a stub has cloned, but could not tell of, is reaped with the stub: else it would be this program's zombie
// for ever, and keep its pid namespace from ending.
func TestKillReapsAnUnknownChild(t *testing.T) {
	s := start(t, Config{})
	b := new(Batch)
	pid := b.Call(unix.SYS_CLONE, Int(uint64(unix.CLONE_PARENT|unix.SIGCHLD)), Int(0), Int(0))
	child, parent := b.Label(), b.Label()
	in := b.Assert(pid.Arg(), ^uint64(0), 0, unix.EAGAIN, "in the child")
	b.OnOK(in, child)
	b.OnErr(in, 0, parent)
	b.Mark(parent)
	b.Call(unix.SYS_EXIT_GROUP, Int(0))
	b.Mark(child)
	b.Dup3(Fd(initSocket), Control, unix.O_CLOEXEC)
	b.Call(unix.SYS_CLOSE, Int(initSocket))
	s.clones = true // as SendFork says
	if err := s.Send(b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReceiveFork(); !errors.Is(err, ErrGone) {
		t.Fatalf("error = %v, want that the stub is gone", err)
	}
	s.Kill()
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("wait4: %d, %v; want no child", pid, err)
	}
}

// What comes before the clone is in the trace once, though both stubs answer the batch.
func TestTraceOfFork(t *testing.T) {
	var names []string
	s := start(t, Config{Trace: func(c Call) { names = append(names, c.Name) }})
	b := new(Batch)
	b.Call(unix.SYS_UMASK, Int(0o22))
	init, err := s.Fork(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer init.Kill()
	const want = "umask clone sendmsg close dup3 close"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("trace: %s\nwant:  %s", got, want)
	}
}
