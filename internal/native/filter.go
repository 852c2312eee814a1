package native

import (
	"encoding/json"
	"errors"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/seccomp"
	"hull/internal/stub"
)

// compileSeccomp compiles a filter and refuses one that no program can be started under: the stub would end without a
// word, since the filter that doesn't let it call execve doesn't let it say so either.
func compileSeccomp(l *specs.LinuxSeccomp) (*seccomp.Program, error) {
	p, err := seccomp.Compile(l)
	if err != nil || p == nil {
		return nil, err
	}
	for _, s := range l.Syscalls {
		if len(s.Args) > 0 && slices.Contains(s.Names, "execve") {
			return p, nil // the arguments are not known yet
		}
	}
	if p.Denies(unix.SYS_EXECVE) {
		return nil, fault.Spec("linux.seccomp", "refuses execve, by which the container's program is started")
	}
	return p, nil
}

// loadSeccomp emits seccomp(2) with the compiled filter.
func loadSeccomp(b *stub.Batch, p *seccomp.Program) stub.Result {
	b.In("linux.seccomp")
	prog := b.SockFprog(p.Filter)
	flags := p.Flags
	if p.Notify {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	r := b.Call(unix.SYS_SECCOMP, stub.Int(unix.SECCOMP_SET_MODE_FILTER), stub.Int(flags), prog.Arg())
	b.Note("filter")
	return r
}

// loadNotifier executes b, loads a filter that notifies, fetches its listener and hands it to the agent. The listener is fetched
// from outside, since the stub's own calls may already wait for the agent's answer.
func (t *process) loadNotifier(s *stub.Stub, b *stub.Batch) error {
	load := loadSeccomp(b, t.seccomp)
	if !linux.HavePidfdGetfd() {
		return t.takeListener(s, b, load)
	}
	if err := s.Do(b); err != nil {
		return err
	}
	fd, err := unix.PidfdGetfd(int(s.PidFD.Fd()), int(b.Value(load)), 0)
	if err != nil {
		return &fault.Error{Field: "linux.seccomp", Step: "pidfd_getfd of the listener", Err: err}
	}
	listener := os.NewFile(uintptr(fd), "seccomp listener")
	defer listener.Close()
	return t.sendListener(listener, s.Pid)
}

// takeListener is for kernels before 5.6: the stub itself sends the listener, if its filter lets it.
func (t *process) takeListener(s *stub.Stub, b *stub.Batch, load stub.Result) error {
	if !t.seccomp.Allows(unix.SYS_SENDMSG, stub.Control, 0, unix.MSG_NOSIGNAL) {
		return &fault.Error{Field: "linux.seccomp", Kind: fault.Unsupported,
			Err: errors.New("a filter that notifies and doesn't allow sendmsg needs Linux 5.6")}
	}
	b.SendFDs(load.Arg())
	if err := s.Do(b); err != nil {
		return err
	}
	files := s.Files()
	if len(files) != 1 {
		return stub.ErrGone
	}
	defer files[0].Close()
	return t.sendListener(files[0], s.Pid)
}

// sendListener sends the listener and the container's process state to the agent (config-linux.md, "The Container
// Process State").
func (t *process) sendListener(listener *os.File, pid int) error {
	l := t.container.Spec.Linux.Seccomp
	initPid := t.initPid
	if initPid == 0 {
		initPid = pid
	}
	state := specs.ContainerProcessState{
		Version:  specs.Version,
		Fds:      []string{specs.SeccompFdName},
		Pid:      pid,
		Metadata: l.ListenerMetadata,
		State: specs.State{
			Version: specs.Version, ID: t.container.ID, Status: t.status, Pid: initPid,
			Bundle: t.container.Bundle, Annotations: t.container.Spec.Annotations,
		},
	}
	msg, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if err := linux.SendFile(l.ListenerPath, msg, listener); err != nil {
		return &fault.Error{Field: "linux.seccomp.listenerPath", Step: quote(l.ListenerPath), Err: err}
	}
	return nil
}
