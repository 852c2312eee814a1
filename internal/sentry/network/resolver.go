package network

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"hull/internal/sandbox/wire"
)

// A resolver is a program of the host's that works in the container's network namespace and listens on its loopback, as the
// name server of Docker's user-defined networks does. That namespace has no network any more but a tun device, which leads to
// a stack of its own here, of which the container sees nothing:
//
//	container's stack                     tun's stack                the host's kernel
//	to 127.0.0.11:53     ── connection ──> to 127.0.0.11:PORT ──────> resolver
//	to whom it asks      <── connection ── whatever it sends  <────── resolver
//
// So the container asks the resolver, and the resolver asks others with the container's addresses, as on Linux.
type resolver struct {
	wire.Resolver
	container, tun *stack.Stack
	flows          atomic.Int32
}

const (
	// resolverPort is where the container's programs find it: Docker redirects it.
	resolverPort = 53
	// maxFlows bounds the packets that are waited for, and the connections that are made, each way.
	maxFlows = 512
	// flowTimeout is how long an answer to a packet is waited for. Docker's resolver waits 4 seconds for each of three servers.
	flowTimeout = 15 * time.Second
)

// resolverAddress is the resolver's address.
var resolverAddress = tcpip.AddrFrom4(wire.ResolverAddress)

// startResolver makes the way to the resolver, and from it. It takes over the tun device.
func (n *Network) startResolver(r wire.Resolver, fd int) (err error) {
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	tun := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}), ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	e, err := fdbased.New(&fdbased.Options{FDs: []int{fd}, MTU: wire.TunMTU, IsPacketSocket: []bool{false}, PreConfigured: true})
	if err != nil {
		return err
	}
	check := func(e tcpip.Error) {
		if e != nil && err == nil {
			err = errors.New("resolver: " + e.String())
		}
	}
	check(tun.CreateNIC(1, e))
	own := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFrom4(wire.TunPeer).WithPrefix()}
	check(tun.AddProtocolAddress(1, own, stack.AddressProperties{}))
	tun.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	// What the resolver sends is received whomever it is for, and answered as from there.
	check(tun.SetPromiscuousMode(1, true))
	check(tun.SetSpoofing(1, true))
	if err != nil {
		return err
	}
	v := &resolver{Resolver: r, container: n.stack, tun: tun}
	v.intercept(n.stack, func(to stack.TransportEndpointID) (*stack.Stack, tcpip.FullAddress, tcpip.FullAddress) {
		if to.LocalAddress != resolverAddress || to.LocalPort != resolverPort {
			return nil, tcpip.FullAddress{}, tcpip.FullAddress{}
		}
		return v.tun, tcpip.FullAddress{Addr: resolverAddress, Port: r.UDP}, tcpip.FullAddress{Addr: resolverAddress, Port: r.TCP}
	})
	v.intercept(tun, func(to stack.TransportEndpointID) (*stack.Stack, tcpip.FullAddress, tcpip.FullAddress) {
		a := tcpip.FullAddress{Addr: to.LocalAddress, Port: to.LocalPort}
		return v.container, a, a
	})
	return nil
}

// A way says, of what comes for an address that nobody has, to which stack it goes on, if to one, and there to which
// addresses of UDP and TCP.
type way func(to stack.TransportEndpointID) (s *stack.Stack, udp, tcp tcpip.FullAddress)

// intercept carries on what comes to a stack that nobody there listens for.
func (v *resolver) intercept(from *stack.Stack, to way) {
	packets := udp.NewForwarder(from, func(r *udp.ForwarderRequest) bool {
		s, at, _ := to(r.ID())
		if s == nil || at.Port == 0 {
			return false
		}
		if v.flows.Add(1) > maxFlows {
			v.flows.Add(-1)
			return true // lost
		}
		// Here, since a second packet must find the endpoint of the first.
		var wq waiter.Queue
		e, err := r.CreateEndpoint(&wq)
		if err != nil {
			v.flows.Add(-1)
			return true
		}
		go func() {
			defer v.flows.Add(-1)
			v.exchange(gonet.NewUDPConn(&wq, e), s, at)
		}()
		return true
	})
	connections := tcp.NewForwarder(from, 0, maxFlows, func(r *tcp.ForwarderRequest) {
		s, _, at := to(r.ID())
		v.connect(r, s, at)
	})
	from.SetTransportProtocolHandler(udp.ProtocolNumber, packets.HandlePacket)
	from.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		if s, _, at := to(id); s == nil || at.Port == 0 {
			return false
		}
		return connections.HandlePacket(id, pkt)
	})
}

// exchange carries packets until nobody sends any for some time.
func (v *resolver) exchange(from *gonet.UDPConn, s *stack.Stack, at tcpip.FullAddress) {
	defer from.Close()
	to, err := gonet.DialUDP(s, nil, &at, protocolOf(at.Addr))
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	carry := func(from, to *gonet.UDPConn) {
		p := make([]byte, 64<<10)
		for {
			_ = from.SetReadDeadline(time.Now().Add(flowTimeout))
			n, err := from.Read(p)
			if err != nil {
				break
			}
			if _, err := to.Write(p[:n]); err != nil {
				break
			}
		}
		_ = to.SetReadDeadline(time.Now()) // there is no more to come
	}
	both.Go(func() { carry(from, to) })
	both.Go(func() { carry(to, from) })
	both.Wait()
}

// connect carries a connection, once there is one at the other side.
func (v *resolver) connect(r *tcp.ForwarderRequest, s *stack.Stack, at tcpip.FullAddress) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	to, err := gonet.DialContextTCP(ctx, s, at, protocolOf(at.Addr))
	if err != nil {
		r.Complete(true)
		return
	}
	defer to.Close()
	var wq waiter.Queue
	e, terr := r.CreateEndpoint(&wq)
	r.Complete(terr != nil)
	if terr != nil {
		return
	}
	from := gonet.NewTCPConn(&wq, e)
	defer from.Close()
	var both sync.WaitGroup
	for _, c := range [][2]*gonet.TCPConn{{from, to}, {to, from}} {
		both.Go(func() {
			_, _ = io.Copy(c[1], c[0])
			_ = c[1].CloseWrite()
		})
	}
	both.Wait()
}

func protocolOf(a tcpip.Address) tcpip.NetworkProtocolNumber {
	return protocol(a.AsSlice())
}
