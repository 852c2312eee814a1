package hull_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func init() {
	roles["saved"] = playSaved
	roles["adder"] = playAdder
}

// saved is a program with a bit of everything that has to be there again when its container was restored.
type saved struct {
	count    int
	memory   []byte
	file     *os.File // read byte by byte
	gone     *os.File // as that, without a name any more
	appended *os.File
	toChild  *os.File
	child    *os.File // its answers
	conn     net.Conn // with itself
	listener net.Listener
	began    time.Time
	timer    *time.Timer
	polling  int // an epoll that has standard input, as a program with an event loop has one
}

// playSaved prints a line for each line that it reads.
func playSaved([]string) error {
	s, err := newSaved()
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	fmt.Println("ready")
	for in.Scan() {
		if err := s.step(); err != nil {
			return err
		}
	}
	return in.Err()
}

func newSaved() (_ *saved, err error) {
	s := &saved{memory: make([]byte, 1<<20), began: time.Now(), timer: time.NewTimer(time.Hour)}
	for i := range s.memory {
		s.memory[i] = byte(i * 7)
	}
	const text = "abcdefghijklmnopqrstuvwxyz"
	for path, f := range map[string]**os.File{"/tmp/file": &s.file, "/tmp/gone": &s.gone} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if *f, err = os.Open(path); err != nil {
			return nil, err
		}
	}
	if err := os.Remove("/tmp/gone"); err != nil {
		return nil, err
	}
	if s.polling, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(s.polling, unix.EPOLL_CTL_ADD, 0, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return nil, err
	}
	if s.appended, err = os.OpenFile("/tmp/appended", os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile("/dev/shm/tmpfs", []byte("kept"), 0o600); err != nil {
		return nil, err
	}
	theirs, toChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	child, answers, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.toChild, s.child = toChild, child
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{envRole + "=adder"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, answers, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	s.conn, err = net.Dial("tcp", s.listener.Addr().String())
	return s, err
}

// playAdder answers each number with the sum of all.
func playAdder([]string) error {
	var sum, n uint32
	for binary.Read(os.Stdin, binary.NativeEndian, &n) == nil {
		sum += n
		if err := binary.Write(os.Stdout, binary.NativeEndian, sum); err != nil {
			return err
		}
	}
	return nil
}

func (s *saved) step() error {
	s.count++
	for i, b := range s.memory {
		if b != byte(i*7) {
			return fmt.Errorf("memory at %d has changed", i)
		}
	}
	letter := func(f *os.File) string {
		b := make([]byte, 1)
		if _, err := f.Read(b); err != nil {
			return err.Error()
		}
		return string(b)
	}
	if _, err := fmt.Fprintf(s.appended, "%d\n", s.count); err != nil {
		return err
	}
	if err := binary.Write(s.toChild, binary.NativeEndian, uint32(s.count)); err != nil {
		return err
	}
	var sum uint32
	if err := binary.Read(s.child, binary.NativeEndian, &sum); err != nil {
		return err
	}
	fresh, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		return err
	}
	defer fresh.Close()
	for _, c := range []net.Conn{s.conn, fresh} {
		b := []byte{byte(s.count)}
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil || b[0] != byte(s.count) {
			return fmt.Errorf("the connection answers %v, %w", b, err)
		}
	}
	tmpfs, err := os.ReadFile("/dev/shm/tmpfs")
	if err != nil {
		return err
	}
	// A timer that goes on, and one that is begun.
	s.timer.Reset(10 * time.Millisecond)
	<-s.timer.C
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Printf("count %d file %s gone %s sum %d tmpfs %s host %s now %d up %d\n", s.count, letter(s.file), letter(s.gone), sum, tmpfs,
		hostname, time.Now().Unix(), time.Since(s.began)/time.Millisecond)
	return nil
}

// dialogue are the standard streams of a playSaved.
type dialogue struct {
	t     *testing.T
	stdio hull.Stdio
	in    *os.File
	out   *bufio.Reader
	err   *os.File
	up    int // the milliseconds that it said it runs
}

