package natd

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// host is what the host's network looks like.
type host struct {
	conn               *netlink.Conn
	networks           []netip.Prefix // that have a route of their own
	own                []netip.Prefix // of these, what is the host itself, and its broadcasts
	out4               map[int32]bool // devices that IPv4 routes lead out by
	uplinks            map[int32]bool // devices of default routes
	default4, default6 bool
}

// routeProtocol marks the routes of hull's, which are those of other containers (rtnetlink(7), rtm_protocol).
const routeProtocol = 'h'

func readHost() (*host, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	h := &host{conn: conn, out4: make(map[int32]bool), uplinks: make(map[int32]bool)}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, unix.SizeofRtMsg)
		header[0] = family
		replies, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump},
			Data:   header,
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, m := range replies {
			if err := h.route(m.Data); err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
		}
	}
	return h, nil
}

// route notes one route. Those to the host's own addresses, of type local, are of interest as well.
func (h *host) route(p []byte) error {
	if len(p) < unix.SizeofRtMsg {
		return errShort
	}
	family, bits, protocol, typ := p[0], int(p[1]), p[5], p[7]
	if protocol == routeProtocol {
		return nil
	}
	ad, err := netlink.NewAttributeDecoder(p[unix.SizeofRtMsg:])
	if err != nil {
		return err
	}
	var to netip.Prefix
	var devices []int32
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_DST:
			if a, ok := netip.AddrFromSlice(ad.Bytes()); ok {
				to, _ = a.Prefix(bits)
			}
		case unix.RTA_OIF:
			devices = append(devices, int32(ad.Uint32()))
		case unix.RTA_MULTIPATH:
			devices = append(devices, nexthops(ad.Bytes())...)
		}
	}
	if typ == unix.RTN_UNICAST {
		for _, d := range devices {
			h.out4[d] = h.out4[d] || family == unix.AF_INET
			h.uplinks[d] = h.uplinks[d] || bits == 0
		}
	}
	if bits == 0 {
		if typ == unix.RTN_UNICAST {
			h.default4 = h.default4 || family == unix.AF_INET
			h.default6 = h.default6 || family == unix.AF_INET6
		}
		return ad.Err()
	}
	if to.IsValid() {
		h.networks = append(h.networks, to)
		switch typ {
		case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST:
			h.own = append(h.own, to)
		}
	}
	return ad.Err()
}

// nexthops returns the devices of a route that has several (struct rtnexthop).
func nexthops(p []byte) (devices []int32) {
	for len(p) >= unix.SizeofRtNexthop {
		devices = append(devices, int32(binary.NativeEndian.Uint32(p[4:])))
		size := (int(binary.NativeEndian.Uint16(p)) + 3) &^ 3
		if size < unix.SizeofRtNexthop || size > len(p) {
			break
		}
		p = p[size:]
	}
	return devices
}

// overlaps tells whether the host uses addresses of a network, and which network of its own they are in.
func (h *host) overlaps(net netip.Prefix) (netip.Prefix, bool) {
	for _, n := range h.networks {
		if n.Overlaps(net) {
			return n, true
		}
	}
	return netip.Prefix{}, false
}

// isLocal asks the kernel whether an address is one of the host's own. Also one that no packet can be sent to is.
func (h *host) isLocal(a netip.Addr) bool {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = unix.AF_INET, 32
	if a.Is6() {
		header[0], header[1] = unix.AF_INET6, 128
	}
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, a.AsSlice())
	attrs, err := ae.Encode()
	if err != nil {
		return true
	}
	replies, err := h.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
		Data:   append(header, attrs...),
	})
	if err != nil || len(replies) == 0 || len(replies[0].Data) < unix.SizeofRtMsg {
		// Without a route nothing is reached: the socket will say why.
		return false
	}
	switch replies[0].Data[7] {
	case unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		return false
	}
	return true
}

var errShort = fmt.Errorf("a netlink message is too short")

// links configures devices of another network namespace over a socket that was opened there.
type links struct{ conn *netlink.Conn }

func (l links) change(typ netlink.HeaderType, flags netlink.HeaderFlags, header []byte, attrs func(*netlink.AttributeEncoder)) error {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	p, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = l.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(header, p...),
	})
	return err
}

func linkHeader(index int32, flags, mask uint32) []byte {
	h := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], mask)
	return h
}

// get returns what the kernel has of a device: struct ifinfomsg, and attributes.
func (l links) get(index int32, name string) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	if name != "" {
		ae.String(unix.IFLA_IFNAME, name)
	}
	p, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	replies, err := l.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
		Data:   append(linkHeader(index, 0, 0), p...),
	})
	if err != nil {
		return nil, err
	}
	if len(replies) != 1 || len(replies[0].Data) < unix.SizeofIfInfomsg {
		return nil, errShort
	}
	return replies[0].Data, nil
}

// index returns the index of a device.
func (l links) index(name string) (int32, error) {
	p, err := l.get(0, name)
	if err != nil {
		return 0, err
	}
	return int32(binary.NativeEndian.Uint32(p[4:])), nil
}

// mtu returns a device's, or 0.
func (l links) mtu(index int32) uint32 {
	p, err := l.get(index, "")
	if err != nil {
		return 0
	}
	ad, err := netlink.NewAttributeDecoder(p[unix.SizeofIfInfomsg:])
	if err != nil {
		return 0
	}
	for ad.Next() {
		if ad.Type() == unix.IFLA_MTU {
			return ad.Uint32()
		}
	}
	return 0
}

func (l links) set(index int32, flags uint32, attrs func(*netlink.AttributeEncoder)) error {
	return l.change(unix.RTM_NEWLINK, 0, linkHeader(index, flags, flags), attrs)
}

// addAddress adds an address at once, without a look for others that have it: nobody else is on this link.
func (l links) addAddress(index int32, a netip.Addr, bits int) error {
	h := make([]byte, unix.SizeofIfAddrmsg)
	h[0], h[1] = family(a), byte(bits)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	return l.change(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, h, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.IFA_LOCAL, a.AsSlice())
		ae.Bytes(unix.IFA_ADDRESS, a.AsSlice())
		if a.Is6() {
			ae.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		}
	})
}

func (l links) addDefaultRoute(index int32, gateway netip.Addr) error {
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[4], h[5], h[6], h[7] = family(gateway), unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	return l.change(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, h, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
		ae.Uint32(unix.RTA_OIF, uint32(index))
	})
}

// addRoute has a device lead to a network. It is an error if the host has that route (EEXIST).
func (l links) addRoute(index int32, to netip.Prefix) error {
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[1], h[4], h[5], h[7] = family(to.Addr()), byte(to.Bits()), unix.RT_TABLE_MAIN, routeProtocol, unix.RTN_UNICAST
	if to.Addr().Is4() {
		h[6] = unix.RT_SCOPE_LINK
	}
	return l.change(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, h, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, to.Masked().Addr().AsSlice())
		ae.Uint32(unix.RTA_OIF, uint32(index))
	})
}

// addNeighbour gives an address on a device its hardware address.
func (l links) addNeighbour(index int32, a netip.Addr, mac [6]byte) error {
	h := make([]byte, unix.SizeofNdMsg)
	h[0] = family(a)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint16(h[8:], unix.NUD_PERMANENT)
	return l.change(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace, h, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.NDA_DST, a.AsSlice())
		ae.Bytes(unix.NDA_LLADDR, mac[:])
	})
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
