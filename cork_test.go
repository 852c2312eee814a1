package hull_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { roles["cork"] = cork }

// With TCP_CORK a program gathers an answer, as nginx does for tcp_nopush: what is too little for a packet waits for more (tcp(7)).
// It leaves at once where there can be no more.
func TestCorkedDataLeavesAtTheEnd(t *testing.T) {
	says(t, run(t, withActor(t, t.TempDir()), playing("cork")),
		"held: 0 of 246 bytes", "uncorked: 246 of 246 bytes", "shutdown: 246 of 246 bytes", "closed: 246 of 246 bytes",
		"closed by one of two: 0 of 246 bytes", "closed by both: 246 of 246 bytes")
}

// cork tells how much of an answer comes soon after each way to end it.
func cork([]string) error {
	ends := []struct {
		name string
		end  func(fd int) error
	}{
		{"held", func(int) error { return nil }},
		{"uncorked", func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_CORK, 0) }},
		{"shutdown", func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) }},
		{"closed", unix.Close},
		{"closed by one of two", func(fd int) error {
			_, err := unix.Dup(fd)
			return errors.Join(err, unix.Close(fd))
		}},
		{"closed by both", func(fd int) error {
			other, err := unix.Dup(fd)
			return errors.Join(err, unix.Close(fd), unix.Close(other))
		}},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	for _, e := range ends {
		// A slow machine may be late, but no answer that is held comes early.
		var got []int
		for range 5 {
			n, err := corked(l, e.end)
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			got = append(got, n)
		}
		fmt.Printf("%s: %d of %d bytes\n", e.name, slices.Max(got), len(header)+len(body))
	}
	return nil
}

var header, body = make([]byte, 240), make([]byte, 6)

// corked writes to a connection under TCP_CORK, ends that as it is told to, and returns how much comes within half of the time that
// data is held at most.
func corked(l net.Listener, end func(fd int) error) (int, error) {
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		return 0, err
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return 0, err
	}
	fd, err := unix.Dup(int(f.Fd())) // whose only one it becomes
	if err := errors.Join(err, f.Close(), c.Close()); err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_CORK, 1); err != nil {
		return 0, err
	}
	for _, b := range [][]byte{header, body} {
		if _, err := unix.Write(fd, b); err != nil {
			return 0, err
		}
	}
	client.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if err := end(fd); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(client, make([]byte, len(header)+len(body)))
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}