func newDialogue(t *testing.T) *dialogue {
	t.Helper()
	d := &dialogue{t: t}
	ends := make([]*os.File, 4)
	for i := 0; i < len(ends); i += 2 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		ends[i], ends[i+1] = r, w
	}
	d.stdio = hull.Stdio{In: ends[0], Out: ends[3], Err: ends[3]}
	d.in, d.out, d.err = ends[1], bufio.NewReader(ends[2]), ends[2]
	t.Cleanup(func() {
		for _, f := range ends {
			f.Close()
		}
	})
	return d
}

func (d *dialogue) line() string {
	d.t.Helper()
	d.err.SetReadDeadline(time.Now().Add(30 * time.Second))
	line, err := d.out.ReadString('\n')
	if err != nil {
		d.t.Fatalf("%q: %v", line, err)
	}
	return strings.TrimSpace(line)
}

// step has the program make its nth step, and looks at what it says.
func (d *dialogue) step(n int) {
	d.t.Helper()
	d.ask()
	d.said(n)
}

// ask asks for a step.
func (d *dialogue) ask() {
	d.t.Helper()
	if _, err := d.in.WriteString("go\n"); err != nil {
		d.t.Fatal(err)
	}
}

// said looks at what the program says of its nth step.
func (d *dialogue) said(n int) {
	d.t.Helper()
	line := d.line()
	what, rest, _ := strings.Cut(line, " host ")
	letter := string(rune('a' + n - 1))
	want := fmt.Sprintf("count %d file %s gone %s sum %d tmpfs kept", n, letter, letter, n*(n+1)/2)
	if what != want {
		d.t.Errorf("got %q, want %q", line, want)
	}
	var host string
	var now int64
	var up int
	if _, err := fmt.Sscanf(rest, "%s now %d up %d", &host, &now, &up); err != nil {
		d.t.Fatalf("%q: %v", line, err)
	}
	if off := time.Now().Unix() - now; off < -2 || off > 2 {
		d.t.Errorf("the clock is %d s late", off)
	}
	if up < d.up || up > d.up+20_000 {
		d.t.Errorf("it runs for %d ms, after %d", up, d.up)
	}
	d.up = up
}

// goesOn is a dialogue with what was restored of another.
func (d *dialogue) goesOn() *dialogue {
	n := newDialogue(d.t)
	n.up = d.up
	return n
}

// savedBundle is the bundle of a playSaved.
func savedBundle(t *testing.T, edits ...func(*specs.Spec)) string {
	t.Helper()
	return hulltest.Bundle(t, append([]func(*specs.Spec){withActor(t, t.TempDir()), playing("saved")}, edits...)...)
}

func runSaved(t *testing.T, r *hull.Runtime, bundle string) (*hull.Container, *dialogue) {
	t.Helper()
	d := newDialogue(t)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Stdio: d.stdio})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, "ready", d.line())
	return c, d
}

func checkpoint(t *testing.T, c *hull.Container, path string, leave bool) {
	t.Helper()
	o := hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: path}, LeaveRunning: leave}
	if err := c.Checkpoint(t.Context(), o); err != nil {
		t.Fatal(errorText(err))
	}
}

func restoreOptions(bundle, path string, d *dialogue) hull.RestoreOptions {
	return hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: bundle, Stdio: d.stdio}, ImageOptions: hull.ImageOptions{Path: path}}
}

func restore(t *testing.T, r *hull.Runtime, id string, o hull.RestoreOptions) *hull.Container {
	t.Helper()
	c, err := r.Restore(t.Context(), id, o)
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	return c
}

// typedStep is step at a terminal, which shows what is typed.
func (d *dialogue) typedStep(n int) {
	d.t.Helper()
	if n := d.out.Buffered(); n > 0 {
		d.t.Errorf("%d bytes before anything is typed", n)
	}
	r := d.out
	d.out = bufio.NewReader(io.MultiReader(&skipped{r: r, t: d.t}, r))
	d.step(n)
	d.out = r
}

// skipped is the line that a terminal shows of what was typed; it is read, and nothing of it comes.
type skipped struct {
	r    *bufio.Reader
	t    *testing.T
	done bool
}

func (s *skipped) Read([]byte) (int, error) {
	if !s.done {
		s.done = true
		line, err := s.r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		expect(s.t, "go", strings.TrimSpace(line))
	}
	return 0, io.EOF
}
