// Package hook runs the hooks of config.json: those that belong into the runtime namespace (prestart, createRuntime,
// poststart and poststop), and those that run in the container, for which the engine has a stub there.
//
// A hook is a program of whoever wrote config.json, run with the caller's rights. Package program says what it isn't
// trusted with.
package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"hull/internal/fault"
	"hull/internal/program"
	"hull/internal/stub"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrTimeout is in the chain of the error of a hook that was killed because its own timeout passed.
var ErrTimeout = errors.New("ran past its timeout")

// Run runs one hook with dir as its working directory and state, the container's state in JSON, on standard input. It
// returns when the hook has ended. The error of a hook that ended badly says in one line how, and what it wrote last; it
// wraps ErrTimeout or the context's cause, if that ended it.
//
// The specification leaves open what a hook without env and which working directory it gets. As with the peers it
// inherits the caller's environment (an empty list is an empty environment), and callers pass the bundle.
func Run(ctx context.Context, dir string, h specs.Hook, state []byte) error {
	if h.Env == nil {
		h.Env = os.Environ()
	}
	return run(ctx, h, state, func(ctx context.Context, p *program.Program) error { return p.Run(ctx, dir) })
}

// RunAllIn is RunAll for hooks that run where a stub is. One without an environment gets env.
func RunAllIn(ctx context.Context, s *stub.Stub, name string, hooks []specs.Hook, env []string, state []byte) error {
	return RunAllBy(ctx, name, hooks, env, state, func(ctx context.Context, p *program.Program) error { return p.RunIn(ctx, s) })
}

// RunAllBy is RunAllIn for hooks that somebody else runs.
func RunAllBy(ctx context.Context, name string, hooks []specs.Hook, env []string, state []byte, by func(context.Context, *program.Program) error) error {
	for i, h := range hooks {
		if h.Env == nil {
			h.Env = env
		}
		if err := run(ctx, h, state, by); err != nil {
			return failure(name, i, h, err)
		}
	}
	return nil
}

func run(ctx context.Context, h specs.Hook, state []byte, run func(context.Context, *program.Program) error) error {
	if !filepath.IsAbs(h.Path) {
		return fault.Spec("path", fmt.Sprintf("%q is not absolute", h.Path))
	}
	timeout, err := timeoutOf(h)
	if err != nil {
		return err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w of %v", ErrTimeout, timeout))
		defer cancel()
	}
	return run(ctx, &program.Program{Path: h.Path, Args: h.Args, Env: h.Env, Stdin: state})
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
