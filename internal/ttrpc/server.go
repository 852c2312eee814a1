package ttrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxCalls bounds the calls of one connection that are under way. containerd waits for each process by one.
const maxCalls = 8192

// acceptPause is how long a server that lacks descriptors or memory waits before it takes another connection.
const acceptPause = 100 * time.Millisecond

// Handler answers a call: method of service, with the message that it is given.
type Handler func(ctx context.Context, service, method string, payload []byte) ([]byte, error)

// Server answers the calls of any number of connections, each call in a goroutine of its own.
type Server struct {
	Handler Handler
	// Log is told of what no caller hears of: a connection that sends garbage, a handler's panic.
	Log func(error)

	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	over    bool
	serving sync.WaitGroup // connections
}

// Serve accepts connections until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
				s.Log(err)
				time.Sleep(acceptPause) // it passes, and the server's other connections are no worse for it
				continue
			}
			return err
		}
		if !s.add(conn) {
			conn.Close()
			return nil
		}
		go func() {
			defer s.serving.Done()
			defer s.remove(conn)
			if err := s.connection(conn); err != nil {
				s.Log(err)
			}
		}()
	}
}

// Close ends all connections: no call is read any more, those under way are told by their context, and get their answers as far as
// that takes no longer than patience.
func (s *Server) Close(patience time.Duration) {
	end := time.Now().Add(patience)
	s.mu.Lock()
	s.over = true
	for c := range s.conns {
		c.SetReadDeadline(time.Now())
		c.SetWriteDeadline(end)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.serving.Wait(); close(done) }()
	select {
	case <-done:
		return
	case <-time.After(patience):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *Server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	if s.conns == nil {
		s.conns = make(map[net.Conn]struct{})
	}
	s.conns[c] = struct{}{}
	s.serving.Add(1)
	return true
}

func (s *Server) remove(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// connection answers the calls of one connection until its end.
func (s *Server) connection(conn net.Conn) error {
	// Who calls has gone with the connection; nobody is told what comes of its calls.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	var writer sync.Mutex
	room := make(chan struct{}, maxCalls)
	for {
		h, p, err := readFrame(conn)
		if err != nil {
			for _, over := range []error{io.EOF, net.ErrClosed, os.ErrDeadlineExceeded, syscall.ECONNRESET} { // the last, of who has left answers unread
				if errors.Is(err, over) {
					return nil
				}
			}
			return err
		}
		if h.typ != typeRequest {
			continue // data of a stream, of which there are none here
		}
		var q request
		if err := q.unmarshal(p); err != nil {
			return err
		}
		answer := func(r *response) {
			b, err := frame(h.stream, typeResponse, r.marshal())
			if err != nil {
				b, err = frame(h.stream, typeResponse, (&response{code: CodeOf(err), message: "answer: " + err.Error()}).marshal())
			}
			if err != nil {
				s.Log(err)
				return
			}
			writer.Lock()
			defer writer.Unlock()
			_, _ = conn.Write(b) // a caller that has gone wants no answer
		}
		select {
		case room <- struct{}{}:
			calls.Go(func() {
				defer func() { <-room }()
				answer(s.call(ctx, &q))
			})
		default: // not to be waited for: the call that ends the others may be the next
			answer(&response{code: ResourceExhausted, message: fmt.Sprintf("ttrpc: %d calls of this connection are under way", maxCalls)})
		}
	}
}

// call answers one call. A panic of the handler is that call's failure: the shim has other containers.
func (s *Server) call(ctx context.Context, q *request) (r *response) {
	defer func() {
		if p := recover(); p != nil {
			err := fmt.Errorf("bug: %s/%s: panic: %v\n%s", q.service, q.method, p, debug.Stack())
			s.Log(err)
			r = &response{code: Internal, message: fmt.Sprintf("bug: %s: panic: %v", q.method, p)}
		}
	}()
	if q.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.timeout)
		defer cancel()
	}
	p, err := s.Handler(ctx, q.service, q.method, q.payload)
	if err != nil {
		return &response{code: CodeOf(err), message: err.Error()}
	}
	return &response{payload: p}
}
