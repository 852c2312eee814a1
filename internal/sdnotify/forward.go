package sdnotify

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tick is how often Forward looks whether it was cancelled.
	tick = 100 * time.Millisecond
	// barrierTimeout is how long the manager has to take a message, and to take note of what was sent. sd_notify_barrier(3) is newer (246)
	// than sd_notify: an older manager never answers.
	barrierTimeout = 5 * time.Second
	// maxMessage is more than a service manager reads (NOTIFY_BUFFER_MAX of systemd: a page).
	maxMessage = 8192
)

// Forward passes on what comes from a container, until ctx is done, to the manager, whose socket is at host: the caller's
// $NOTIFY_SOCKET. The caller remains the service's main process.
func (s *Socket) Forward(ctx context.Context, host string) error {
	m, err := dial(host)
	if err != nil {
		return err
	}
	defer m.Close()
	return s.pass(ctx, nil, func(message []byte, _ bool) (bool, error) {
		return false, m.send(message, nil)
	})
}

// HandOver is Forward until the program is ready. The manager is then told to watch the process with that pid, since the
// caller is about to leave. It ends without an error, too, when that process has ended first.
func (s *Socket) HandOver(ctx context.Context, host string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	defer process.Close()
	m, err := dial(host)
	if err != nil {
		return err
	}
	defer m.Close()
	return s.pass(ctx, process, func(message []byte, ready bool) (bool, error) {
		if ready {
			return true, m.handOver(message, pid)
		}
		return false, m.send(message, nil)
	})
}

// pass calls send with what may be passed on of each message, until that says it was the last one.
func (s *Socket) pass(ctx context.Context, process *os.File, send func(message []byte, ready bool) (last bool, _ error)) error {
	buf := make([]byte, maxMessage)
	for {
		n, err := s.receive(ctx, process, buf)
		if n == 0 || err != nil {
			return err
		}
		message, ready := allowed(buf[:n])
		if len(message) == 0 {
			continue
		}
		if last, err := send(message, ready); last || err != nil {
			return err
		}
	}
}

// receive returns the length of the next message, or 0 when there will be none: ctx is done, or the process has ended.
func (s *Socket) receive(ctx context.Context, process *os.File, buf []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	if process != nil {
		fds = append(fds, unix.PollFd{Fd: int32(process.Fd()), Events: unix.POLLIN})
	}
	for ctx.Err() == nil {
		// Both descriptors at once: a program may send READY=1 and end.
		if _, err := unix.Poll(fds, int(tick.Milliseconds())); err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		n, err := unix.Read(s.fd, buf)
		if n > 0 {
			return n, nil
		}
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return 0, os.NewSyscallError("read", err)
		}
		if process != nil && fds[1].Revents != 0 {
			return 0, nil
		}
	}
	return 0, nil
}

// allowed returns the assignments of a message that a container may make, and whether it says that it is ready.
// The others are about the manager's books (MAINPID, FDSTORE, NOTIFYACCESS, BARRIER…), which are not the container's.
func allowed(message []byte) (_ []byte, ready bool) {
	var out []byte
	for line := range bytes.SplitSeq(message, []byte{'\n'}) {
		name, value, ok := strings.Cut(string(line), "=")
		if !ok || strings.IndexByte(value, 0) >= 0 {
			continue
		}
		switch name {
		case "READY":
			ready = ready || value == "1"
		case "RELOADING", "STOPPING", "STATUS", "ERRNO", "BUSERROR", "EXIT_STATUS", "WATCHDOG", "EXTEND_TIMEOUT_USEC", "MONOTONIC_USEC":
		default:
			continue
		}
		out = append(append(out, line...), '\n')
	}
	return out, ready
}

// manager is a connection to the service manager.
type manager struct {
	*os.File
}

func dial(address string) (*manager, error) {
	if address == "" || address[0] != '/' && address[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET %q: neither a path nor an abstract address", address)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	m := &manager{os.NewFile(uintptr(fd), address)}
	limit := unix.NsecToTimeval(barrierTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		m.Close()
		return nil, os.NewSyscallError("setsockopt SO_SNDTIMEO", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		m.Close()
		return nil, &os.PathError{Op: "connect", Path: address, Err: err}
	}
	return m, nil
}

func (m *manager) send(message []byte, rights []byte) error {
	for {
		err := unix.Sendmsg(int(m.Fd()), message, rights, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// handOver says that the program is ready and which process it is, in one message, and returns when the manager has seen
// it: it finds out which service a message belongs to by the pid of its sender, which must still be there.
func (m *manager) handOver(message []byte, pid int) error {
	message = append(message, "MAINPID="+strconv.Itoa(pid)+"\n"...)
	if err := m.send(message, nil); err != nil {
		return err
	}
	return m.barrier()
}

// barrier waits until the manager has taken all messages sent before: it then closes the descriptor that it gets with
// BARRIER=1 (sd_notify_barrier(3)).
func (m *manager) barrier() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = m.send([]byte("BARRIER=1"), unix.UnixRights(int(w.Fd())))
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierTimeout)); err != nil {
		return err
	}
	// End of file, or too late: an older manager then, which has had time enough.
	_, _ = r.Read(make([]byte, 1))
	return nil
}
