package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"hull"
	"hull/internal/sdnotify"
)

// notifySocket is where a container's program tells that it is ready, for a service manager that started hull. A nil one
// does nothing: there is no manager.
type notifySocket struct {
	*sdnotify.Socket
	manager string // where the manager listens
}

// listenNotify makes the socket of a container, if hull was given a manager's, and the container was made for it.
func listenNotify(c *hull.Container) (*notifySocket, error) {
	manager := os.Getenv("NOTIFY_SOCKET")
	if manager == "" {
		return nil, nil
	}
	s, err := sdnotify.Listen(c.Dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // create was called without NOTIFY_SOCKET
	}
	if err != nil {
		return nil, err
	}
	return &notifySocket{s, manager}, nil
}

// handOver waits until the program with that pid is ready or gone, and tells the manager to watch it instead of hull.
func (s *notifySocket) handOver(ctx context.Context, pid int) error {
	if s == nil {
		return nil
	}
	defer s.Close()
	return s.HandOver(ctx, s.manager, pid)
}

// forward passes on notifications until stop is called. They end early if the manager goes: that is its own affair.
func (s *notifySocket) forward(ctx context.Context, env *Env) (stop func()) {
	if s == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Forward(ctx, s.manager); err != nil {
			env.log.warn("NOTIFY_SOCKET: " + err.Error())
		}
	}()
	return func() {
		cancel()
		<-done
		s.Close()
	}
}
