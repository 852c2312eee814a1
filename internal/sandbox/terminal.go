package sandbox

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// openTerminal makes a pseudo terminal of the host's, whose slave the sandbox gets: the container's own terminal is one of
// its kernel, which does all the editing. So the host's hands over what is typed as it is (EXTPROC, from Linux 2.6.36 on), though
// whoever has the master finds, and sets, the modes that the container's terminal has.
func openTerminal(size *specs.Box) (master, slave *os.File, err error) {
	fail := func(step string, err error) (*os.File, *os.File, error) {
		for _, f := range []*os.File{master, slave} {
			if f != nil {
				f.Close()
			}
		}
		return nil, nil, &fault.Error{Field: "process.terminal", Step: step, Err: err}
	}
	const ptmx = "/dev/ptmx"
	fd, err := unix.Open(ptmx, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open "+ptmx, err)
	}
	master = os.NewFile(uintptr(fd), ptmx)
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fail("TIOCSPTLCK", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail("TIOCGPTPEER", errno)
	}
	slave = os.NewFile(peer, "terminal")
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Lflag |= unix.EXTPROC
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		return fail("TCSETS", err)
	}
	if size != nil && size.Height != 0 && size.Width != 0 {
		ws := unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &ws); err != nil {
			return fail("TIOCSWINSZ", err)
		}
	}
	return master, slave, nil
}
