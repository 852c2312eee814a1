package hull_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/sandbox/image"
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

func TestSandboxCheckpoint(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "a", "image")
	c, d := runSaved(t, r, bundle)
	for n := range 3 {
		d.step(n + 1)
	}
	// Processes of exec end with the sandbox.
	for _, terminal := range []bool{false, true} {
		var master console
		p := c.ProcessSpec()
		p.Args, p.Terminal = hulltest.Args("sleep", "3600"), terminal
		o := hull.ExecOptions{Process: p}
		if terminal {
			o.Console = master.take
		}
		e, err := c.Exec(t.Context(), o)
		if err != nil {
			t.Fatal(errorText(err))
		}
		if terminal {
			defer master.Close()
		}
		defer func() { expect(t, "137", wait(t, e)) }()
	}
	checkpoint(t, c, image, false)
	expect(t, "signal SIGKILL", wait(t, c.Init()))
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("the container is still there: %v", err)
	}
	if fi, err := os.Stat(image); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	// By another name, and twice; the image says of which isolation it is.
	for _, id := range []string{"box", "fox"} {
		d := d.goesOn()
		r := &hull.Runtime{Root: r.Root, SandboxProgram: r.SandboxProgram, Warn: r.Warn}
		c := restore(t, r, id, restoreOptions(bundle, image, d))
		if c.Isolation() != hull.Sandbox {
			t.Errorf("its isolation is %s", c.Isolation())
		}
		d.step(4)
		d.step(5)
		list, err := c.Inside()
		for deadline := time.Now().Add(5 * time.Second); len(list) > 2 && time.Now().Before(deadline); list, err = c.Inside() {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil || len(list) != 2 {
			t.Errorf("got %v, %v", list, err)
		}
		if err := c.Pause(); err != nil {
			t.Error(errorText(err))
		}
		if err := c.Resume(); err != nil {
			t.Error(errorText(err))
		}
		d.in.Close()
		expect(t, "0", wait(t, c.Init()))
		if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
			t.Error(errorText(err))
		}
	}
}

// What was restored can be saved, and what is left running goes on with what it has.
func TestSandboxLeaveRunning(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), t.TempDir()
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, filepath.Join(dir, "1"), true)
	d.step(2)
	checkpoint(t, c, filepath.Join(dir, "2"), true)
	d.step(3)
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	d = d.goesOn()
	c = restore(t, r, "box", restoreOptions(bundle, filepath.Join(dir, "2"), d))
	d.step(3)
	checkpoint(t, c, filepath.Join(dir, "3"), false)
	d = d.goesOn()
	restore(t, r, "box", restoreOptions(bundle, filepath.Join(dir, "3"), d))
	d.step(4)
}

