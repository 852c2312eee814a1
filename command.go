package hull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/spec"
)

// Cmd is one program in a container of its own, as exec.Cmd of package os/exec is one program on the host. The
// container is made by Start and removed by Wait. A Cmd can't be used again.
//
// Its configuration is the one of package spec: all namespaces but the user's, the default capabilities and masks, a
// network of its own with nothing but a loopback.
type Cmd struct {
	// Args are the program and its arguments. The program is searched for by PATH, in the container.
	Args []string
	// Rootfs is the directory with the container's root file system. The container sees it read-only. Empty means the
	// host's files, as Host has it.
	Rootfs string
	Host   HostFiles
	// Env is the environment, as NAME=VALUE. Nil means that of package spec: a PATH and a TERM; or, over the host's files,
	// what of the caller's environment is no secret, such as PATH, TERM and LANG.
	Env []string
	// Dir is the working directory, in the container. Empty means /; or, over the host's files, that of the caller.
	Dir string

	// The next are for a command over the host's files; others have them from Spec.

	// User is who runs the program: USER or USER:GROUP, names of the host or numbers. Empty means the caller. Who isn't
	// root can only be itself, or root of the container.
	User string
	// Capabilities are those that the program has, as capabilities(7) names them. The caller's are dropped.
	Capabilities []string
	// Seccomp is the profile of system calls. Nil means that of spec.Seccomp, an empty one none.
	Seccomp *specs.LinuxSeccomp
	// Hostname is the container's. Empty means the host's.
	Hostname string
	// ExtraEnv is added to Env: NAME=VALUE, or NAME for the caller's value, if it has one.
	ExtraEnv []string

	// Isolation is what keeps the program apart, instead of Runtime's.
	Isolation Isolation
	// Limits are what it may use. Stopped, if it is set, is called during Wait whenever a signal stops the program.
	Limits  Limits
	Stopped func(unix.Signal)
	// Network is what the program reaches. Empty means NetworkNone. The next are for NetworkNAT.
	Network Network
	// IP is the IPv4 address of the container. Empty means one that the host doesn't use.
	IP string
	// Publish are ports of the host's that lead into the container, each as [ADDRESS:]PORT:PORT: without an address that of
	// 127.0.0.1, then the port on the host, then the one in the container. One that is taken is an error of Start.
	Publish []string
	// Allow is what the program may reach, each as HOST or HOST:PORT, where HOST is a name, *.NAME for all names below it, an
	// address or a network. Nil is all that lies beyond the host.
	Allow []string
	// NetworkProgram is the path of hull-net. Empty means beside this program, or in ../libexec/hull.
	NetworkProgram string

	// Stdin, Stdout and Stderr are as in os/exec: nil is the null device, an *os.File is handed over, and anything else
	// is copied from or to until the program has ended and nobody has the streams open any more.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// Console, if it is set, gets the master of the terminal that the program has instead of these streams.
	Console Console

	// Spec, if it is set, changes the configuration before it is used.
	Spec func(*specs.Spec)
	// Runtime keeps the container's state. Nil means one with defaults.
	Runtime *Runtime
	// Cancel is called when the context of CommandContext ends. Nil means to kill the program with SIGKILL. If it returns
	// os.ErrProcessDone, Wait returns how the program has ended by itself.
	Cancel func() error

	// Container and Process are set by Start. There is no Container over the host's files: nothing is kept that others
	// could find it by.
	Container *Container
	Process   *Process
	// Changes are set by Start if HostFiles.Watch or HostFiles.Keep is. The caller closes them, after Wait.
	Changes *Changes
	// WaitStatus is set by Wait.
	WaitStatus unix.WaitStatus
	// Result is set by Wait for a program over the host's files.
	Result Result

	throwaway *throwaway

	ctx    context.Context
	child  []*os.File     // our copies of what the program has open, to be closed once it has started
	copies []func() error // run until the streams end
	copied chan error     // a result for each of them
	stop   func() bool    // ends the watch of the context
	killed chan error     // what Cancel returned
	waited bool
}

// CommandField is the Field of an Error that says why the program can't be executed.
const CommandField = "process.args[0]"

// ExitError is the error of a program that did not succeed.
type ExitError struct {
	WaitStatus unix.WaitStatus
	// Stderr is the end of what it wrote to standard error, if Output was used and nothing else was asked for.
	Stderr []byte
}

// ExitCode returns the exit status, or -1 if a signal has ended the program.
func (e *ExitError) ExitCode() int {
	if !e.WaitStatus.Exited() {
		return -1
	}
	return e.WaitStatus.ExitStatus()
}

func (e *ExitError) Error() string {
	if e.WaitStatus.Signaled() {
		return "signal: " + e.WaitStatus.Signal().String()
	}
	return fmt.Sprintf("exit status %d", e.WaitStatus.ExitStatus())
}

