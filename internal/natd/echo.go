package natd

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	echoTimeout = 10 * time.Second
	// maxEchoes bounds echo requests that wait for a reply.
	maxEchoes = 256
)

// echo passes ICMP echo requests on, by sockets that the kernel gives to the groups in net.ipv4.ping_group_range
// (icmp(7)). Without them there is no reply.
type echo struct{ waiting atomic.Int32 }

// handle takes an echo request that is not for the gateway. For that one the stack answers itself.
func (e *echo) handle(g *gateway, id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	to, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	from, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	if to == g.plan.gateway4 || to == g.plan.gateway6 || !to.IsValid() {
		return false
	}
	v := pkt.ToView()
	defer v.Release()
	network := len(pkt.NetworkHeader().Slice())
	message := append([]byte(nil), v.AsSlice()[min(network, v.Size()):]...)
	if len(message) < header.ICMPv4MinimumSize {
		return true
	}
	request := byte(header.ICMPv4Echo)
	if to.Is6() {
		request = byte(header.ICMPv6EchoRequest)
	}
	if message[0] != request || message[1] != 0 {
		return false
	}
	if !g.policy.permit("icmp", netip.AddrPortFrom(to, 0)) || e.waiting.Load() >= maxEchoes {
		return true
	}
	e.waiting.Add(1)
	go func() {
		defer e.waiting.Add(-1)
		if answer := ping(to, message); answer != nil {
			binary.BigEndian.PutUint16(answer[4:], binary.BigEndian.Uint16(message[4:])) // the container's identifier
			g.echoReply(to, from, answer)
		}
	}()
	return true
}

// ping sends an echo request and returns the reply, or nil.
func ping(to netip.Addr, message []byte) []byte {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(to.AsSlice()[:4])}
	if to.Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		sa = &unix.SockaddrInet6{Addr: to.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return nil
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()
	_ = f.SetDeadline(time.Now().Add(echoTimeout))
	if _, err := f.Write(message); err != nil {
		return nil
	}
	answer := make([]byte, mtu)
	n, err := f.Read(answer)
	if err != nil || n < header.ICMPv4MinimumSize {
		return nil
	}
	return answer[:n]
}

// echoReply gives the container a reply in a packet of our own.
func (g *gateway) echoReply(from, to netip.Addr, message []byte) {
	src, dst := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice())
	const ttl = 64
	if from.Is4() {
		p := make([]byte, header.IPv4MinimumSize+len(message))
		ip := header.IPv4(p)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), TTL: ttl, Protocol: uint8(header.ICMPv4ProtocolNumber), SrcAddr: src, DstAddr: dst})
		ip.SetChecksum(^ip.CalculateChecksum())
		icmp := header.ICMPv4(p[header.IPv4MinimumSize:])
		copy(icmp, message)
		icmp.SetChecksum(0)
		icmp.SetChecksum(^checksum.Checksum(icmp, 0))
		g.link.writeIP(header.IPv4ProtocolNumber, p)
		return
	}
	p := make([]byte, header.IPv6MinimumSize+len(message))
	header.IPv6(p).Encode(&header.IPv6Fields{PayloadLength: uint16(len(message)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: ttl, SrcAddr: src, DstAddr: dst})
	icmp := header.ICMPv6(p[header.IPv6MinimumSize:])
	copy(icmp, message)
	icmp.SetChecksum(0)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: src, Dst: dst}))
	g.link.writeIP(header.IPv6ProtocolNumber, p)
}
