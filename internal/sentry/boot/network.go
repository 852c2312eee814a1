package boot

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/socket/hostinet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/link/qdisc/fifo"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/filter"
)

const loopbackNIC = 1

// queueLength is how many packets wait for a device at most, as in Linux.
const queueLength = 1000

// gsoSize is the most that one packet of several TCP segments has: less than any device takes (include/linux/netdevice.h,
// GSO_LEGACY_MAX_SIZE), by what comes before it at the other end of a socket.
const gsoSize = 65536 - 136

// hostNetwork tells whether the container has the host's network: its sockets are the host's.
func (s *Sandbox) hostNetwork() bool {
	return !slices.ContainsFunc(s.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
}

// sockets returns those that a container has which has the host's network.
func (s *Sandbox) sockets() *filter.Sockets {
	if s.HostSockets.Any() {
		return &filter.Sockets{Unix: s.HostSockets} // which a container with the host's network has not
	}
	if !s.hostNetwork() {
		return nil
	}
	p := new(filter.Sockets)
	for _, t := range hostinet.AllowedSocketTypes {
		p.Types = append(p.Types, filter.Type(t))
	}
	for _, o := range hostinet.SockOpts {
		p.Options = append(p.Options, filter.Option{Level: o.Level, Name: o.Name, Get: o.AllowGet, Set: o.AllowSet})
	}
	return p
}

// newNetwork makes a network namespace with nothing but a loopback; or one that passes the host's sockets on.
func (s *Sandbox) newNetwork(clock tcpip.Clock, users *auth.UserNamespace, ids uniqueid.Provider) (*inet.Namespace, error) {
	if s.hostNetwork() {
		host := hostinet.NewStack()
		if err := host.Configure(false); err != nil {
			return nil, fmt.Errorf("network: %w", err)
		}
		return inet.NewRootNamespace(host, nil, users), nil
	}
	n := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              clock,
		Stats:              netstack.Metrics,
		HandleLocal:        true,
		RawFactory:         raw.EndpointFactory{},
	})
	s.network = n
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate} {
		if err := n.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, fmt.Errorf("network: %v", err)
		}
	}
	if err := s.addLoopback(); err != nil {
		return nil, err
	}
	return inet.NewRootNamespace(netstack.NewStack(n, ids.UniqueID()), nil, users), nil
}

func (s *Sandbox) addLoopback() error {
	if err := s.network.CreateNICWithOptions(loopbackNIC, loopback.New(), stack.NICOptions{Name: "lo"}); err != nil {
		return fmt.Errorf("network: %v", err)
	}
	for _, a := range []wire.Prefix{{IP: []byte{127, 0, 0, 1}, Bits: 8}, {IP: []byte{15: 1}, Bits: 128}} {
		if err := s.addAddress(loopbackNIC, a); err != nil {
			return err
		}
		s.network.AddRoute(tcpip.Route{Destination: prefix(a).Subnet(), NIC: loopbackNIC})
	}
	return nil
}

// takeNetwork takes over what was configured in the network namespace, as it is asked to. It returns the descriptors that it
// hasn't kept.
func (s *Sandbox) takeNetwork(r *wire.Request, fds []int) ([]int, error) {
	err := checkLinks(r.Links)
	sockets := fds
	if r.Resolver != nil && err == nil {
		if len(fds) == 0 {
			return fds, errors.New("no tun device")
		}
		sockets = fds[:len(fds)-1]
	}
	if err == nil {
		err = s.configure(r.Links, sockets)
	}
	if err != nil || r.Resolver == nil {
		return fds, err
	}
	return sockets, s.startResolver(*r.Resolver, fds[len(fds)-1])
}

// configure takes over what was configured in a network namespace of the host.
func (s *Sandbox) configure(links []wire.Link, sockets []int) error {
	if s.network == nil || s.root.running.Load() || s.configured.Swap(true) {
		return &fault.Error{Kind: fault.BadState, Err: errors.New("the network is configured already")}
	}
	for n, l := range links {
		id := tcpip.NICID(loopbackNIC)
		if !l.Loopback {
			if len(sockets) == 0 {
				return fmt.Errorf("interface %q: no socket", l.Name)
			}
			id = tcpip.NICID(loopbackNIC + 1 + n)
			if err := s.addNIC(id, &l, sockets[0]); err != nil {
				return fmt.Errorf("interface %q: %w", l.Name, err)
			}
			sockets = sockets[1:]
		}
		if err := s.addLink(id, &l); err != nil {
			return fmt.Errorf("interface %q: %w", l.Name, err)
		}
	}
	return nil
}

// drain waits until what the container's processes have sent is taken, as far as somebody takes it: their kernel, which on a
// host goes on without them, ends with them here.
func (s *Sandbox) drain() {
	const most, pause = 30 * time.Second, 3 * time.Second
	s.kernel.WaitExited() // so that all is closed
	begin := time.Now()
	last, sent := begin, uint64(0)
	for s.sending() {
		time.Sleep(time.Millisecond)
		now := time.Now()
		if n := s.network.Stats().TCP.SegmentsSent.Value(); n != sent {
			last, sent = now, n
		}
		if now.Sub(last) > pause || now.Sub(begin) > most {
			return
		}
	}
}

