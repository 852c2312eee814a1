package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/hook"
	"hull/internal/mnt"
	"hull/internal/native"
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

// hooks returns what runs the hooks that come before the container's files are looked at, or nil if there are none.
func (c *creation) hooks(ctx context.Context) func(pid int) error {
	if c.Spec.Hooks == nil || len(c.Spec.Hooks.CreateContainer) == 0 || c.saved != nil {
		return c.Hooks
	}
	return func(pid int) error {
		if c.Hooks != nil {
			if err := c.Hooks(pid); err != nil {
				return err
			}
		}
		jailed := pid
		if c.Pod != nil {
			jailed = c.Pod.Init.Pid
		}
		r := engine.CreateRequest{Container: c.Container, NoDev: true, Trace: c.Trace, Warn: c.Warn}
		r.Spec = hookView(c.Spec, jailed)
		return native.HooksBeside(ctx, &r, pid)
	}
}

// hookView returns the configuration of what createContainer hooks see: programs of the host's, with its files, and on the root
// what is mounted of these. Where the container's kernel mounts file systems of its own, nothing can be written: it would be lost.
// The network, ipc and uts namespaces are those of the sandbox's process, as is that of users if the container has one.
func hookView(s *specs.Spec, jailed int) *specs.Spec {
	l := &specs.Linux{CgroupsPath: s.Linux.CgroupsPath, Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}
	join := func(t specs.LinuxNamespaceType, name string) {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: t, Path: filepath.Join("/proc", strconv.Itoa(jailed), "ns", name)})
	}
	join(specs.IPCNamespace, "ipc")
	join(specs.UTSNamespace, "uts")
	join(specs.NetworkNamespace, "net")
	if ownUsers(s) {
		join(specs.UserNamespace, "user")
		l.UIDMappings, l.GIDMappings = s.Linux.UIDMappings, s.Linux.GIDMappings
	}
	own := func(destination string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "nosuid", "nodev", "noexec"}}
	}
	var mounts []specs.Mount
	if !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return filepath.Clean("/"+m.Destination) == "/dev" }) {
		mounts = append(mounts, own("/dev"))
	}
	for i, m := range s.Mounts {
		if parsed, err := mnt.Parse(i, m, "/"); err != nil || !parsed.Bind {
			if first, _, _ := strings.Cut(strings.Trim(filepath.Clean("/"+m.Destination), "/"), "/"); first == "proc" || first == "sys" {
				continue // nothing but what the names say is mounted there
			}
			m = own(m.Destination)
		}
		mounts = append(mounts, m)
	}
	return &specs.Spec{
		Version: s.Version, Annotations: s.Annotations, Hooks: s.Hooks, Linux: l, Mounts: mounts,
		Root:    &specs.Root{Path: s.Root.Path},
		Process: &specs.Process{Args: []string{"hooks"}, Cwd: "/"},
	}
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
