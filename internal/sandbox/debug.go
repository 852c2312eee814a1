package sandbox

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/sandbox/wire"
)

// maxShown bounds what a sandbox shows, in bytes.
const maxShown = 64 << 20

// Debug writes to w what the sandbox's kernel shows of itself, and sets what it logs. It is a text, or, of a profile, what pprof
// reads; in either case what somebody says who is not trusted.
func (Engine) Debug(c *engine.Container, w io.Writer, r engine.DebugRequest) error {
	fd, err := unix.MemfdCreate("debug", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "debug")
	defer f.Close()
	conn, err := dial(c)
	if err != nil {
		return err
	}
	defer conn.Close()
	patience := unix.NsecToTimeval(int64(bootTimeout + r.Duration))
	if err := unix.SetsockoptTimeval(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	request := wire.Request{Op: wire.Debug, Container: c.ID, Show: r.Show, Duration: r.Duration, LogLevel: r.LogLevel, Trace: r.Trace}
	if _, err := ask(conn, request, fd); err != nil {
		return err
	}
	shown := io.Reader(io.NewSectionReader(f, 0, maxShown))
	switch r.Show {
	case wire.CPUProfile, wire.HeapProfile, wire.GoroutineProfile, wire.BlockProfile, wire.MutexProfile:
	default:
		shown = printable{shown}
	}
	_, err = io.Copy(w, shown)
	return err
}

// printable replaces what could be commands to the terminal of whoever looks: a sandbox is not trusted.
type printable struct{ r io.Reader }

// Read implements io.Reader.
func (p printable) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	for i, c := range b[:n] {
		if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f {
			b[i] = '?'
		}
	}
	return n, err
}