// What is not an image of this container is refused, and leaves nothing.
func TestSandboxImagesThatCannotBe(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, true)
	o := hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: image}}
	if err := c.Checkpoint(t.Context(), o); !errors.Is(err, hull.ErrExist) {
		t.Errorf("a second image in the same place: %v", err)
	}
	d.step(2)
	checkpoint(t, c, filepath.Join(t.TempDir(), "other"), false)
	change := func(name string, f func([]byte) []byte) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, f(b), 0o600)
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"no header":          {func(dir string) error { return os.Remove(filepath.Join(dir, "sandbox.header")) }, "no such file"},
		"changed header":     {change("sandbox.header", flip), "sandbox.header: it is damaged"},
		"cut header":         {change("sandbox.header", cut), "sandbox.header: it is damaged"},
		"changed kernel":     {change("sandbox.kernel", flip), "sandbox.kernel: the checksum differs"},
		"cut kernel":         {change("sandbox.kernel", cut), "sandbox.kernel is damaged: it has"},
		"changed memory":     {change("sandbox.memory", flip), "sandbox.memory: the checksum differs"},
		"changed pages":      {change("sandbox.pages", flip), "sandbox.pages: the checksum differs"},
		"cut pages":          {change("sandbox.pages", cut), "sandbox.pages is damaged: it has"},
		"a link":             {func(dir string) error { return linkInstead(dir, "sandbox.pages") }, "sandbox.pages: too many levels of symbolic links"},
		"a fifo":             {func(dir string) error { return fifoInstead(dir, "sandbox.kernel") }, "sandbox.kernel is no regular file"},
		"of another release": {edited(func(h string) string { return strings.Replace(h, `"Release":"`, `"Release":"9`, 1) }), "saved by hull"},
		"of another kernel":  {edited(func(h string) string { return strings.Replace(h, `"Module":"`, `"Module":"9`, 1) }), "saved by the kernel"},
		"of another machine": {edited(func(h string) string { return strings.Replace(h, `"CPU":"`, `"CPU":"quantum `, 1) }), "processor with quantum"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "image")
			if err := os.CopyFS(dir, os.DirFS(image)); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := r.Restore(t.Context(), "box", restoreOptions(bundle, dir, newDialogue(t)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
	other := savedBundle(t, func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "X=1") })
	if _, err := r.Restore(t.Context(), "box", restoreOptions(other, image, newDialogue(t))); err == nil || !strings.Contains(err.Error(), "process differs") || !strings.Contains(hull.Hint(err), "--bundle") {
		t.Errorf("another configuration: %v; %q", err, hull.Hint(err))
	}
}

// edited changes a header and makes its checksum right again, as who does so on purpose.
func edited(f func(string) string) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, "sandbox.header")
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, body, _ := strings.Cut(string(b), "\n")
		return os.WriteFile(path, headerOf(f(body)), 0o600)
	}
}

func linkInstead(dir, name string) error {
	path := filepath.Join(dir, name)
	if err := os.Rename(path, path+".real"); err != nil {
		return err
	}
	return os.Symlink(name+".real", path)
}

func fifoInstead(dir, name string) error {
	path := filepath.Join(dir, name)
	if err := os.Remove(path); err != nil {
		return err
	}
	return unix.Mkfifo(path, 0o600)
}

