package network

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"

	"hull/internal/fault"
)

// dialTimeout is how long a program that listens has to take a connection.
const dialTimeout = 10 * time.Second

// Dial connects a socket of the host's with a TCP port of the loopback. It takes over the descriptor.
func (n *Network) Dial(socket int, port uint16) error {
	if n == nil {
		unix.Close(socket)
		return &fault.Error{Kind: fault.Unsupported, Err: errors.New("the container has the host's network: its ports are the host's")}
	}
	outside := os.NewFile(uintptr(socket), "connection")
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	inside, err := gonet.DialContextTCP(ctx, n.stack, tcpip.FullAddress{Addr: tcpip.AddrFrom4([4]byte{127, 0, 0, 1}), Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		inside, err = gonet.DialContextTCP(ctx, n.stack, tcpip.FullAddress{Addr: tcpip.AddrFrom16([16]byte{15: 1}), Port: port}, ipv6.ProtocolNumber)
	}
	if err != nil {
		outside.Close()
		if ctx.Err() != nil {
			return unix.ETIMEDOUT
		}
		return unix.ECONNREFUSED
	}
	go relay(outside, inside)
	return nil
}

// relay carries both directions until both have ended.
func relay(outside *os.File, inside *gonet.TCPConn) {
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(inside, outside)
		_ = inside.CloseWrite()
	})
	both.Go(func() {
		_, _ = io.Copy(struct{ io.Writer }{outside}, inside)
		if raw, err := outside.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
		}
	})
	both.Wait()
	inside.Close()
	outside.Close()
}
