package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/hook"
	"hull/internal/program"
	"hull/internal/stub"
)

// StartHooks runs the startContainer hooks: programs of the container's, as processes of its kernel, with the rights of its
// process, before that one runs.
func (e Engine) StartHooks(ctx context.Context, r *engine.ExecRequest) error {
	if r.Spec.Hooks == nil || len(r.Spec.Hooks.StartContainer) == 0 {
		return nil
	}
	state := engine.HookState(&r.Container, r.Init.Pid, specs.StateCreated)
	return hook.RunAllBy(ctx, "startContainer", r.Spec.Hooks.StartContainer, r.Process.Env, state, func(ctx context.Context, p *program.Program) error {
		return p.RunBy(ctx, func(stdin, output *os.File) (func(context.Context) error, error) {
			return e.startHook(ctx, r, p, stdin, output)
		})
	})
}

// startHook starts one hook, and returns what waits for its end.
func (e Engine) startHook(ctx context.Context, r *engine.ExecRequest, p *program.Program, stdin, output *os.File) (func(context.Context) error, error) {
	process := *r.Process
	process.Args, process.Env, process.Cwd, process.Terminal = p.Args, p.Env, "/", false
	if len(process.Args) == 0 {
		process.Args = []string{p.Path}
	}
	request := *r
	request.Process, request.Path = &process, p.Path
	request.IO = engine.IO{Stdio: [3]*os.File{stdin, output, output}}
	request.Prepared = nil
	made, err := e.Exec(ctx, &request)
	if errno := unix.Errno(0); errors.As(err, &errno) && errno != 0 {
		err = errno // what it is about is said by who called
	}
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		defer made.PidFD.Close()
		killed := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(killed)
			_ = unix.PidfdSendSignal(int(made.PidFD.Fd()), unix.SIGKILL, nil, 0)
		})
		ws, err := stub.WaitPidFD(made.PidFD)
		switch {
		case !stop():
			<-killed // the descriptor is closed after that
			return context.Cause(ctx)
		case err != nil:
			return err
		case ws.Signaled():
			return fmt.Errorf("signal: %v", ws.Signal())
		case ws.ExitStatus() != 0:
			return fmt.Errorf("exit status %d", ws.ExitStatus())
		}
		return nil
	}, nil
}