// An image may be of any size that somebody has made up: who waits for it can leave off.
func TestSandboxRestoreInterrupted(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	checkpoint(t, c, dir, false)
	wait(t, c.Init())
	header := filepath.Join(dir, image.Header)
	raw, err := os.ReadFile(header)
	if err != nil {
		t.Fatal(err)
	}
	i, err := image.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	i.Files[image.Pages].Length = 1 << 42
	if raw, err = i.Encode(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(header, raw, 0o600), os.Truncate(filepath.Join(dir, image.Files[image.Pages]), 1<<42)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, err = r.Restore(ctx, "box", restoreOptions(bundle, dir, d.goesOn()))
	refused(t, err, context.DeadlineExceeded, "restore box")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it takes %v", took)
	}
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

// A terminal goes on where it was, with another one of the host's.
func TestSandboxCheckpointTerminal(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t, withTerminal), filepath.Join(t.TempDir(), "image")
	var master console
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Console: master.take})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	d := newDialogue(t)
	d.in, d.err, d.out = master.File, master.File, bufio.NewReader(master)
	defer master.Close()
	expect(t, "ready", d.line())
	d.typedStep(1)
	checkpoint(t, c, image, true)
	d.typedStep(2)
	checkpoint(t, c, image+"2", false)
	for range 2 {
		var again console
		o := restoreOptions(bundle, image+"2", d)
		o.Stdio, o.Console = hull.Stdio{}, again.take
		c = restore(t, r, "box", o)
		defer again.Close()
		n := &dialogue{t: t, in: again.File, err: again.File, out: bufio.NewReader(again), up: d.up}
		n.typedStep(3)
		n.typedStep(4)
		if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
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

// Streams may be others than they were: files, or the null device, instead of pipes, and the other way round.
func TestSandboxCheckpointStreams(t *testing.T) {
	for name, before := range map[string]int{"of one that ran": 0, "of one that was restored": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t)
			bundle, dir := savedBundle(t), t.TempDir()
			image := func(n int) string { return filepath.Join(dir, fmt.Sprint("image", n)) }
			c, d := runSaved(t, r, bundle)
			d.step(1)
			checkpoint(t, c, image(0), false)
			for n := range before { // from pipes to pipes
				d = d.goesOn()
				c = restore(t, r, "box", restoreOptions(bundle, image(n), d))
				d.step(n + 2)
				checkpoint(t, c, image(n+1), false)
			}
			// From pipes to files.
			in, err := os.Create(filepath.Join(dir, "in"))
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if _, err := in.WriteString("go\ngo\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			out, err := os.Create(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			o := restoreOptions(bundle, image(before), d)
			o.Stdio = hull.Stdio{In: in, Out: out, Err: out}
			c = restore(t, r, "box", o)
			expect(t, "0", wait(t, c.Init()))
			text, err := os.ReadFile(out.Name())
			if err != nil || !strings.HasPrefix(string(text), fmt.Sprintf("count %d ", before+2)) || strings.Count(string(text), "\n") != 2 {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}

// Somebody who is killed while a container is saved or restored leaves one that goes on, or can be deleted.
func TestSandboxCheckpointKilled(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), t.TempDir()
	c, d := runSaved(t, r, bundle)
	d.step(1)
	n := 1
	for i := range 8 {
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "checkpoint", "box", filepath.Join(dir, fmt.Sprint(i)))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 7 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		n++
		d.step(n)
		names, err := filepath.Glob(filepath.Join(dir, fmt.Sprint(i), ".*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(names) > 0 { // the next takes it away
			checkpoint(t, c, filepath.Join(dir, fmt.Sprint(i)), true)
			if names, _ = filepath.Glob(filepath.Join(dir, fmt.Sprint(i), ".*")); len(names) > 0 {
				t.Errorf("%v are left", names)
			}
		}
	}
	image := filepath.Join(dir, "image")
	checkpoint(t, c, image, false)
	for i := range 8 {
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "restore", "box", image, bundle)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 20 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
	d = d.goesOn()
	restore(t, r, "box", restoreOptions(bundle, image, d))
	d.step(n + 1)
}

func init() { roles["checkpointer"] = playCheckpointer }

// playCheckpointer is a caller who may be killed: ROOT SANDBOX-PROGRAM checkpoint|restore ID IMAGE [BUNDLE].
func playCheckpointer(args []string) error {
	r := &hull.Runtime{Root: args[0], SandboxProgram: args[1], Isolation: hull.Sandbox}
	image := hull.ImageOptions{Path: args[4]}
	if args[2] == "restore" {
		_, err := r.Restore(context.Background(), args[3], hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: args[5]}, ImageOptions: image})
		return err
	}
	c, err := r.Container(args[3])
	if err != nil {
		return err
	}
	return c.Checkpoint(context.Background(), hull.CheckpointOptions{ImageOptions: image, LeaveRunning: true})
}

// Where there is no room for an image, the container goes on, and no image is there.
func TestSandboxCheckpointWithoutRoom(t *testing.T) {
	r := newRuntime(t)
	c, d := runSaved(t, r, savedBundle(t))
	d.step(1)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, leave := range []bool{true, false} {
		err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: dir}, LeaveRunning: leave})
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("got %v, want ENOSPC", err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("%v, %v are left", names, err)
		}
	}
	d.step(2)
}

func headerOf(body string) []byte {
	return fmt.Appendf(nil, "hull sandbox image 1 %x\n%s", sha256.Sum256([]byte(body)), body)
}

