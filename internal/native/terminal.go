package native

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/stub"
)

// openTerminal emits the making of a pseudo terminal in the container's devpts, which becomes the process's
// controlling terminal and its descriptors 0, 1 and 2. Its master is sent to the parent. The slave is returned.
//
// ptmx is opened in the devpts mount itself: /dev/ptmx may be anything that the image wants it to be.
func openTerminal(b *stub.Batch, ptmx string, size *specs.Box) (slave stub.FD) {
	b.In("process.terminal")
	master := b.Openat(stub.CWD, ptmx, unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	st := b.Statx(master)
	b.Assert(b.Load(st, stub.StatxRdevMajor).Arg(), ^uint64(0), 5, unix.ENODEV, ptmx+" is no terminal multiplexer")
	b.Assert(b.Load(st, stub.StatxRdevMinor).Arg(), ^uint64(0), 2, unix.ENODEV, ptmx+" is no terminal multiplexer")
	zero := b.Const(make([]byte, 4))
	b.Ioctl(master, unix.TIOCSPTLCK, zero.Arg())
	b.Note("TIOCSPTLCK")
	r := b.Ioctl(master, unix.TIOCGPTPEER, stub.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC))
	b.Note("TIOCGPTPEER")
	slave = r.FD()
	if size != nil && size.Height != 0 && size.Width != 0 {
		b.In("process.consoleSize")
		ws := unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}
		b.Ioctl(master, unix.TIOCSWINSZ, b.Const(stub.Bytes(&ws)).Arg())
		b.Note("TIOCSWINSZ")
		b.In("process.terminal")
	}
	b.SendFDs(master.Arg())
	b.Close(master)
	b.Ioctl(slave, unix.TIOCSCTTY, stub.Int(0))
	b.Note("TIOCSCTTY")
	for fd := range 3 {
		b.Dup3(slave, fd, 0)
	}
	return slave
}

// closeSent closes what a process that has failed to start has sent.
func closeSent(p *engine.Process, err error) {
	if err == nil {
		return
	}
	for _, f := range []**os.File{&p.Upper, &p.Console} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}
