package ttrpc

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// pair returns a client and a server that answers with handler; what the server logs is an error unless wanted.
func pair(t *testing.T, handler Handler, log func(error)) *Client {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Handler: handler, Log: log}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		l.Close()
		s.Close(time.Second)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return NewClient(conn)
}

func TestCall(t *testing.T) {
	c := pair(t, func(ctx context.Context, service, method string, payload []byte) ([]byte, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		switch method {
		case "Echo":
			return payload, nil
		case "Large":
			return make([]byte, maxPayload), nil
		case "Fail":
			return nil, &Error{NotFound, "no " + string(payload)}
		}
		panic("unexpected")
	}, func(err error) {
		if !strings.Contains(err.Error(), "bug: s/Panic: panic: unexpected") {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	big := bytes.Repeat([]byte("x"), 1<<20)
	for _, payload := range [][]byte{nil, []byte("hello"), big} {
		if got, err := c.Call(ctx, "s", "Echo", payload); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("echo of %d bytes: %d, %v", len(payload), len(got), err)
		}
	}
	var e *Error
	if _, err := c.Call(ctx, "s", "Fail", []byte("x")); !errors.As(err, &e) || e.Code != NotFound || e.Message != "no x" {
		t.Errorf("%v", err)
	}
	if _, err := c.Call(ctx, "s", "Panic", nil); !errors.As(err, &e) || e.Code != Internal {
		t.Errorf("%v", err)
	}
	if _, err := c.Call(ctx, "s", "Echo", make([]byte, maxPayload)); !errors.As(err, &e) || e.Code != ResourceExhausted {
		t.Errorf("a message that is too large: %v", err)
	}
	if _, err := c.Call(ctx, "s", "Large", nil); !errors.As(err, &e) || e.Code != ResourceExhausted {
		t.Errorf("an answer that is too large: %v", err)
	}
	if _, err := c.Call(ctx, "s", "Echo", nil); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestGarbage ends the connection, and no more.
func TestGarbage(t *testing.T) {
	for _, garbage := range []string{"\xff\xff\xff\xff\x00\x00\x00\x01\x01\x00", "\x00\x00\x00\x02\x00\x00\x00\x01\x01\x00\x0a\xff"} {
		logged := make(chan error, 1)
		c := pair(t, nil, func(err error) { logged <- err })
		if _, err := c.conn.Write([]byte(garbage)); err != nil {
			t.Fatal(err)
		}
		c.conn.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%q was answered: %d, %v", garbage, n, err)
		}
		if err := <-logged; err == nil || !strings.Contains(err.Error(), "ttrpc: ") {
			t.Errorf("%q: %v", garbage, err)
		}
	}
}

// TestCloseAnswers closes the server from within a call, whose caller has to get its answer, while another waits.
func TestCloseAnswers(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	s := &Server{Log: func(err error) { t.Error(err) }, Handler: func(ctx context.Context, _, method string, _ []byte) ([]byte, error) {
		switch method {
		case "Wait":
			<-ctx.Done()
			return nil, ctx.Err()
		case "Shutdown":
			close(over)
			time.Sleep(20 * time.Millisecond) // as on a busy machine
		}
		return []byte(method), nil
	}}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	dial := func() *Client {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return NewClient(conn)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	waits, shuts := dial(), dial()
	waited := make(chan error, 1)
	go func() { _, err := waits.Call(ctx, "s", "Wait", nil); waited <- err }()
	done := make(chan error, 1)
	go func() {
		p, err := shuts.Call(ctx, "s", "Shutdown", nil)
		if err == nil && string(p) != "Shutdown" {
			err = errors.New("answer " + string(p))
		}
		done <- err
	}()
	<-over
	l.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	s.Close(5 * time.Second)
	if err := <-done; err != nil {
		t.Errorf("the call that closed it: %v", err)
	}
	if err := <-waited; err == nil {
		t.Error("the call that waited has an answer")
	}
}

// TestCloseDoesntWaitForEver closes the server while a call hangs.
func TestCloseDoesntWaitForEver(t *testing.T) {
	hang, hangs := make(chan struct{}), make(chan struct{})
	s := &Server{Log: func(err error) { t.Error(err) }, Handler: func(context.Context, string, string, []byte) ([]byte, error) {
		close(hangs)
		<-hang
		return nil, nil
	}}
	defer close(hang)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	go NewClient(conn).Call(t.Context(), "s", "Hang", nil)
	<-hangs
	l.Close()
	start := time.Now()
	s.Close(50 * time.Millisecond)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("closed after %v", d)
	}
}

// TestTooManyCalls has as many calls wait as a connection may have, and one more: that is refused, and keeps nobody from ending the others.
func TestTooManyCalls(t *testing.T) {
	release := make(chan struct{})
	c := pair(t, func(_ context.Context, _, method string, _ []byte) ([]byte, error) {
		if method == "Wait" {
			<-release
		}
		return []byte(method), nil
	}, func(err error) { t.Error(err) })
	wait := request{service: "s", method: "Wait"}
	b, err := frame(1, typeRequest, wait.marshal())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Write(bytes.Repeat(b, maxCalls)); err != nil {
		t.Fatal(err)
	}
	c.stream = 2 // the first was used
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var e *Error
	if _, err := c.Call(ctx, "s", "More", nil); !errors.As(err, &e) || e.Code != ResourceExhausted || !strings.Contains(e.Message, "8192") {
		t.Errorf("one call more: %v", err)
	}
	close(release)
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := c.Call(ctx, "s", "Again", nil); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("when the others are over: %v", err)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	q := request{service: "s", method: "m", payload: []byte("p"), timeout: time.Second}
	f.Add(q.marshal())
	r := response{code: NotFound, message: "no", payload: []byte("p")}
	f.Add(r.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		var q request
		if q.unmarshal(b) == nil {
			var again request
			if err := again.unmarshal(q.marshal()); err != nil || again.service != q.service || !bytes.Equal(again.payload, q.payload) {
				t.Errorf("%+v, again %+v, %v", q, again, err)
			}
		}
		var r response
		_ = r.unmarshal(b)
	})
}
