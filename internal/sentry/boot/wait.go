package boot

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"hull/internal/sandbox/wire"
)

// startPoll is how often it is looked whether a process was started whose end somebody waits for.
const startPoll = 20 * time.Millisecond

// await waits for the end of a process, as long as somebody is there who wants to know.
func (c *container) await(conn int, r *wire.Request) {
	pids := c.pids
	if r.Root {
		pids = c.kernel.RootPIDNamespace()
	}
	tg := pids.ThreadGroupWithID(kernel.ThreadID(r.PID))
	if tg == nil {
		_ = wire.Send(conn, wire.Reply{Failure: wire.Fail(fmt.Errorf("process %d: %w", r.PID, unix.ESRCH))})
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _, _ = wire.ReceiveBytes(conn, 1, 0)
	}()
	for {
		select {
		case <-c.ends.of(tg):
		case <-gone:
			return
		}
		// One that was not started yet has nothing to be waited for.
		if tg.Leader().ExitState() != kernel.TaskExitNone {
			break
		}
		select {
		case <-time.After(startPoll):
		case <-gone:
			return
		}
	}
	status := uint32(tg.ExitStatus())
	_ = wire.Send(conn, wire.Reply{Status: &status})
	_ = unix.Shutdown(conn, unix.SHUT_RDWR)
	<-gone
}

// ends are the ends of processes that somebody waits for, or has waited for: one goroutine each, however often that was.
type ends struct {
	mu      sync.Mutex
	byGroup map[*kernel.ThreadGroup]chan struct{}
}

// of returns what is closed when a process has ended, or at once if it was not started yet.
func (e *ends) of(tg *kernel.ThreadGroup) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if end := e.byGroup[tg]; end != nil {
		return end
	}
	if e.byGroup == nil {
		e.byGroup = make(map[*kernel.ThreadGroup]chan struct{})
	}
	end := make(chan struct{})
	e.byGroup[tg] = end
	go func() {
		tg.WaitExited()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.byGroup, tg)
		close(end)
	}()
	return end
}

// execs are the connections by which the processes of exec were asked for that have not ended yet, started or not.
type execs struct {
	mu    sync.Mutex
	conns map[int]bool
	left  sync.WaitGroup
}

func (e *execs) add(conn int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conns == nil {
		e.conns = make(map[int]bool)
	}
	e.conns[conn] = true
	e.left.Add(1)
}

// remove comes before the connection is closed: meanwhile its number is no other file's.
func (e *execs) remove(conn int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, conn)
	e.left.Done()
}

// end ends them all, when none can be added any more, and waits for that: what waits for the word to go finds an end instead.
func (e *execs) end() {
	e.mu.Lock()
	for conn := range e.conns {
		if err := unix.Shutdown(conn, unix.SHUT_RD); err != nil && err != unix.ENOTCONN {
			log.Warningf("shutdown: %v", err)
		}
	}
	e.mu.Unlock()
	e.left.Wait()
}
