package shim

import (
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// TestForward: a pod that keeps its connections has no more than its share of the shim's descriptors and threads, and a connection that
// ends makes room for the next.
func TestForward(t *testing.T) {
	var accepted atomic.Int32
	const all = 2*forwards + 1
	accept := func() (*os.File, uint16, error) {
		if accepted.Load() == all {
			return nil, 0, os.ErrClosed
		}
		return nil, uint16(accepted.Add(1)), nil
	}
	end, result := make(chan struct{}), make(chan error)
	go func() { result <- forward(accept, func(*os.File, uint16) { <-end }) }()
	reach := func(want int32) {
		t.Helper()
		for limit := time.Now().Add(10 * time.Second); accepted.Load() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("%d connections are accepted, want %d", accepted.Load(), want)
			}
		}
	}
	reach(forwards)
	time.Sleep(20 * time.Millisecond)
	reach(forwards)
	end <- struct{}{}
	reach(forwards + 1)
	close(end)
	if err := <-result; err != os.ErrClosed {
		t.Error(err)
	}
}
