package hull_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// The program that is saved: it answers each line with that and how many there were. With "tcp" each line goes through a
// connection of its own on the way.
func init() {
	roles["counter"] = func(args []string) error {
		through := func(line string) (string, error) { return line, nil }
		if len(args) > 0 && args[0] == "tcp" {
			pipe, err := loopback()
			if err != nil {
				return err
			}
			through = pipe
		}
		lines := bufio.NewScanner(os.Stdin)
		for n := 1; lines.Scan(); n++ {
			line, err := through(lines.Text())
			if err != nil {
				return err
			}
			fmt.Println(line, n)
		}
		return lines.Err()
	}
}

// The program that runs or restores the container "box" and waits for its end, as a shell does with a job.
//
//	shell VERB BUNDLE DIRECTORY
func init() {
	roles["shell"] = func(args []string) error {
		ctx := context.Background()
		r := &hull.Runtime{Root: filepath.Join(args[2], "state"), CRIU: hulltest.CRIUProgram()}
		o := hull.CreateOptions{Bundle: args[1], Stdio: hull.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}}
		var c *hull.Container
		var err error
		if args[0] == "run" {
			c, err = r.Run(ctx, "box", o)
		} else {
			c, err = r.Restore(ctx, "box", hull.RestoreOptions{CreateOptions: o, ImageOptions: hull.ImageOptions{Path: filepath.Join(args[2], "image"), ShellJob: true}})
		}
		if err != nil {
			return errors.New(errorText(err))
		}
		ws, err := c.Init().Wait()
		if err == nil && ws != 0 {
			err = fmt.Errorf("status %#x", ws)
		}
		return err
	}
}

// loopback returns a function whose argument comes back over a connection that stays.
func loopback() (func(string) (string, error), error) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // CRIU has none of it
	l, err := plain.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	in, err := l.Accept()
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(in)
	return func(s string) (string, error) {
		if _, err := fmt.Fprintln(out, s); err != nil {
			return "", err
		}
		line, err := r.ReadString('\n')
		return strings.TrimSuffix(line, "\n"), err
	}, nil
}

// counting are the streams of a counter.
type counting struct {
	t     testing.TB
	in    *os.File
	lines *bufio.Scanner
	out   *os.File
	stdio hull.Stdio
}

func newCounting(t testing.TB) *counting {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range []*os.File{inR, inW, outR, outW} {
			f.Close()
		}
	})
	return &counting{t, inW, bufio.NewScanner(outR), outR, hull.Stdio{In: inR, Out: outW, Err: outW}}
}

// given closes what the container has got.
func (c *counting) given() { c.stdio.In.Close(); c.stdio.Out.Close() }

// want says something and wants it back with that number.
func (c *counting) want(word string, n int) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, word); err != nil {
		c.t.Fatal(err)
	}
	c.out.SetReadDeadline(time.Now().Add(20 * time.Second))
	if want := fmt.Sprint(word, " ", n); !c.lines.Scan() || c.lines.Text() != want {
		c.t.Fatalf("it says %q (%v), want %q", c.lines.Text(), c.lines.Err(), want)
	}
}

// saving is a container that is to be saved.
type saving struct {
	*hull.Container
	runtime *hull.Runtime
	bundle  string
	image   string
	*counting
}

// counter returns a container that counts.
func counter(t testing.TB, edits ...func(*specs.Spec)) *saving {
	t.Helper()
	hulltest.Require(t, hulltest.Root, hulltest.CRIU)
	r := newRuntime(t)
	r.CRIU = hulltest.CRIUProgram()
	s := &saving{runtime: r, image: filepath.Join(t.TempDir(), "image"), counting: newCounting(t)}
	s.bundle = hulltest.Bundle(t, append([]func(*specs.Spec){withActor(t, t.TempDir()), playing("counter")}, edits...)...)
	var err error
	if s.Container, err = r.Run(t.Context(), "box", hull.CreateOptions{Bundle: s.bundle, Stdio: s.stdio}); err != nil {
		t.Fatal(errorText(err))
	}
	s.given()
	remove(t, r, s.Container)
	return s
}

func (s *saving) checkpoint(o hull.CheckpointOptions) {
	s.t.Helper()
	if o.Path == "" {
		o.Path = s.image
	}
	if err := s.Checkpoint(s.t.Context(), o); err != nil {
		s.t.Fatal(errorText(err))
	}
}

// restore makes the container again, with streams of its own.
func (s *saving) restore(o hull.RestoreOptions) {
	s.t.Helper()
	if err := s.tryRestore(o); err != nil {
		s.t.Fatal(errorText(err))
	}
}

func (s *saving) tryRestore(o hull.RestoreOptions) error {
	s.t.Helper()
	s.counting = newCounting(s.t)
	if o.Path == "" {
		o.Path = s.image
	}
	if o.Bundle == "" {
		o.Bundle = s.bundle
	}
	if o.CreateOptions.Stdio == (hull.Stdio{}) {
		o.CreateOptions.Stdio = s.stdio
	}
	c, err := s.runtime.Restore(s.t.Context(), "box", o)
	if err != nil {
		return err
	}
	s.given()
	s.Container = c
	remove(s.t, s.runtime, c)
	return nil
}

// ends lets the program end, and wants it to do so well.
func (s *saving) ends() {
	s.t.Helper()
	s.in.Close()
	expect(s.t, "0", wait(s.t, s.Init()))
}

// named puts named pipes in the place of the output.
func named(c *counting, mode uint32) *counting {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "out")
	if err := unix.Mkfifo(path, mode); err != nil {
		c.t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { r.Close(); w.Close() })
	c.stdio.Out.Close()
	c.out, c.lines, c.stdio.Out, c.stdio.Err = r, bufio.NewScanner(r), w, w
	return c
}