// The network of a restored container is that which is there then.
func TestSandboxCheckpointNetwork(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("ip"))
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "image")
	configuration := func() *specs.Spec {
		inside := hulltest.NewNetns(t, nil)
		joinOutside(t, inside)
		raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		s := new(specs.Spec)
		if err := json.Unmarshal(raw, s); err != nil {
			t.Fatal(err)
		}
		for i := range s.Linux.Namespaces {
			if ns := &s.Linux.Namespaces[i]; ns.Type == specs.NetworkNamespace {
				ns.Path = procPath(inside.TID, "ns/net")
			}
		}
		return s
	}
	connects := func(c *hull.Container) {
		t.Helper()
		says(t, exec1(t, c, verb("connect", "tcp", "10.98.0.1:80")), "connected")
	}
	d := newDialogue(t)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Spec: configuration(), Stdio: d.stdio})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, "ready", d.line())
	connects(c)
	checkpoint(t, c, image, true)
	connects(c)
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	d = d.goesOn()
	o := restoreOptions(bundle, image, d)
	o.Spec = configuration()
	c = restore(t, r, "box", o)
	d.step(1)
	connects(c)
}

// A sandbox that is killed amid all leaves an error, and what delete takes away.
func TestSandboxKilledAmidCheckpoint(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), t.TempDir()
	image := filepath.Join(dir, "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, false)
	for i := range 6 {
		d := d.goesOn()
		after := time.Duration(i) * 5 * time.Millisecond
		c := restore(t, r, "box", restoreOptions(bundle, image, d))
		path := filepath.Join(dir, fmt.Sprint(i))
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "checkpoint", "box", path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = unix.Kill(c.Init().Pid, unix.SIGKILL)
		err := cmd.Wait()
		_, serr := os.Stat(filepath.Join(path, "sandbox.header"))
		if (err == nil) != (serr == nil) {
			t.Errorf("killed after %v: checkpoint: %v, header: %v", after, err, serr)
		}
		if names, _ := filepath.Glob(filepath.Join(path, ".*")); len(names) > 0 {
			t.Errorf("killed after %v: %v are left", after, names)
		}
		if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
	for i := range 6 {
		after := time.Duration(i) * 20 * time.Millisecond
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "restore", "box", image, bundle)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var c *hull.Container
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && (c == nil || c.Init().Pid == 0); {
			c, _ = r.Container("box")
		}
		time.Sleep(after)
		if c != nil && c.Init().Pid > 0 {
			_ = unix.Kill(c.Init().Pid, unix.SIGKILL)
		}
		_ = cmd.Wait()
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
}

// Whatever somebody has made of an image, checksums and all: it is an error, or a container that can be deleted.
func TestSandboxMadeUpImages(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, false)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 12 {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.CopyFS(dir, os.DirFS(image)); err != nil {
			t.Fatal(err)
		}
		name := []string{"sandbox.kernel", "sandbox.kernel", "sandbox.memory"}[i%3]
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		was := crc(b)
		for range 1 + i {
			b[random.IntN(len(b))] ^= 1 << random.IntN(8)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again := edited(func(h string) string {
			return strings.Replace(h, fmt.Sprintf(`"Checksum":%d`, was), fmt.Sprintf(`"Checksum":%d`, crc(b)), 1)
		})
		if err := again(dir); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c, err := r.Restore(t.Context(), "box", restoreOptions(bundle, dir, d.goesOn()))
		if err == nil {
			remove(t, r, c)
		}
		t.Logf("%s with %d bits changed: %v", name, 1+i, err)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%d: it takes %v", i, took)
		}
		if err != nil && strings.Contains(err.Error(), "checksum") {
			t.Error("the checksum was to be right")
		}
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
}

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// A paused container is saved as it is, and stays paused if it stays: nothing happens in it meanwhile, though it was asked to.
func TestSandboxCheckpointOfPaused(t *testing.T) {
	r := newRuntime(t)
	image := hull.ImageOptions{Path: filepath.Join(t.TempDir(), "image")}
	bundle := savedBundle(t)
	c, d := runSaved(t, r, bundle)
	d.step(1)
	if err := c.Pause(); err != nil {
		t.Fatal(errorText(err))
	}
	d.ask()
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image, LeaveRunning: true}); err != nil {
		t.Fatal(errorText(err))
	}
	wantStatus(t, c, hull.Paused)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.err.Fd()), Events: unix.POLLIN}}, 0); n != 0 {
		t.Errorf("it has said something while it was saved: %v", err)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(errorText(err))
	}
	d.said(2)
	if err := c.Pause(); err != nil {
		t.Fatal(errorText(err))
	}
	image.Path += "2"
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image}); err != nil {
		t.Fatal(errorText(err))
	}
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("after the checkpoint: %v, want no container", err)
	}
	d = d.goesOn()
	wantStatus(t, restore(t, r, "box", restoreOptions(bundle, image.Path, d)), hull.Running)
	d.step(3)
}

