package natd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nic = 1

	// dialTimeout is about what Linux takes to give a connection up for which it gets no answer.
	dialTimeout = 2 * time.Minute
	// maxDials bounds connections of which the outside hasn't answered yet.
	maxDials = 4096
	// flowTimeout is for how long a UDP flow is remembered after its last packet: RFC 4787, section 4.3, asks for two
	// minutes at least.
	flowTimeout = 2 * time.Minute
	// maxFlows bounds UDP flows, each of which is a socket of the host's.
	maxFlows = 4096
	// tcpBuffer is as much as a connection may have on its way through the stack.
	tcpBuffer = 4 << 20
)

// gateway is the stack, in which every address the container speaks to ends.
type gateway struct {
	*stack.Stack
	link   *link
	plan   plan
	policy *policy
	flows  atomic.Int32
	out    uploads
}

// newStack makes a gateway that lacks its plan, its policy and its link.
func newStack() (*gateway, error) {
	echo := new(echo)
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	g := &gateway{Stack: s}
	sack := tcpip.TCPSACKEnabled(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: tcpBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: tcpBuffer}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, fmt.Errorf("stack: %v", err)
		}
	}
	tcpForwarder := tcp.NewForwarder(s, 0, maxDials, g.connect)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcpForwarder.HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, g.flow).HandlePacket)
	s.SetTransportProtocolHandler(icmp.ProtocolNumber4, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return echo.handle(g, id, pkt)
	})
	s.SetTransportProtocolHandler(icmp.ProtocolNumber6, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return echo.handle(g, id, pkt)
	})
	return g, nil
}

// connectTap has the stack serve the container.
func (g *gateway) connectTap(tap *os.File) (err error) {
	s, p := g.Stack, g.plan
	if g.link, err = newLink(tap); err != nil {
		return err
	}
	if err := s.CreateNIC(nic, g.link); err != nil {
		return fmt.Errorf("stack: %v", err)
	}
	addresses := []tcpip.ProtocolAddress{{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFromSlice(p.gateway4.AsSlice()).WithPrefix()}}
	if p.gateway6.IsValid() {
		addresses = append(addresses, tcpip.ProtocolAddress{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddrFromSlice(p.gateway6.AsSlice()).WithPrefix()})
	}
	for _, a := range addresses {
		if err := s.AddProtocolAddress(nic, a, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("stack: %v", err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	// Every address is the stack's own, to receive for and to send from.
	if err := s.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("stack: %v", err)
	}
	if err := s.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("stack: %v", err)
	}
	return nil
}

// destination is what a packet of the container's is for.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	a, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(a, id.LocalPort)
}

// connect answers a SYN: with the outside's answer, once that is there.
func (g *gateway) connect(r *tcp.ForwarderRequest) {
	to := destination(r.ID())
	if !g.policy.permit("tcp", to) {
		r.Complete(true)
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		defer cancel()
		var d net.Dialer
		outside, err := d.DialContext(ctx, "tcp", to.String())
		if err != nil {
			r.Complete(true)
			return
		}
		g.out.begin() // before the container knows that it is connected, and can send
		var wq waiter.Queue
		ep, tcpErr := r.CreateEndpoint(&wq)
		if tcpErr != nil {
			g.out.end()
			r.Complete(true)
			reset(outside)
			return
		}
		r.Complete(false)
		g.relay(gonet.NewTCPConn(&wq, ep), outside.(*net.TCPConn), ep.Abort)
	}()
}

// flow makes a way for the first packet of a UDP flow. A packet that there is no way for is answered with port
// unreachable.
func (g *gateway) flow(r *udp.ForwarderRequest) bool {
	to := destination(r.ID())
	if !g.policy.permit("udp", to) || g.flows.Load() >= maxFlows {
		return false
	}
	outside, err := net.Dial("udp", to.String())
	if err != nil {
		return false
	}
	var wq waiter.Queue
	ep, tcpErr := r.CreateEndpoint(&wq)
	if tcpErr != nil {
		outside.Close()
		return false
	}
	g.flows.Add(1)
	inside := gonet.NewUDPConn(&wq, ep)
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	var both sync.WaitGroup
	both.Go(func() { packets(outside, inside, &last) })
	both.Go(func() { packets(inside, outside, &last) })
	go func() {
		both.Wait()
		g.flows.Add(-1)
	}()
	return true
}

// packets carries packets in one direction until neither has carried one for long.
func packets(to, from net.Conn, last *atomic.Int64) {
	defer to.Close()
	defer from.Close()
	p := make([]byte, 64<<10)
	for {
		_ = from.SetReadDeadline(time.Unix(0, last.Load()).Add(flowTimeout))
		n, err := from.Read(p)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err):
			if time.Since(time.Unix(0, last.Load())) >= flowTimeout {
				return
			}
			continue
		case err != nil:
			return
		}
		last.Store(time.Now().UnixNano())
		if _, err := to.Write(p[:n]); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// buffers are what relay copies through.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// relay carries a connection on, with the ends of its two directions apart, until both have ended or one has failed.
// abort resets the inside. g.out knows of it.
func (g *gateway) relay(inside *gonet.TCPConn, outside *net.TCPConn, abort func()) {
	var failed, finished atomic.Bool
	carry := func(to, from interface {
		Read([]byte) (int, error)
		Write([]byte) (int, error)
		CloseWrite() error
	}) {
		b := buffers.Get().(*[256 << 10]byte)
		defer buffers.Put(b)
		for {
			n, err := from.Read(b[:])
			if n > 0 {
				if _, err := to.Write(b[:n]); err != nil {
					failed.Store(true)
					break
				}
				g.out.carried.Add(int64(n))
			}
			if err != nil {
				if errors.Is(err, io.EOF) && !failed.Load() && (from != outside || finished.Load() || !isReset(outside)) {
					if to == outside {
						finished.Store(true)
					}
					_ = to.CloseWrite()
					return
				}
				failed.Store(true)
				break
			}
		}
		// The other direction has to end as well.
		_ = outside.SetDeadline(time.Unix(1, 0))
		_ = inside.SetDeadline(time.Unix(1, 0))
	}
	var both sync.WaitGroup
	both.Go(func() {
		defer g.out.end()
		carry(outside, inside)
	})
	both.Go(func() { carry(inside, outside) })
	both.Wait()
	if failed.Load() {
		// A connection that was broken is broken at the other side, too, and not ended.
		reset(outside)
		abort()
		inside.Close()
		return
	}
	outside.Close()
	inside.Close()
}

// isReset tells whether a connection whose other end has ended, and that was not finished from here, was in truth reset:
// the kernel tells that once, and a write may have been told.
func isReset(c *net.TCPConn) (yes bool) {
	const tcpClose = 7 // TCP_CLOSE, include/net/tcp_states.h
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		yes = err != nil || info.State == tcpClose
	})
	return yes
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}
