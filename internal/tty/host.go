package tty

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNone is the error of Open when the caller has no terminal.
var ErrNone = errors.New("no terminal")

// Host is the terminal the caller sits at.
type Host struct {
	file   *os.File
	opened bool // by Open, so Restore closes it

	mu    sync.Mutex
	saved *unix.Termios // what Restore brings back; nil: nothing
}

// Open returns the first of the files that is a terminal, or the controlling terminal of the process.
func Open(files ...*os.File) (*Host, error) {
	for _, f := range files {
		if Is(f) {
			return &Host{file: f}, nil
		}
	}
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, ErrNone // ENXIO: no controlling terminal (tty(4)); ENOENT: no such file in a bare root
	}
	return &Host{file: f, opened: true}, nil
}

// descriptor returns the number of f. File.Fd would also make the description a blocking one, for all who share it.
func descriptor(f *os.File) int {
	fd := -1 // EBADF, if f is closed
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

// Is tells whether f is a terminal.
func Is(f *os.File) bool {
	_, err := unix.IoctlGetTermios(descriptor(f), unix.TCGETS)
	return err == nil
}

// MakeRaw has the terminal hand over each byte as it is typed: the terminal of the container does the editing and turns
// ^C into a signal. Output is still processed, so what others write there, such as a background job, stays readable.
func (h *Host) MakeRaw() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, err := unix.IoctlGetTermios(descriptor(h.file), unix.TCGETS)
	if err != nil {
		return os.NewSyscallError("ioctl TCGETS", err)
	}
	saved := *t
	// termios(3), "Raw mode", but for OPOST.
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := setTermios(h.file, t); err != nil {
		return err
	}
	if h.saved == nil {
		h.saved = &saved
	}
	return nil
}

// Restore brings the terminal back to what it was before MakeRaw. It may be called at any time, from any goroutine, and
// more than once.
func (h *Host) Restore() error {
	err := h.cook()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opened {
		h.opened = false
		err = errors.Join(err, h.file.Close())
	}
	return err
}

// cook is Restore for a while: the terminal can be made raw again.
func (h *Host) cook() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.saved == nil {
		return nil
	}
	err := setTermios(h.file, h.saved)
	h.saved = nil
	return err
}

func setTermios(f *os.File, t *unix.Termios) error {
	for {
		err := unix.IoctlSetTermios(descriptor(f), unix.TCSETS, t)
		if err != unix.EINTR {
			return os.NewSyscallError("ioctl TCSETS", err)
		}
	}
}

// copySize gives console the size of the terminal. A terminal that doesn't know its size has 0 rows, and leaves console
// the size that the configuration gave it.
func (h *Host) copySize(console *os.File) error {
	size, err := unix.IoctlGetWinsize(descriptor(h.file), unix.TIOCGWINSZ)
	if err != nil {
		return os.NewSyscallError("ioctl TIOCGWINSZ", err)
	}
	if size.Row == 0 && size.Col == 0 {
		return nil
	}
	return os.NewSyscallError("ioctl TIOCSWINSZ", unix.IoctlSetWinsize(descriptor(console), unix.TIOCSWINSZ, size))
}