// What can't be saved, or restored, is refused before anything is made.
func TestSandboxCheckpointRefused(t *testing.T) {
	r := newRuntime(t)
	image := filepath.Join(t.TempDir(), "image")
	bundle := savedBundle(t)
	c, d := runSaved(t, r, bundle)
	options := func(change func(*hull.CheckpointOptions)) hull.CheckpointOptions {
		o := hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: image}}
		change(&o)
		return o
	}
	for want, o := range map[string]hull.CheckpointOptions{
		"--lazy-pages":               options(func(o *hull.CheckpointOptions) { o.LazyPages = true }),
		"--manage-cgroups-mode full": options(func(o *hull.CheckpointOptions) { o.ManageCgroups = "full" }),
		"--pre-dump":                 options(func(o *hull.CheckpointOptions) { o.PreDump = true }),
		"--parent-path":              options(func(o *hull.CheckpointOptions) { o.ParentPath = "../x" }),
		"--page-server":              options(func(o *hull.CheckpointOptions) { o.PageServer = "127.0.0.1:1" }),
		"--status-fd":                options(func(o *hull.CheckpointOptions) { o.StatusFD = os.Stdin }),
	} {
		refused(t, c.Checkpoint(t.Context(), o), hull.ErrUnsupported, "checkpoint box", want)
	}
	d.step(1)
	// A socket that a process was given, for as long as it has it.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer ours.Close()
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	e, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Stdio: hull.Stdio{In: theirs}})
	theirs.Close()
	if err != nil {
		t.Fatal(errorText(err))
	}
	refused(t, c.Checkpoint(t.Context(), options(func(*hull.CheckpointOptions) {})), hull.ErrUnsupported, "a socket of the host's")
	if err := e.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	_, _ = e.Wait()
	if _, err := os.Stat(image); err == nil {
		t.Error("a directory is left")
	}
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	host := func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
	}
	c = runningIn(t, r, host)
	refused(t, c.Checkpoint(t.Context(), options(func(*hull.CheckpointOptions) {})), hull.ErrUnsupported, "the host's network")
	wantStatus(t, c, hull.Running)
}

// What the kernel was told is what it does when it is restored; what was written to a root in memory is in the image.
func TestSandboxCheckpointSettings(t *testing.T) {
	r := newRuntime(t)
	r.Sandbox.Overlay = "memory"
	image := filepath.Join(t.TempDir(), "image")
	const ports = "net.ipv4.ip_local_port_range"
	bundle := hulltest.Bundle(t, args("sleep", "3600"), func(s *specs.Spec) {
		s.Hostname = "saved"
		s.Linux.Sysctl = map[string]string{ports: "20000 20100"}
	})
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	see := func(c *hull.Container) {
		t.Helper()
		says(t, exec1(t, c, verb("hostname")), "saved (none)")
		says(t, exec1(t, c, verb("sysctl", ports)), "20000 20100")
	}
	see(c)
	says(t, exec1(t, c, verb("write", "/written", "kept")))
	checkpoint(t, c, image, false)
	if _, err := os.Stat(filepath.Join(bundle, "rootfs/written")); err == nil {
		t.Error("it was written to the host's files")
	}
	r.Sandbox.Overlay = "" // it is in the image
	c = restore(t, r, "box", hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: bundle}, ImageOptions: hull.ImageOptions{Path: image}})
	see(c)
	expect(t, outcome{Status: "0", Out: "kept"}, exec1(t, c, verb("cat", "/written")))
}
