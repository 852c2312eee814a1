package shim

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// logFile is where the shim says what no call returns: containerd's FIFO of that name in the bundle. Nobody may read there, so
// that a line is dropped rather than waited for.
type logFile struct {
	mu   sync.Mutex
	file *os.File
	on   bool // debug lines
}

func (l *logFile) line(level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := fmt.Appendf(nil, "time=%q level=%s msg=%s runtime=%s\n", time.Now().Format(time.RFC3339Nano), level, strconv.Quote(text), name)
	if conn, err := l.file.SyscallConn(); err == nil {
		// Not File.Write, which waits until there is room.
		conn.Write(func(fd uintptr) bool { unix.Write(int(fd), line); return true })
	}
}

func (l *logFile) error(err error)  { l.line("error", err.Error()) }
func (l *logFile) warn(text string) { l.line("warning", text) }

func (l *logFile) debug(text string) {
	if l.on {
		l.line("debug", text)
	}
}
