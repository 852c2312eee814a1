package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLogNobodyReads has more logged than a FIFO takes.
func TestLogNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l := &logFile{file: f}
		for range 200 {
			l.warn(strings.Repeat("x", 1000))
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("a line waits for a reader")
	}
}
