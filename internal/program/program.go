// Package program runs programs of the host's, or of a container's, for hull's own purposes, and waits for them: hooks, and
// the programs that map ids for users.
//
// A program is the child of a stub, and the stub reaps it. So nothing that a program around hull does with its children can
// take away how this one has ended: waiting for all of them, or ignoring SIGCHLD (docs/design.md, "The stub").
//
// What is run is trusted with its caller's rights, but not to end, to read its input or to keep its output short: it is
// killed when its context ends, descendants that hold its output open are waited for no longer than a moment, and only the
// end of its output is kept. It has no descriptors but the standard streams.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// drain is how long the output stays open for descendants that outlive the program, such as a daemon that it started.
const drain = 200 * time.Millisecond

// Program is what is to be run.
type Program struct {
	Path  string   // absolute
	Args  []string // with the name; empty means the path alone
	Env   []string
	Stdin []byte
}

// Run runs the program where the caller is, with dir as its working directory, in a process group of its own that is killed
// with it. It returns when the program has ended: nil, or how it ended and, in the same line, what it said last.
func (p *Program) Run(ctx context.Context, dir string) error {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		return err
	}
	defer s.Kill()
	if dir != "" {
		b := new(stub.Batch)
		b.Call(unix.SYS_CHDIR, b.String(dir).Arg())
		b.Note(dir)
		if err := s.Do(b); err != nil {
			return err
		}
	}
	return p.run(ctx, s, true)
}

// RunIn is Run where the stub is, with its rights, and in its process group.
func (p *Program) RunIn(ctx context.Context, s *stub.Stub) error { return p.run(ctx, s, false) }

func (p *Program) run(ctx context.Context, s *stub.Stub, group bool) error {
	return p.RunBy(ctx, func(stdin, output *os.File) (func(context.Context) error, error) {
		c, err := p.start(s, stdin, output, group)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error {
			defer c.pidfd.Close()
			killed, err := c.wait(ctx), reap(s)
			if killed != nil {
				return killed
			}
			return err
		}, nil
	})
}

// RunBy is Run for a program that somebody else starts, with these for its standard input and the other two. What start returns
// waits for the program's end, which it brings about when its context ends, and says how it ended.
func (p *Program) RunBy(ctx context.Context, start func(stdin, output *os.File) (wait func(context.Context) error, err error)) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	stdin, err := memfile(p.Stdin)
	if err != nil {
		return err
	}
	defer stdin.Close()
	output, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	wait, err := start(stdin, w)
	w.Close()
	if err != nil {
		return err
	}
	said := make(chan string, 1)
	go func() {
		t := &tail{max: outputMax}
		_, _ = io.Copy(t, output)
		said <- t.line()
	}()
	err = wait(ctx)
	_ = output.SetReadDeadline(time.Now().Add(drain))
	line := <-said
	if err != nil && line != "" {
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}

// child is a program that runs, and its stub's child.
type child struct {
	pidfd *os.File
	group int // in the caller's pid namespace; or 0
}

// start has the stub clone the child. As with vfork(2) it shares the stub's memory until it is another program, and so its
// failures are there for the stub to report. CLONE_PARENT, by which it would be hull's, is refused to the first process of a
// pid namespace (clone(2)).
func (p *Program) start(s *stub.Stub, stdin, w *os.File, group bool) (*child, error) {
	b := new(stub.Batch)
	fds := b.RecvFDs(2)
	if signal.Ignored(unix.SIGCHLD) {
		// Inherited by the stub, it would have the kernel reap the child.
		b.Call(unix.SYS_RT_SIGACTION, stub.Int(unix.SIGCHLD), b.Const(make([]byte, 32)).Arg(), stub.Int(0), stub.Int(8))
	}
	pidfd := b.Out(4)
	pid := b.Call(unix.SYS_CLONE, stub.Int(unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PIDFD|uint64(unix.SIGCHLD)), stub.Int(0), pidfd.Arg())
	parent, exit := b.Label(), b.Label()
	b.OnErr(b.Assert(pid.Arg(), ^uint64(0), 0, unix.EAGAIN, "in the child"), 0, parent)
	if group {
		b.Call(unix.SYS_SETPGID, stub.Int(0), stub.Int(0))
	}
	b.Dup3(fds[0], 0, 0)
	b.Dup3(fds[1], 1, 0)
	b.Dup3(fds[1], 2, 0)
	b.Ignore(b.Call(unix.SYS_CLOSE_RANGE, stub.Int(3), stub.Int(uint32(1<<32-1)), stub.Int(unix.CLOSE_RANGE_CLOEXEC)), 0)
	b.BlockSignals(0)
	args := p.Args
	if len(args) == 0 {
		args = []string{p.Path}
	}
	exec := b.Execve(p.Path, args, p.Env)
	b.OnErr(exec, 0, exit)
	b.Mark(exit)
	b.Call(unix.SYS_EXIT_GROUP, stub.Int(stub.ExitSetup))
	b.Mark(parent)
	fd := b.Load(pidfd, 0)
	b.SendFDs(fd.Arg())
	b.Close(fd.FD())
	b.Close(fds[0])
	b.Close(fds[1])
	if err := s.Send(b); err != nil {
		return nil, err
	}
	if err := s.PassFDs(stdin, w); err != nil {
		return nil, err
	}
	if err := s.Receive(); err != nil {
		return nil, err
	}
	files := s.Files()
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, stub.ErrGone
	}
	c := &child{pidfd: files[0]}
	if group {
		c.group = int(b.Value(pid))
	}
	if errno := b.Errno(exec); errno != 0 {
		c.pidfd.Close()
		_ = reap(s)
		return nil, errno
	}
	return c, nil
}

// wait waits for the program's end. If ctx ends first, the program is killed, and the reason returned.
func (c *child) wait(ctx context.Context) error {
	if c.ended(ctx) {
		return nil
	}
	// Its parent, the stub, doesn't reap it now, so the group's number can't have become another's.
	if c.group > 0 {
		_ = unix.Kill(-c.group, unix.SIGKILL)
	}
	_ = unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0)
	c.ended(context.Background())
	return context.Cause(ctx)
}

// ended waits for the program's end, and is false if ctx ends first.
func (c *child) ended(ctx context.Context) bool {
	const look = 50 // milliseconds between looks at ctx
	for {
		fds := []unix.PollFd{{Fd: int32(c.pidfd.Fd()), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, look); n > 0 {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
	}
}

// reap lets the stub reap the child, which has ended.
func reap(s *stub.Stub) error {
	b := new(stub.Batch)
	status := b.Out(4)
	b.Call(unix.SYS_WAIT4, stub.Int(-1), status.Arg(), stub.Int(0), stub.Int(0))
	if err := s.Do(b); err != nil {
		return err
	}
	switch ws := unix.WaitStatus(b.Uint32(status, 0)); {
	case ws.Signaled():
		return fmt.Errorf("signal: %v", ws.Signal())
	case ws.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return nil
}

// memfile returns a file in memory that is read from its start.
func memfile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	_, werr := f.Write(content)
	_, serr := f.Seek(0, io.SeekStart)
	if err := errors.Join(werr, serr); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
