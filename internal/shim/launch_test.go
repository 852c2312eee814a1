package shim

import (
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// TestListenOnce has many starts of one pod's shim at once, where one that was killed has left its socket: one gets it.
func TestListenOnce(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "s")
		left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		left.SetUnlinkOnClose(false)
		left.Close()
		got := make([]*net.UnixListener, 8)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				l, err := listen(path)
				if err != nil {
					t.Error(err)
				}
				got[i] = l
			})
		}
		wg.Wait()
		n := 0
		for _, l := range got {
			if l != nil {
				n++
				l.Close()
			}
		}
		if n != 1 {
			t.Fatalf("%d shims for one pod", n)
		}
	}
}
