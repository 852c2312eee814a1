package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"hull/internal/containerd"
	"hull/internal/ttrpc"
)

const (
	// publishTimeout bounds one attempt to tell containerd of an event.
	publishTimeout = 5 * time.Second
	retryMin       = 50 * time.Millisecond
	retryMax       = 5 * time.Second
	// maxPending bounds the events that wait for a containerd that isn't there. It asks for the state of every container
	// when it comes back, so that the oldest are of no more use then.
	maxPending = 4096
	// lastEvents is how long a shim that is no longer needed goes on trying.
	lastEvents = 5 * time.Second
)

// publisher tells containerd of events, in their order, each until it has been taken.
type publisher struct {
	address, namespace string
	log                func(error)

	mu      sync.Mutex
	pending []*containerd.Envelope
	dropped int
	wake    chan struct{} // has room for one
	idle    sync.WaitGroup
}

func newPublisher(address, namespace string, log func(error)) *publisher {
	p := &publisher{address: address, namespace: namespace, log: log, wake: make(chan struct{}, 1)}
	if address != "" {
		go p.run()
	}
	return p
}

// publish has containerd told of an event; it doesn't wait for that.
func (p *publisher) publish(e containerd.Event) {
	if p.address == "" {
		return
	}
	p.mu.Lock()
	if len(p.pending) == maxPending {
		p.pending = p.pending[1:]
		p.dropped++
		p.idle.Done()
	}
	p.idle.Add(1)
	p.pending = append(p.pending, &containerd.Envelope{Namespace: p.namespace, At: time.Now(), Event: e})
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// flush waits until all events are told, or for so long.
func (p *publisher) flush(timeout time.Duration) {
	done := make(chan struct{})
	go func() { p.idle.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(timeout):
		p.log(errors.New("containerd takes no events"))
	}
}

func (p *publisher) run() {
	var client *ttrpc.Client
	pause := retryMin
	for range p.wake {
		for {
			p.mu.Lock()
			if p.dropped > 0 {
				p.log(errors.New("containerd takes no events: the oldest are dropped"))
				p.dropped = 0
			}
			if len(p.pending) == 0 {
				p.pending = nil
				p.mu.Unlock()
				break
			}
			e := p.pending[0]
			p.mu.Unlock()
			var err error
			if client, err = p.tell(client, e); err != nil {
				time.Sleep(pause)
				pause = min(2*pause, retryMax)
				continue
			}
			pause = retryMin
			p.mu.Lock()
			if len(p.pending) > 0 && p.pending[0] == e {
				p.pending = p.pending[1:]
				p.idle.Done()
			}
			p.mu.Unlock()
		}
	}
}

// tell tells of one event over the connection, if there is one, or else a new one, and returns the one to use next.
func (p *publisher) tell(client *ttrpc.Client, e *containerd.Envelope) (*ttrpc.Client, error) {
	if client == nil {
		conn, err := net.DialTimeout("unix", p.address, publishTimeout)
		if err != nil {
			return nil, err
		}
		client = ttrpc.NewClient(conn)
	}
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	_, err := client.Call(ctx, containerd.Events, containerd.Forward, containerd.Marshal(e))
	var refused *ttrpc.Error
	if errors.As(err, &refused) && !passes(refused.Code) {
		p.log(fmt.Errorf("event %s is dropped: %w", e.Event.Topic(), err)) // another attempt would be answered alike
		return client, nil
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// passes tells whether a code says that the same may be answered otherwise later.
func passes(c ttrpc.Code) bool {
	return c == ttrpc.Unavailable || c == ttrpc.DeadlineExceeded || c == ttrpc.Canceled
}
