package sandbox

import (
	"bytes"
	"io"
	"os"
	"path/filepath"

	"hull/internal/sandbox/wire"
)

// lastWords returns the line in the log of a sandbox in which its program says why it ended by itself; or "".
func lastWords(log []byte) string {
	for line := range bytes.Lines(log) {
		for _, begin := range []string{"panic: ", "fatal error: ", "hull-sandbox: ", "SIG"} {
			if bytes.HasPrefix(line, []byte(begin)) {
				return wire.Printable(string(bytes.TrimSpace(line)))
			}
		}
	}
	return ""
}

// readLog returns the log of a sandbox, as far as it can be read: it belongs to a program that is not trusted.
func (c *creation) readLog() []byte {
	f := c.log
	if f == nil {
		var err error
		if f, err = os.Open(filepath.Join(c.Dir, wire.Log)); err != nil {
			return nil
		}
		defer f.Close()
	}
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, wire.MaxMessage))
	return b
}
