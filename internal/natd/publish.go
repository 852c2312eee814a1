package natd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"hull/internal/fault"
	"hull/internal/nat"
)

// listener is a published port.
type listener struct {
	net.Listener
	port uint16 // in the container
}

// listen takes the port on the host.
func listen(p nat.Port) (*listener, error) {
	if p.Host == "" {
		p.Host = "127.0.0.1"
	}
	at := net.JoinHostPort(p.Host, strconv.Itoa(int(p.HostPort)))
	if _, err := netip.ParseAddr(p.Host); err != nil {
		return nil, fmt.Errorf("publish %s: not an address", at)
	}
	l, err := net.Listen("tcp", at)
	if err == nil {
		return &listener{l, p.Container}, nil
	}
	e := &fault.Error{Step: "publish " + at, Err: err}
	var op *net.OpError
	if errors.As(err, &op) {
		e.Err = op.Err
	}
	switch {
	case errors.Is(err, unix.EACCES):
		e.Hint = "sysctl net.ipv4.ip_unprivileged_port_start says which ports users may take"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		e.Hint = p.Host + " is not an address of the host's"
	}
	return nil, e
}

// serve passes connections on into the container. One that isn't taken there is reset.
func (l *listener) serve(g *gateway, container netip.Addr) {
	to := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(container.AsSlice()), Port: l.port}
	from := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(g.plan.gateway4.AsSlice())}
	for {
		outside, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // no descriptor is free
			continue
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
			defer cancel()
			inside, ep := g.dial(ctx, from, to)
			if inside == nil {
				reset(outside)
				return
			}
			g.out.begin()
			g.relay(inside, outside.(*net.TCPConn), ep.Abort)
		}()
	}
}

// dial connects to the container, as gonet.DialTCPWithBind does, and returns the endpoint, too, by which the connection can
// be reset; or nil.
func (g *gateway) dial(ctx context.Context, from, to tcpip.FullAddress) (*gonet.TCPConn, tcpip.Endpoint) {
	var wq waiter.Queue
	ep, err := g.Stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if err != nil {
		return nil, nil
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err = ep.Bind(from); err == nil {
		err = ep.Connect(to)
	}
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			err = &tcpip.ErrTimeout{}
		case <-connected:
			err = ep.LastError()
		}
	}
	if err != nil {
		ep.Close()
		return nil, nil
	}
	return gonet.NewTCPConn(&wq, ep), ep
}
