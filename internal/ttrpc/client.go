package ttrpc

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Client makes calls over one connection, one after the other.
type Client struct {
	conn   net.Conn
	stream uint32
}

// NewClient makes a client of a connection, which it owns.
func NewClient(conn net.Conn) *Client { return &Client{conn: conn} }

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call makes a call and returns the answer. After an error that is no *Error the connection is of no use any more.
func (c *Client) Call(ctx context.Context, service, method string, payload []byte) ([]byte, error) {
	q := request{service: service, method: method, payload: payload}
	deadline, ok := ctx.Deadline()
	if ok {
		q.timeout = time.Until(deadline)
	}
	if err := c.conn.SetDeadline(deadline); err != nil { // the zero time is none
		return nil, err
	}
	stream := c.stream + 1 // a client's streams are odd
	b, err := frame(stream, typeRequest, q.marshal())
	if err != nil {
		return nil, err
	}
	c.stream += 2
	if _, err := c.conn.Write(b); err != nil {
		return nil, err
	}
	for {
		h, p, err := readFrame(c.conn)
		if err != nil {
			return nil, err
		}
		if h.stream != stream || h.typ != typeResponse {
			continue // the answer to a call that was given up
		}
		var r response
		if err := r.unmarshal(p); err != nil {
			return nil, fmt.Errorf("answer of %s: %w", method, err)
		}
		if r.code != OK {
			return nil, &Error{r.code, r.message}
		}
		return r.payload, nil
	}
}
