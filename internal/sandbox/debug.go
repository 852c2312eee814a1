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

// Debug writes to w what the sandbox's kernel shows of itself, unless show is empty, and sets what it logs, unless level is.
func (Engine) Debug(c *engine.Container, w io.Writer, show, level string) error {
	fd, err := unix.MemfdCreate("debug", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "debug")
	defer f.Close()
	if _, err := request(c, wire.Request{Op: wire.Debug, Show: show, LogLevel: level}, fd); err != nil {
		return err
	}
	_, err = io.Copy(w, printable{io.NewSectionReader(f, 0, maxShown)})
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
