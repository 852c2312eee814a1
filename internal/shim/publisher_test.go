package shim

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/internal/containerd"
	"hull/internal/ttrpc"
)

// TestEventTooLarge has an event that no frame holds, and one behind it.
func TestEventTooLarge(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	taken, logged := make(chan struct{}, 10), make(chan error, 10)
	server := &ttrpc.Server{Log: func(err error) { t.Error(err) }, Handler: func(context.Context, string, string, []byte) ([]byte, error) {
		taken <- struct{}{}
		return nil, nil
	}}
	go server.Serve(l)
	defer server.Close(time.Second)
	defer l.Close()
	p := newPublisher(l.Addr().String(), "ns", func(err error) { logged <- err })
	p.publish(&containerd.TaskCreate{ID: "large", Rootfs: []containerd.Mount{{Source: strings.Repeat("x", 5<<20)}}})
	p.publish(&containerd.TaskOOM{ID: "small"})
	select {
	case <-taken:
	case <-time.After(5 * time.Second):
		t.Fatal("the event behind isn't told")
	}
	p.flush(5 * time.Second)
	select {
	case err := <-logged:
		var refused *ttrpc.Error
		if !errors.As(err, &refused) || refused.Code != ttrpc.ResourceExhausted || !strings.Contains(err.Error(), "/tasks/create") {
			t.Errorf("logged: %v", err)
		}
	default:
		t.Error("nothing is said of it")
	}
}
