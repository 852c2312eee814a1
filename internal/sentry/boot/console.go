package boot

import (
	"os"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

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

// bindConsole mounts the terminal of the first process on /dev/console.
func (c *container) bindConsole() error {
	ctx := c.init.group.Leader().AsyncContext()
	ns := vfs.MountNamespaceFromContext(ctx)
	defer ns.DecRef(ctx)
	m := &mounter{container: c, ctx: ctx, creds: auth.NewRootCredentials(c.kernel.RootUserNamespace()), root: ns.Root(ctx)}
	defer m.root.DecRef(ctx)
	console := "/dev/console"
	if err := m.makePath(&console, true); err != nil {
		return err
	}
	return c.kernel.VFS().BindAt(ctx, m.creds, m.at(c.init.terminal.Path()), m.at(console), false)
}