// Command returns a Cmd that runs the named program: over the host's files, unless Rootfs is set.
func Command(name string, args ...string) *Cmd {
	return CommandContext(context.Background(), name, args...)
}

// CommandContext is Command for a program that is killed when ctx ends.
func CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Args: append([]string{name}, args...), ctx: ctx}
}

// String returns the program and its arguments, for people.
func (c *Cmd) String() string { return strings.Join(c.Args, " ") }

// Run starts the program, waits for its end and removes the container.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns what it writes to standard output.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, usage("Stdout is set already")
	}
	var out buffer
	c.Stdout = &out
	var errs *tail
	if c.Stderr == nil {
		errs = &tail{max: 32 << 10}
		c.Stderr = errs
	}
	err := c.Run()
	if e := (*ExitError)(nil); errs != nil && errors.As(err, &e) {
		e.Stderr = errs.content
	}
	return out.content, err
}

// CombinedOutput runs the program and returns what it writes to standard output and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, usage("Stdout or Stderr is set already")
	}
	var out buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.content, err
}

func usage(problem string) error {
	return &fault.Error{Op: "command", Kind: fault.BadUsage, Err: errors.New(problem)}
}

// Start makes the container and starts the program. If it succeeds, Wait must be called.
func (c *Cmd) Start() error {
	if c.Process != nil || c.waited {
		return usage("started already")
	}
	if c.ctx == nil {
		c.ctx = context.Background()
	}
	if c.Runtime == nil {
		c.Runtime = new(Runtime)
	}
	if c.Isolation != "" {
		r := *c.Runtime
		r.Isolation = c.Isolation
		c.Runtime = &r
	}
	if c.Rootfs == "" {
		return c.startOverHost()
	}
	return c.startInRootfs()
}

// startOverHost starts a program over the host's files.
func (c *Cmd) startOverHost() error {
	if err := errors.Join(c.Runtime.Isolation.checkHost(), c.Runtime.checkHostOptions()); err != nil {
		return fault.In("do", "", err)
	}
	if err := c.startThrowaway(); err != nil {
		c.closeChild()
		c.copy()
		return joinOne([]error{fault.In("do", "", err), c.finishCopies()})
	}
	c.copy()
	c.watch()
	if c.Limits.Time > 0 {
		c.throwaway.deadline.set(&c.Limits, c.Process, c.kill)
	}
	return nil
}

// startInRootfs starts a program in a container that others can find.
func (c *Cmd) startInRootfs() error {
	switch {
	case c.Network != "":
		return usage("Network is for a command over the host's files; with Rootfs, Spec sets linux.namespaces")
	case c.Limits != (Limits{}):
		return usage("Limits are for a command over the host's files; with Rootfs, Spec sets linux.resources")
	}
	s, err := c.spec()
	if err != nil {
		return err
	}
	stdio, err := c.streams()
	defer c.closeChild()
	if err != nil {
		return err
	}
	id, err := randomID()
	if err != nil {
		return err
	}
	if s.Linux.CgroupsPath == "" && !c.Runtime.SystemdCgroup {
		s.Linux.CgroupsPath = "/hull-" + id
	}
	container, err := c.Runtime.Run(c.ctx, id, CreateOptions{Bundle: "/", Spec: s, Stdio: stdio})
	if err != nil {
		c.closeChild()
		c.copy()
		return errors.Join(err, c.finishCopies())
	}
	c.Container, c.Process = container, container.Init()
	c.copy()
	c.watch()
	return nil
}

// randomID returns an id that no other container has. Package crypto/rand has more than twenty others initialised at
// every start of hull.
func randomID() (string, error) {
	var b [16]byte
	if _, err := unix.Getrandom(b[:], 0); err != nil {
		return "", os.NewSyscallError("getrandom", err)
	}
	return fmt.Sprintf("command-%x", b), nil
}

// spec makes the configuration.
func (c *Cmd) spec() (*specs.Spec, error) {
	rootfs, err := filepath.Abs(c.Rootfs)
	if err != nil {
		return nil, err
	}
	s := spec.Example(spec.Options{Args: slices.Clone(c.Args), Cwd: c.Dir})
	s.Root.Path = rootfs
	s.Process.Terminal = false
	if c.Env != nil {
		s.Process.Env = slices.Clone(c.Env)
	}
	if c.Spec != nil {
		c.Spec(s)
	}
	if s.Process == nil || s.Linux == nil || s.Process.Terminal {
		return nil, usage("a Cmd has a process without a terminal, on Linux")
	}
	return s, nil
}

