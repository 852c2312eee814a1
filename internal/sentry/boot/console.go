package boot

import (
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/sentry/errno"
)

// takeTerminal makes the host's terminal, if there is one, the controlling one of this process, which then gets its SIGWINCH,
// and its SIGHUP. It leaves the slave alone: the other streams of a process with a terminal are none.
func (c *container) takeTerminal() error {
	if !c.Spec.Process.Terminal {
		return nil
	}
	for _, fd := range c.Streams[1:] {
		unix.Close(fd)
	}
	c.Streams = c.Streams[:1]
	if err := unix.IoctlSetInt(c.Streams[0], unix.TIOCSCTTY, 0); err != nil {
		return errno.InField("process.terminal", os.NewSyscallError("ioctl TIOCSCTTY", err))
	}
	return nil
}