// sending tells whether a connection has something that isn't acknowledged: its processes have ended, and it ends by that. It is among those
// that are registered until its socket is released, and later among those that are cleaned up.
func (s *Sandbox) sending() bool {
	return slices.ContainsFunc(append(s.network.RegisteredEndpoints(), s.network.CleanupEndpoints()...), func(e stack.TransportEndpoint) bool {
		t, ok := e.(*tcp.Endpoint)
		return ok && slices.Contains([]tcp.EndpointState{
			tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck}, t.EndpointState())
	})
}

// addNIC adds a device whose packets a socket carries; that has been set up already, since the filter allows nothing but to
// send and to receive.
func (s *Sandbox) addNIC(id tcpip.NICID, l *wire.Link, socket int) error {
	fd, err := unix.FcntlInt(uintptr(socket), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	e, err := fdbased.New(&fdbased.Options{
		FDs:                  []int{fd},
		MTU:                  l.MTU,
		EthernetHeader:       true,
		Address:              tcpip.LinkAddress(l.Hardware),
		PacketDispatchMode:   fdbased.RecvMMsg,
		GSOMaxSize:           gsoSize,
		RXChecksumOffload:    true,
		IsPacketSocket:       []bool{true},
		PreConfigured:        true,
		ProcessorsPerChannel: runtime.NumCPU(),
	})
	if err != nil {
		return err
	}
	if err := s.network.CreateNICWithOptions(id, e, stack.NICOptions{Name: l.Name, QDisc: fifo.New(e, runtime.NumCPU(), queueLength), DeliverLinkPackets: true}); err != nil {
		return errors.New(err.String())
	}
	return nil
}

// addLink adds addresses and routes to a device.
func (s *Sandbox) addLink(id tcpip.NICID, l *wire.Link) error {
	for _, a := range l.Addresses {
		if err := s.addAddress(id, a); err != nil {
			return err
		}
	}
	if err := s.addLinkLocal(id, l); err != nil {
		return err
	}
	for _, r := range l.Routes {
		route := tcpip.Route{Destination: prefix(r.To).Subnet(), NIC: id}
		if len(r.Gateway) > 0 {
			route.Gateway = tcpip.AddrFromSlice(r.Gateway)
		}
		s.network.AddRoute(route)
	}
	for _, n := range l.Neighbours {
		if err := s.network.AddStaticNeighbor(id, protocol(n.IP), tcpip.AddrFromSlice(n.IP), tcpip.LinkAddress(n.Hardware)); err != nil {
			return fmt.Errorf("neighbour: %v", err)
		}
	}
	return nil
}

// addLinkLocal adds the address that each device with IPv6 has, if the host's kernel hadn't come to that yet.
func (s *Sandbox) addLinkLocal(id tcpip.NICID, l *wire.Link) error {
	v6 := slices.ContainsFunc(l.Addresses, func(a wire.Prefix) bool { return len(a.IP) == 16 })
	have := slices.ContainsFunc(l.Addresses, func(a wire.Prefix) bool { return len(a.IP) == 16 && a.IP[0] == 0xfe && a.IP[1]&0xc0 == 0x80 })
	if l.Loopback || !v6 || have {
		return nil
	}
	address := header.LinkLocalAddr(tcpip.LinkAddress(l.Hardware))
	return s.addAddress(id, wire.Prefix{IP: address.AsSlice(), Bits: 64})
}

func (s *Sandbox) addAddress(id tcpip.NICID, a wire.Prefix) error {
	err := s.network.AddProtocolAddress(id, tcpip.ProtocolAddress{Protocol: protocol(a.IP), AddressWithPrefix: prefix(a)}, stack.AddressProperties{})
	if _, have := err.(*tcpip.ErrDuplicateAddress); err != nil && !have {
		return fmt.Errorf("address: %v", err)
	}
	return nil
}

// checkLinks refuses addresses that are none: the stack would panic.
func checkLinks(links []wire.Link) error {
	address := func(ip []byte) bool { return len(ip) == 4 || len(ip) == 16 }
	for _, l := range links {
		for _, a := range l.Addresses {
			if !address(a.IP) || a.Bits < 0 || a.Bits > 8*len(a.IP) {
				return fmt.Errorf("interface %q: a malformed address", l.Name)
			}
		}
		for _, r := range l.Routes {
			if !address(r.To.IP) || r.To.Bits < 0 || r.To.Bits > 8*len(r.To.IP) || len(r.Gateway) != 0 && len(r.Gateway) != len(r.To.IP) {
				return fmt.Errorf("interface %q: a malformed route", l.Name)
			}
		}
		for _, n := range l.Neighbours {
			if !address(n.IP) {
				return fmt.Errorf("interface %q: a malformed neighbour", l.Name)
			}
		}
	}
	return nil
}

func prefix(p wire.Prefix) tcpip.AddressWithPrefix {
	return tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.IP), PrefixLen: p.Bits}
}

func protocol(ip []byte) tcpip.NetworkProtocolNumber {
	if len(ip) == 4 {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
