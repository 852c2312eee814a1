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
		s.Close()
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
	if _, err := c.Call(ctx, "s", "Echo", make([]byte, maxPayload)); err == nil {
		t.Error("a message that is too large was sent")
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
