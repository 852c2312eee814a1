package terminal

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

// copyIn types what comes from the host's terminal.
func (t *Terminal) copyIn(stop <-chan struct{}) {
	defer t.copying.Done()
	defer t.master.DecRef(t.ctx)
	room, writable := waiter.NewChannelEntry(waiter.WritableEvents)
	if err := t.master.EventRegister(&room); err != nil {
		return
	}
	defer t.master.EventUnregister(&room)
	buf := make([]byte, 4096)
	echoed := false
	for {
		if len(t.typed) == 0 {
			n, err := t.host.Read(buf)
			if errors.Is(err, io.EOF) {
				// The end-of-file character alone, unless the terminal is gone.
				m, gone := t.hostModes()
				if gone != nil {
					return
				}
				buf[0], n, err = m.Cc[unix.VEOF], 1, nil
			}
			if err != nil {
				return
			}
			t.typed = buf[:n]
			t.sync()
		}
		for len(t.typed) > 0 {
			next, signal := t.next()
			if signal && !echoed {
				t.echo(next[0]) // before what the program says to it
				echoed = true
			}
			n, err := t.master.Write(t.ctx, usermem.BytesIOSequence(next), vfs.WriteOptions{})
			if n > 0 {
				echoed = false
				if signal {
					t.letGoOn()
				}
			}
			t.typed = t.typed[n:]
			if err == nil {
				continue
			}
			if !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
				return
			}
			select {
			case <-writable:
			case <-t.closed:
				return
			case <-stop:
				return
			}
		}
	}
}

// next returns what of typed is to be written next: a character alone that may be a signal for the job in the foreground, or what comes
// before it.
func (t *Terminal) next() (next []byte, signal bool) {
	t.mu.Lock()
	cc := t.modes.Cc
	t.mu.Unlock()
	for i, c := range t.typed {
		if c != 0 && (c == cc[unix.VSUSP] || c == cc[unix.VINTR] || c == cc[unix.VQUIT]) { // 0 is none
			if i == 0 {
				return t.typed[:1], true
			}
			return t.typed[:i], false
		}
	}
	return t.typed, false
}

// echo shows a character that becomes a signal, as Linux's terminals do (ECHOCTL, termios(3)) and this kernel's don't: where there is no
// room for it, not.
func (t *Terminal) echo(c byte) {
	t.mu.Lock()
	modes := t.modes.Lflag
	t.mu.Unlock()
	const needs = unix.ISIG | unix.ECHO | unix.ECHOCTL
	if modes&needs != needs || c >= ' ' && c != 0x7f {
		return
	}
	if conn, err := t.host.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), []byte{'^', c ^ '@'}) })
	}
}

// letGoOn undoes stops in the process's job that nobody else could undo. The process leads its session, so that no shell is
// above it, and Linux does not stop such a job, an orphaned process group, for a ^Z (setpgid(2)); this kernel does. What stops
// itself, as editors do at a ^Z, goes on at the next one, or at the ^C that shall end it. Who handles or ignores ^Z, as a shell
// does that has jobs, is left alone.
func (t *Terminal) letGoOn() {
	job := t.task.ThreadGroup().ProcessGroup()
	if job == nil {
		return // the process has ended
	}
	for _, tg := range t.task.PIDNamespace().ThreadGroups() {
		if tg.ProcessGroup() != job {
			continue
		}
		if action, err := tg.SetSigAction(linux.SIGTSTP, nil); err == nil && action.Handler == linux.SIG_DFL {
			_ = tg.SendSignal(kernel.SignalInfoPriv(linux.SIGCONT))
		}
	}
}

// hangupPause is how long a terminal that nobody has open is left alone: the process may open it again.
const hangupPause = 100 * time.Millisecond

// copyOut shows what the process writes, and after its end those that it has left behind. Where nobody takes it any more, it is
// lost.
func (t *Terminal) copyOut(stop <-chan struct{}) {
	defer t.copying.Done()
	defer func() {
		select {
		case <-stop:
		default:
			t.Close()
		}
	}()
	more, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp)
	if err := t.master.EventRegister(&more); err != nil {
		t.emptied.Do(func() { close(t.drained) })
		return
	}
	defer t.master.EventUnregister(&more)
	buf := make([]byte, 4096)
	ended, over := t.ended, false
	for {
		select {
		case <-stop:
			return
		default:
		}
		if len(t.shown) > 0 {
			n, err := t.host.Write(t.shown)
			if t.shown = t.shown[n:]; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.shown = nil
			}
			continue
		}
		n, err := t.master.Read(t.ctx, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
		if n > 0 {
			t.sync()
			t.shown = buf[:n]
			continue
		}
		if over && ended != nil {
			ended = nil
			t.emptied.Do(func() { close(t.drained) })
		}
		nobody := !linuxerr.Equals(linuxerr.ErrWouldBlock, err)
		if nobody && over {
			return
		}
		var again <-chan time.Time
		if nobody {
			again = time.After(hangupPause)
		}
		select {
		case <-readable:
		case <-again:
		case <-ended:
			over = true
		case <-stop:
			return
		}
	}
}

// Leave waits, after the process's end, until all is copied that it has written; for one that was killed only a moment, since
// the caller may be the one who doesn't read.
func (t *Terminal) Leave(ws unix.WaitStatus) {
	close(t.ended)
	var enough <-chan time.Time
	if ws.Signaled() {
		enough = time.After(time.Second)
	}
	select {
	case <-t.drained:
	case <-enough:
	}
}
