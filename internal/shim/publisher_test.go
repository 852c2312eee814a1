package shim

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
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

// TestEventLate has a containerd that is too busy for an event at first: it is told again. One that containerd refuses is not.
func TestEventLate(t *testing.T) {
	for code, want := range map[ttrpc.Code]int{ttrpc.DeadlineExceeded: 3, ttrpc.Canceled: 3, ttrpc.Unavailable: 3, ttrpc.InvalidArgument: 1} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int32
		server := &ttrpc.Server{Log: func(err error) { t.Error(err) }, Handler: func(context.Context, string, string, []byte) ([]byte, error) {
			if asked.Add(1) < 3 {
				return nil, &ttrpc.Error{Code: code}
			}
			return nil, nil
		}}
		go server.Serve(l)
		p := newPublisher(l.Addr().String(), "ns", func(error) {})
		p.publish(&containerd.TaskExit{ID: "c"})
		p.flush(5 * time.Second)
		if got := int(asked.Load()); got != want {
			t.Errorf("answered %d it is told %d times, want %d", code, got, want)
		}
		l.Close()
		server.Close(time.Second)
	}
}
