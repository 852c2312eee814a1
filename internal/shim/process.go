package shim

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/containerd"
	"hull/internal/shim/stdio"
)

// signalled is what is added to the number of a signal that has ended a process, to tell it as an exit status.
const signalled = 128

// process is a container's first process or one of Exec.
type process struct {
	id    string // of the exec; "" for the first
	want  containerd.Streams
	spec  *specs.Process // of an exec
	ended chan struct{}  // closed when its end is known and told
	hull  atomic.Pointer[hull.Process]

	start sync.Mutex // held while it is started, so that its end is told after its start; locked before mu

	mu      sync.Mutex // never held for long, whatever the process or a start does
	status  containerd.Status
	streams *stdio.Streams
	console *os.File        // master of its terminal, until streams has it
	exit    containerd.Exit // Pid from the start on
}

func newProcess(id string, s containerd.Streams) *process {
	return &process{id: id, want: s, ended: make(chan struct{}), status: containerd.Created}
}

// takeConsole is the hull.Console of a process.
func (p *process) takeConsole(master *os.File) error {
	p.console = master
	return nil
}

// consoleOf returns what hull hands the terminal to, if there is one.
func (p *process) consoleOf() hull.Console {
	if !p.want.Terminal {
		return nil
	}
	return p.takeConsole
}

// begin notes a process that hull has made, and connects its streams. The caller has p.mu.
func (p *process) begin(h *hull.Process, status containerd.Status) error {
	p.status, p.exit.Pid = status, h.Pid
	p.hull.Store(h)
	return p.streams.Run(p.console)
}

// wait waits for the process, and notes how it has ended.
func (p *process) wait() error {
	ws, err := p.hull.Load().Wait()
	p.stopped(ws, err)
	p.streams.Finish() // which waits for readers: without the lock, so that nobody who asks about it does
	return err
}

func (p *process) stopped(ws unix.WaitStatus, err error) {
	at := time.Now()
	p.start.Lock()
	defer p.start.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = containerd.Stopped
	p.exit.At = at
	p.exit.Status = exitStatus(ws, err)
}

// exitStatus is how a process has ended as containerd is told it, when waiting for it has given err.
func exitStatus(ws unix.WaitStatus, err error) int {
	switch {
	case err != nil:
		return signalled + int(unix.SIGKILL)
	case ws.Signaled():
		return signalled + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// made tells whether hull has made it.
func (p *process) made() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hull.Load() != nil
}

// awaitStart waits until it is not about to start any more.
func (p *process) awaitStart() {
	p.start.Lock()
	defer p.start.Unlock()
}

// state returns what Wait, Delete and State tell.
func (p *process) state() (containerd.Status, containerd.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, p.exit
}

// retire sees to it that a process that was not made never will be, and that nobody waits for it: containerd doesn't tell a shim that
// it has stopped waiting. It returns what state does.
func (p *process) retire() (containerd.Status, containerd.Exit) {
	if p.made() {
		return p.state() // without waiting for a start that may never end
	}
	p.start.Lock()
	defer p.start.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == containerd.Created && p.hull.Load() == nil {
		p.status = containerd.Stopped
		p.exit.Status, p.exit.At = signalled+int(unix.SIGKILL), time.Now()
		p.closeStreams()
		close(p.ended)
	}
	return p.status, p.exit
}

// open opens its streams, and returns what it gets of them.
func (p *process) open(id, namespace string) (hull.Stdio, error) {
	st, err := stdio.Open(p.want, id, namespace)
	if err != nil {
		return hull.Stdio{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = st
	return st.Process, nil
}

// abandon closes the streams of a process that could not be made. It may be tried again.
func (p *process) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeStreams()
}

// closeStreams is abandon for who has p.mu.
func (p *process) closeStreams() {
	if p.console != nil {
		p.console.Close()
		p.console = nil
	}
	if p.streams != nil {
		p.streams.CloseProcess()
		p.streams.Finish()
		p.streams = nil
	}
}
