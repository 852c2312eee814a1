package stream

import (
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A descriptor that can't be used is closed once: a second time it may be the number of another file, that was opened meanwhile.
func TestExtraClosesOnce(t *testing.T) {
	var over atomic.Bool
	var other sync.WaitGroup
	other.Go(func() {
		for !over.Load() {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			if err != nil {
				t.Errorf("a file of another goroutine's: %v", err)
				return
			}
		}
	})
	for range 20_000 {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			break
		}
		if new(Importer).Extra(nil, nil, []int{fd}) == nil {
			t.Error("a descriptor that nothing can be read by is taken")
			break
		}
	}
	over.Store(true)
	other.Wait()
}
