package natd

import (
	"fmt"
	"net/netip"
	"slices"
)

// The networks that are tried in turn, until one is free of what the host reaches. Many containers may have the same: no
// other sees it.
var networks4 = []string{"10.213.7.0/30", "172.29.213.0/30", "192.168.213.0/30", "100.127.213.0/30", "198.19.213.0/30"}

// network6 is a unique local network (RFC 4193).
var network6 = netip.MustParsePrefix("fd68:756c:6c6e:6574::/64")

// makePlan chooses addresses that hide nothing the container may want to reach: no network of the host's, no name server.
// ip is what the caller wants, or "".
func makePlan(h *host, ip string, servers []netip.AddrPort) (plan, error) {
	var p plan
	if ip != "" {
		a, err := netip.ParseAddr(ip)
		if err != nil || !a.Is4() {
			return p, fmt.Errorf("ip %q: not an IPv4 address", ip)
		}
		net := around(a)
		if other, used := h.overlaps(net); used {
			return p, fmt.Errorf("ip %s: already used: the host has the network %s", ip, other)
		}
		p.ip4, p.gateway4, p.bits4 = a, neighbour(a, net), net.Bits()
	} else {
		for _, s := range networks4 {
			net := netip.MustParsePrefix(s)
			if _, used := h.overlaps(net); used || slices.ContainsFunc(servers, func(a netip.AddrPort) bool { return net.Contains(a.Addr()) }) {
				continue
			}
			p.gateway4 = net.Addr().Next()
			p.ip4, p.bits4 = p.gateway4.Next(), net.Bits()
			break
		}
		if !p.ip4.IsValid() {
			return p, fmt.Errorf("the host has routes to all of %v: choose an address by --ip", networks4)
		}
	}
	if h.default6 {
		p.gateway6 = network6.Addr().Next()
		p.ip6 = p.gateway6.Next()
	}
	if !h.default4 && !h.default6 {
		p.notes = append(p.notes, "the host has no default route (ip route): nothing is reached but the networks that it is in")
	}
	return p, nil
}

// around returns the smallest network with the address and another one for the gateway: of four addresses, or of two
// (RFC 3021) where the address would be the first or the last of four.
func around(a netip.Addr) netip.Prefix {
	bits := 30
	if last := a.As4()[3] & 3; last == 0 || last == 3 {
		bits = 31
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// neighbour returns the other address of the network around a.
func neighbour(a netip.Addr, net netip.Prefix) netip.Addr {
	if prev := a.Prev(); net.Contains(prev) && (net.Bits() == 31 || prev != net.Addr()) {
		return prev
	}
	return a.Next()
}