// streams returns what the program gets as its standard streams.
func (c *Cmd) streams() (Stdio, error) {
	var io Stdio
	var err error
	if io.In, err = c.reader(c.Stdin); err != nil {
		return io, err
	}
	if io.Out, err = c.writer(c.Stdout); err != nil {
		return io, err
	}
	if c.Stderr != nil && same(c.Stderr, c.Stdout) {
		io.Err = io.Out // one pipe, which keeps the order of what is written
		return io, nil
	}
	io.Err, err = c.writer(c.Stderr)
	return io, err
}

// same tells whether two interfaces are equal, where comparing may panic.
func same(a, b any) (equal bool) {
	defer func() { _ = recover() }()
	return a == b
}

func (c *Cmd) reader(r io.Reader) (*os.File, error) {
	if f, ok := r.(*os.File); ok || r == nil {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.child = append(c.child, pr)
	c.copies = append(c.copies, func() error {
		_, err := io.Copy(pw, r)
		if errors.Is(err, unix.EPIPE) {
			err = nil // the program didn't want it all
		}
		return errors.Join(err, pw.Close())
	})
	return pr, nil
}

func (c *Cmd) writer(w io.Writer) (*os.File, error) {
	if f, ok := w.(*os.File); ok || w == nil {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.child = append(c.child, pw)
	c.copies = append(c.copies, func() error {
		_, err := io.Copy(w, pr)
		return errors.Join(err, pr.Close())
	})
	return pw, nil
}

func (c *Cmd) closeChild() {
	for _, f := range c.child {
		f.Close()
	}
	c.child = nil
}

// copy starts the copying of streams.
func (c *Cmd) copy() {
	c.copied = make(chan error, len(c.copies))
	for _, f := range c.copies {
		go func() { c.copied <- f() }()
	}
}

func (c *Cmd) finishCopies() error {
	var errs []error
	for range c.copies {
		errs = append(errs, <-c.copied)
	}
	c.copies = nil
	return errors.Join(errs...)
}

// watch calls Cancel when the context ends.
func (c *Cmd) watch() {
	c.killed = make(chan error, 1)
	c.stop = context.AfterFunc(c.ctx, func() {
		cancel := c.Cancel
		if cancel == nil {
			cancel = c.kill
		}
		c.killed <- cancel()
	})
}

func (c *Cmd) kill() error {
	if c.throwaway != nil {
		err := c.throwaway.supervisor.Kill()
		c.throwaway.files.kill() // else who waits for its answer could not end
		return err
	}
	return c.Container.Signal(unix.SIGKILL, true)
}

// Wait waits for the program to end, copies the rest of its output and removes the container. The error of a program
// that did not succeed is an *ExitError; that of one that the context has ended is the context's.
func (c *Cmd) Wait() error {
	if c.Process == nil || c.waited {
		return usage("not started, or waited for already")
	}
	c.waited = true
	var errs []error
	var err error
	if err = c.waitProgram(); err != nil {
		errs = append(errs, err)
	}
	cancelled := !c.stop()
	if cancelled {
		switch err := <-c.killed; {
		case errors.Is(err, os.ErrProcessDone):
			cancelled = false
		case err != nil && !errors.Is(err, ErrBadState):
			errs = append(errs, err)
		}
	}
	// The end of the first process is that of the container: its pid namespace takes the others along, and Delete
	// whatever there is without one. Only then nobody holds the streams any more.
	if c.Container != nil {
		errs = append(errs, c.Container.Delete(context.WithoutCancel(c.ctx), DeleteOptions{Force: true}))
	}
	errs = append(errs, c.finishCopies())
	switch {
	case c.WaitStatus == 0 && err == nil && !c.Result.TimedOut:
	case cancelled && context.Cause(c.ctx) != nil:
		errs = append(errs, context.Cause(c.ctx))
	case c.Result.TimedOut:
		errs = append(errs, &TimeoutError{c.Limits.Time, c.throwaway.deadline.killed})
	case err == nil:
		errs = append(errs, &ExitError{WaitStatus: c.WaitStatus})
	}
	return joinOne(errs)
}

func (c *Cmd) waitProgram() (err error) {
	if c.throwaway == nil {
		c.WaitStatus, err = c.Process.Wait()
		return err
	}
	return c.throwaway.end(c)
}

// joinOne is errors.Join that returns a single error as it is.
func joinOne(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// buffer keeps all that is written. Each is written by one goroutine.
type buffer struct{ content []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.content = append(b.content, p...)
	return len(p), nil
}

// tail keeps the last bytes that are written.
type tail struct {
	max     int
	content []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.content = append(t.content, p...)
	if over := len(t.content) - t.max; over > 0 {
		t.content = append(t.content[:0], t.content[over:]...)
	}
	return len(p), nil
}
