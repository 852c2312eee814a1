// Package hook runs the hooks of config.json that belong into the runtime namespace: prestart, createRuntime, poststart
// and poststop. (createContainer and startContainer hooks run inside the container and aren't this package's.)
//
// A hook is a program of whoever wrote config.json, run with the caller's rights. It is trusted with those, but not to
// end, to read its input, or to keep its output short: a timeout or a cancelled context kills its whole process group,
// descendants that hold its output open are waited for no longer than a moment, and only the end of its output is kept.
//
// Of the caller's descriptors a hook gets those that aren't close-on-exec, as any child of a Go program does; a program
// that was itself started with such descriptors marks them first.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrTimeout is in the chain of the error of a hook that was killed because its own timeout passed.
var ErrTimeout = errors.New("ran past its timeout")

// drain is how long a hook's output stays open for descendants that outlive it, such as a daemon that it started.
const drain = 200 * time.Millisecond

// Run runs one hook with dir as its working directory and state, the container's state in JSON, on standard input. It
// returns when the hook has ended. The error of a hook that ended badly wraps an *exec.ExitError, ErrTimeout or the
// context's cause, and says in one line what the hook wrote last.
//
// The specification leaves open what a hook without env and which working directory it gets. As with the peers it
// inherits the caller's environment (an empty list is an empty environment), and callers pass the bundle.
func Run(ctx context.Context, dir string, h specs.Hook, state []byte) error {
	if !filepath.IsAbs(h.Path) {
		return fault.Spec("path", fmt.Sprintf("%q is not absolute", h.Path))
	}
	timeout, err := timeoutOf(h)
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	out := &tail{max: outputMax}
	cmd := &exec.Cmd{
		Path:   h.Path,
		Args:   h.Args,
		Env:    h.Env,
		Dir:    dir,
		Stdin:  bytes.NewReader(state),
		Stdout: out,
		Stderr: out, // the same: programs differ in where they complain
		// A group of its own, so that what it starts can be killed with it.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		WaitDelay:   drain,
	}
	if err := cmd.Start(); err != nil {
		return cause(err)
	}
	killed := supervise(ctx, cmd.Process.Pid, timeout)
	err = cmd.Wait()
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil // it ended well; something it started goes on
	case errors.As(err, new(*exec.ExitError)):
	case err != nil:
		err = cause(err)
	}
	if killed != nil {
		err = killed
	}
	if said := out.line(); err != nil && said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// timeoutOf returns the time a hook has, and 0 for one without a limit.
func timeoutOf(h specs.Hook) (time.Duration, error) {
	const most = int(1<<63-1) / int(time.Second)
	switch {
	case h.Timeout == nil:
		return 0, nil
	case *h.Timeout <= 0:
		return 0, fault.Spec("timeout", fmt.Sprintf("%d is not above 0", *h.Timeout))
	case *h.Timeout > most:
		return 0, fault.Spec("timeout", fmt.Sprintf("%d is above %d seconds", *h.Timeout, most))
	}
	return time.Duration(*h.Timeout) * time.Second, nil
}

// supervise waits until the process has ended, but leaves it to be reaped. If ctx or the timeout ends first it kills the
// process group and returns the reason.
//
// The leader is still unreaped when the group is killed, so the group's number can't have become another's.
func supervise(ctx context.Context, pid int, timeout time.Duration) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		awaitEnd(pid)
	}()
	var passed <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		passed = timer.C
	}
	var reason error
	select {
	case <-ended:
		return nil
	case <-passed:
		reason = fmt.Errorf("%w of %v", ErrTimeout, timeout)
	case <-ctx.Done():
		reason = context.Cause(ctx)
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // ESRCH: it has just ended
	<-ended
	return reason
}

// awaitEnd returns when the child has ended, or when there is none to wait for because the program around us has reaped
// it or ignores SIGCHLD.
func awaitEnd(pid int) {
	for {
		if unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) != unix.EINTR {
			return
		}
	}
}

// cause takes the name and the path off an error of os/exec: the hook's field says both.
func cause(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

// RunAll runs the hooks of one list in their order and stops at the first that fails. name is the list's in config.json,
// such as "createRuntime".
func RunAll(ctx context.Context, dir, name string, hooks []specs.Hook, state []byte) error {
	for i, h := range hooks {
		if err := Run(ctx, dir, h, state); err != nil {
			return failure(name, i, h, err)
		}
	}
	return nil
}

// RunEach runs all hooks of one list in their order, whichever fail, and returns the failures joined. It is for poststop,
// whose failures are warnings (runtime.md, "Lifecycle", step 13). It stops early only if ctx ends. A bundle that was
// removed before its container doesn't keep the hooks from running: they start in the root directory then.
func RunEach(ctx context.Context, dir, name string, hooks []specs.Hook, state []byte) error {
	if _, err := os.Stat(dir); err != nil {
		dir = "/"
	}
	var errs []error
	for i, h := range hooks {
		if err := Run(ctx, dir, h, state); err != nil {
			errs = append(errs, failure(name, i, h, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// failure says which hook failed.
func failure(name string, i int, h specs.Hook, err error) error {
	field := fmt.Sprintf("hooks.%s[%d]", name, i)
	if e := (*fault.Error)(nil); errors.As(err, &e) && e.Kind == fault.BadSpec {
		return &fault.Error{Field: field + "." + e.Field, Kind: e.Kind, Err: e.Err}
	}
	return &fault.Error{Field: fmt.Sprintf("%s %q", field, h.Path), Err: err}
}
