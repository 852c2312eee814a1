package stub

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is the parent's end of a stub's socket. Waiting is left to Go's network poller: a thread that waits in poll(2)
// keeps the scheduler's monitor awake, which costs more than all else that hull does for a container.
type conn struct {
	file  *os.File
	raw   syscall.RawConn
	files []*os.File // received

	patient func() bool // see Config
}

// socketpair returns a connection and the other end of it, for a stub. Only the first doesn't block.
func socketpair() (*conn, *os.File, error) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(sp[1]), "stub")
	if err := unix.SetNonblock(sp[0], true); err != nil {
		unix.Close(sp[0])
		theirs.Close()
		return nil, nil, os.NewSyscallError("fcntl F_SETFL", err)
	}
	c := &conn{file: os.NewFile(uintptr(sp[0]), "stub")}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.file.Close()
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}

// write sends p, and with its first byte the descriptors in oob.
func (c *conn) write(p, oob []byte) error {
	if err := c.file.SetWriteDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	for len(p) > 0 {
		var n int
		var err error
		werr := c.raw.Write(func(fd uintptr) bool {
			n, err = unix.SendmsgN(int(fd), p, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			return err != unix.EAGAIN
		})
		switch {
		case werr != nil:
			return waitError(werr)
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("%w: sendmsg: %w", ErrGone, err)
		default:
			p, oob = p[n:], nil
		}
	}
	return nil
}

// readFull fills p, and keeps the descriptors that come before it. That the stub has died is an end of file: no other
// process has a copy of its end of the socket, but for the moment in which it clones. Without a timeout it waits forever.
func (c *conn) readFull(p []byte, timeout time.Duration) error {
	if err := c.setTimeout(timeout); err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := c.read(p)
		if err == ErrTimeout && c.patient != nil && c.patient() {
			err = c.setTimeout(timeout)
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// readFile waits for a descriptor. Nothing else may come before it.
func (c *conn) readFile(timeout time.Duration) (*os.File, error) {
	if err := c.setTimeout(timeout); err != nil {
		return nil, err
	}
	n, err := c.read(make([]byte, 1))
	if err != nil {
		return nil, err
	}
	files := c.take()
	if n != 0 || len(files) != 1 {
		closeAll(files)
		return nil, fmt.Errorf("%w: %d descriptors received, want 1", ErrGone, len(files))
	}
	return files[0], nil
}

func (c *conn) setTimeout(timeout time.Duration) error {
	if timeout == 0 {
		return c.file.SetReadDeadline(time.Time{})
	}
	return c.file.SetReadDeadline(time.Now().Add(timeout))
}

// read reads what is there, or keeps descriptors: they come with a byte of their own, which is no part of a reply, and
// a read ends at it (unix(7)). Then n is 0.
func (c *conn) read(p []byte) (n int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for {
		var oobn int
		rerr := c.raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			return err != unix.EAGAIN
		})
		switch {
		case rerr != nil:
			return 0, waitError(rerr)
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("%w: recvmsg: %w", ErrGone, err)
		case n == 0:
			return 0, ErrGone
		case oobn > 0:
			return 0, c.keep(oob[:oobn])
		default:
			return n, nil
		}
	}
}

func waitError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrTimeout
	}
	return err
}

const (
	maxFDs  = 8  // that a call of SendFDs sends
	maxKept = 64 // that are kept: a stub that was tampered with must not use up the parent's table
)

func (c *conn) keep(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			c.files = append(c.files, os.NewFile(uintptr(fd), "from the stub"))
		}
	}
	if len(c.files) > maxKept {
		return fmt.Errorf("%w: %d descriptors received", ErrGone, len(c.files))
	}
	return nil
}

func (c *conn) take() []*os.File {
	files := c.files
	c.files = nil
	return files
}

func (c *conn) close() error {
	closeAll(c.take())
	return c.file.Close()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// newPidFD returns a file for a pidfd, or nil. It doesn't block, so that the network poller takes it.
func newPidFD(fd int) *os.File {
	if fd < 0 {
		return nil
	}
	unix.SetNonblock(fd, true) // if that fails, WaitPidFD waits as it can
	return os.NewFile(uintptr(fd), "pidfd")
}

// endsWithin waits for a process to end, but not to be reaped.
func endsWithin(pidfd *os.File, timeout time.Duration) bool {
	ended := func(fd uintptr, timeout time.Duration) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(timeout.Milliseconds()))
		return n > 0
	}
	deadline := time.Now().Add(timeout)
	raw, err := pidfd.SyscallConn()
	if err == nil && pidfd.SetReadDeadline(deadline) == nil {
		err := raw.Read(func(fd uintptr) bool { return ended(fd, 0) })
		pidfd.SetReadDeadline(time.Time{})
		return err == nil
	}
	for left := timeout; left > 0; left = time.Until(deadline) {
		if ended(pidfd.Fd(), left) {
			return true
		}
	}
	return false
}

// WaitPidFD waits for a child by its pidfd and reaps it.
func WaitPidFD(pidfd *os.File) (unix.WaitStatus, error) {
	defer runtime.KeepAlive(pidfd)
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info unix.Siginfo
	werr := raw.Read(func(fd uintptr) bool {
		info = unix.Siginfo{}
		for {
			err = unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG, nil)
			if err != unix.EINTR {
				return err != nil || info.Signo != 0
			}
		}
	})
	if werr != nil {
		// The descriptor can't be polled: it was not opened by this package, or has been made to block.
		for {
			err = unix.Waitid(unix.P_PIDFD, int(pidfd.Fd()), &info, unix.WEXITED, nil)
			if err != unix.EINTR {
				break
			}
		}
	}
	if err == unix.ECHILD {
		return reapedStatus(pidfd)
	}
	if err != nil {
		return 0, os.NewSyscallError("waitid", err)
	}
	return waitStatus(&info), nil
}
