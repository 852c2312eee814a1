package network

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/qdisc/fifo"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"hull/internal/sandbox/wire"
)

// queueLength is how many packets wait for a device at most, as in Linux.
const queueLength = 1000

// gsoSize is the most that one packet of several TCP segments has: less than any device takes (include/linux/netdevice.h,
// GSO_LEGACY_MAX_SIZE), by what comes before it at the other end of a socket.
const gsoSize = 65536 - 136

// addNIC adds a device whose packets a socket carries; that has been set up already, since the filter allows nothing but to
// send and to receive.
func (n *Network) addNIC(id tcpip.NICID, l *wire.Link, socket int) error {
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
	if err := n.stack.CreateNICWithOptions(id, e, stack.NICOptions{Name: l.Name, QDisc: fifo.New(e, runtime.NumCPU(), queueLength), DeliverLinkPackets: true}); err != nil {
		return errors.New(err.String())
	}
	return nil
}

// addLink adds addresses and routes to a device.
func (n *Network) addLink(id tcpip.NICID, l *wire.Link) error {
	for _, a := range l.Addresses {
		if err := n.addAddress(id, a); err != nil {
			return err
		}
	}
	if err := n.addLinkLocal(id, l); err != nil {
		return err
	}
	for _, r := range l.Routes {
		route := tcpip.Route{Destination: prefix(r.To).Subnet(), NIC: id}
		if len(r.Gateway) > 0 {
			route.Gateway = tcpip.AddrFromSlice(r.Gateway)
		}
		n.stack.AddRoute(route)
	}
	for _, near := range l.Neighbours {
		if err := n.stack.AddStaticNeighbor(id, protocol(near.IP), tcpip.AddrFromSlice(near.IP), tcpip.LinkAddress(near.Hardware)); err != nil {
			return fmt.Errorf("neighbour: %v", err)
		}
	}
	return nil
}

// addLinkLocal adds the address that each device with IPv6 has, if the host's kernel hadn't come to that yet.
func (n *Network) addLinkLocal(id tcpip.NICID, l *wire.Link) error {
	v6 := slices.ContainsFunc(l.Addresses, func(a wire.Prefix) bool { return len(a.IP) == 16 })
	have := slices.ContainsFunc(l.Addresses, func(a wire.Prefix) bool { return len(a.IP) == 16 && a.IP[0] == 0xfe && a.IP[1]&0xc0 == 0x80 })
	if l.Loopback || !v6 || have {
		return nil
	}
	address := header.LinkLocalAddr(tcpip.LinkAddress(l.Hardware))
	return n.addAddress(id, wire.Prefix{IP: address.AsSlice(), Bits: 64})
}

func (n *Network) addAddress(id tcpip.NICID, a wire.Prefix) error {
	err := n.stack.AddProtocolAddress(id, tcpip.ProtocolAddress{Protocol: protocol(a.IP), AddressWithPrefix: prefix(a)}, stack.AddressProperties{})
	if _, have := err.(*tcpip.ErrDuplicateAddress); err != nil && !have {
		return fmt.Errorf("address: %v", err)
	}
	return nil
}

// CheckLinks refuses addresses that are none: the stack would panic.
func CheckLinks(links []wire.Link) error {
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
