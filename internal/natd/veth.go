package natd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"hull/internal/nft"
)

// veth is the way that packets take through the host's kernel, where the host forwards and nothing of it keeps them:
//
//	container                    host
//	eth0 (veth) ───────────────> hull0ad50102 ── gate ── forwarded ── masqueraded ──> uplink
//	hull0 (tap) ── hull-net: its resolver, published ports, and what is refused
//
// Its rules are in tables that end with the sockets of hull-net and of hull. Without them nothing passes: eth0 sends its
// frames to its own hardware address, as it does no ARP, so that the host takes them for somebody else's, and drops them,
// unless the gate says otherwise. The link is in the container's namespace and ends with it, and with the link its routes.
type veth struct {
	name  string // of the host's end
	index int32
	rules *nft.Conn
}

// secondDevice is the container's tap where a veth is its interface.
const secondDevice = "hull0"

// Where the veths' addresses are, in the first of these that nothing of the host's is in.
var pools4 = []string{"10.213.0.0/16", "172.29.0.0/16", "100.127.0.0/16", "198.18.0.0/16"}

// maxOwn bounds the routes to the host's own addresses.
const maxOwn = 256

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return slices.Clip(all)
}

// reserve has the container's packets go by a veth if they can, and takes addresses for it that no other container has.
// Otherwise they go by the tap.
func (d *daemon) reserve() {
	if len(d.cfg.Allow) > 0 {
		d.why = "an allow-list is kept by hull-net"
		return
	}
	if os.Geteuid() != 0 {
		d.why = "a veth needs root"
		return
	}
	if len(d.host.own) > maxOwn {
		d.why = "the host has too many addresses"
		return
	}
	veth4, why4 := d.host.forwards(unix.NFPROTO_IPV4)
	veth6, why6 := d.host.default6, ""
	if veth6 {
		veth6, why6 = d.host.forwards(unix.NFPROTO_IPV6)
	}
	switch {
	case why4 != "" && why6 != "":
		d.why = "IPv4: " + why4 + "; IPv6: " + why6
	case why4 != "":
		d.why = "IPv4: " + why4
	case why6 != "":
		d.why = "IPv6: " + why6
	}
	if !veth4 && !veth6 {
		return
	}
	if err := d.own(veth4, veth6); err != nil {
		d.why = err.Error()
	}
}

// own makes the tables, whose name is the address: two can't have the same.
func (d *daemon) own(veth4, veth6 bool) error {
	if other, used := d.host.overlaps(network6); veth6 && used {
		return fmt.Errorf("the host has the network %s", other)
	}
	pool, err := d.pool()
	if err != nil {
		return err
	}
	for range 16 {
		p := d.plan
		p.veth4, p.veth6 = veth4, veth6
		if veth4 && d.cfg.IP == "" {
			base := pool.Addr().As4()
			n := binary.BigEndian.Uint32(base[:]) + 4*rand.Uint32N(1<<(30-pool.Bits())) + 1
			binary.BigEndian.PutUint32(base[:], n)
			p.gateway4 = netip.AddrFrom4(base)
			p.ip4, p.bits4 = p.gateway4.Next(), 30
		}
		last := p.ip4.As4()
		if veth6 {
			a := p.ip6.As16()
			binary.BigEndian.PutUint64(a[8:], rand.Uint64()|1<<63) // not the gateway
			p.ip6 = netip.AddrFrom16(a)
			if !veth4 {
				last = [4]byte(a[12:])
			}
		}
		v := &veth{name: fmt.Sprintf("hull%x", last)}
		if v.rules, err = nft.Dial(); err != nil {
			return err
		}
		err = v.rules.Apply(v.tables(p))
		if err == nil {
			d.veth, d.plan = v, p
			return nil
		}
		v.rules.Close()
		if !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("nftables: a table with an owner (Linux 5.12): %w", err)
		}
		if d.cfg.IP != "" {
			return errors.New("another container has the address")
		}
	}
	return err
}

// pool chooses where the address is.
func (d *daemon) pool() (netip.Prefix, error) {
	servers := d.resolver.servers()
	for _, pool := range prefixes(pools4...) {
		_, used := d.host.overlaps(pool)
		if !used && !slices.ContainsFunc(servers, func(s netip.AddrPort) bool { return pool.Contains(s.Addr()) }) {
			return pool, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("the host has routes to all of %v", pools4)
}

// link makes the pair, one end of it in the container's namespace. When it fails, nothing of it is left.
func (v *veth) link(h *host, netns *os.File, p plan) error {
	l := links{h.conn}
	if err := l.addVeth(v.name, netns, h.pathMTU()); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	err := v.connect(l, p)
	if err == nil {
		err = v.routed(h, p)
	}
	if err != nil {
		_ = l.change(unix.RTM_DELLINK, 0, linkHeader(v.index, 0, 0), func(*netlink.AttributeEncoder) {})
	}
	return err
}

// connect has the host know what is at the other end.
func (v *veth) connect(l links, p plan) (err error) {
	if v.index, err = l.index(v.name); err != nil {
		return err
	}
	// The gate before the device is up.
	if err := v.rules.Apply(v.gate(p)); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	const genModeNone = 1 // IN6_ADDR_GEN_MODE_NONE: the host has no address on this link
	if err := l.set(v.index, unix.IFF_UP|unix.IFF_NOARP, func(ae *netlink.AttributeEncoder) {
		ae.Nested(unix.IFLA_AF_SPEC, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(unix.AF_INET6, func(ae *netlink.AttributeEncoder) error {
				ae.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, genModeNone)
				return nil
			})
			return nil
		})
	}); err != nil {
		return fmt.Errorf("%s up: %w", v.name, err)
	}
	for _, a := range []struct {
		addr netip.Addr
		use  bool
	}{{p.ip4, p.veth4}, {p.ip6, p.veth6}} {
		if !a.use {
			continue
		}
		if err := l.addNeighbour(v.index, a.addr, containerMAC); err != nil {
			return fmt.Errorf("%s: neighbour %s: %w", v.name, a.addr, err)
		}
		if err := l.addRoute(v.index, host32(a.addr)); err != nil {
			return fmt.Errorf("%s: route to %s: %w", v.name, a.addr, err)
		}
	}
	return nil
}

// routed asks the kernel where it would forward a packet of the container's to: rules of routing (`ip rule`) and filters of
// the source address may have another opinion of it than of a packet of the host's own.
func (v *veth) routed(h *host, p plan) error {
	for _, f := range []struct {
		use  bool
		from netip.Addr
		to   string // that is for documentation, and as far away as any
	}{{p.veth4 && h.default4, p.ip4, "192.0.2.1"}, {p.veth6 && h.default6, p.ip6, "2001:db8::1"}} {
		if !f.use {
			continue
		}
		to := netip.MustParseAddr(f.to)
		header := make([]byte, unix.SizeofRtMsg)
		header[0], header[1], header[2] = family(to), byte(to.BitLen()), byte(to.BitLen())
		ae := netlink.NewAttributeEncoder()
		ae.Bytes(unix.RTA_DST, to.AsSlice())
		ae.Bytes(unix.RTA_SRC, f.from.AsSlice())
		ae.Uint32(unix.RTA_IIF, uint32(v.index))
		attrs, err := ae.Encode()
		if err != nil {
			return err
		}
		replies, err := h.conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
			Data:   append(header, attrs...),
		})
		if err == nil && (len(replies) != 1 || len(replies[0].Data) < unix.SizeofRtMsg) {
			err = errShort
		}
		if err == nil && replies[0].Data[7] != unix.RTN_UNICAST {
			err = unix.EHOSTUNREACH
		}
		if err != nil {
			return fmt.Errorf("the host has no route for packets from %s: %w", f.from, err)
		}
	}
	return nil
}

// addVeth makes a pair of which one end is the container's device.
func (l links) addVeth(name string, netns *os.File, mtu uint32) error {
	const infoPeer = 1 // VETH_INFO_PEER, include/uapi/linux/veth.h
	return l.change(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, linkHeader(0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
		ae.Uint32(unix.IFLA_MTU, mtu)
		ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
			ae.String(unix.IFLA_INFO_KIND, "veth")
			ae.Nested(unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) error {
				ae.Do(infoPeer, func() ([]byte, error) {
					peer := netlink.NewAttributeEncoder()
					peer.String(unix.IFLA_IFNAME, device)
					peer.Uint32(unix.IFLA_MTU, mtu)
					peer.Bytes(unix.IFLA_ADDRESS, containerMAC[:])
					peer.Uint32(unix.IFLA_NET_NS_FD, uint32(netns.Fd()))
					p, err := peer.Encode()
					return append(linkHeader(0, 0, 0), p...), err
				})
				return nil
			})
			return nil
		})
	})
}

// addRoutes has a device lead to networks of the family that the first has: those given, and of others those that they
// don't contain.
func (l links) addRoutes(index int32, to, others []netip.Prefix) error {
	is4 := to[0].Addr().Is4()
	all := to
	for _, o := range others {
		if o.Addr().Is4() == is4 && !slices.ContainsFunc(to, func(p netip.Prefix) bool { return p.Overlaps(o) && p.Bits() <= o.Bits() }) {
			all = append(all, o)
		}
	}
	for _, p := range all {
		if err := l.addRoute(index, p); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// awaitCarrier waits until a device sends: the kernel says so to itself by a worker, and drops what is sent before.
func (l links) awaitCarrier(name string) error {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		p, err := l.get(0, name)
		if err != nil {
			return err
		}
		if binary.NativeEndian.Uint32(p[8:])&unix.IFF_RUNNING != 0 {
			return nil
		}
		if time.Now().After(end) {
			return errors.New(name + " has no carrier")
		}
	}
}

// giveUp has everything go by the tap.
func (d *daemon) giveUp(why string) {
	d.veth.rules.Close()
	d.veth, d.why = nil, why
	d.plan.veth4, d.plan.veth6 = false, false
}

// outlive waits, after hull has ended without a word, until the container's namespace is gone and the link with it: the
// rules have to be there for as long as somebody could use it. The container ends with hull; who entered the namespace
// from outside finds that nothing passes any more.
func (d *daemon) outlive() {
	if d.veth == nil || d.veth.index == 0 {
		return
	}
	// These would keep the namespace.
	if d.diag != nil {
		d.diag.Close()
	}
	if d.stack != nil {
		d.stack.link.Close()
	}
	const most = 2 * time.Second
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := (links{d.host.conn}).get(d.veth.index, ""); err != nil {
			return
		}
	}
}

// unsent is how many bytes the container's kernel still has to send for it, or to have acknowledged (sock_diag(7)).
func (d *daemon) unsent() (sum int64) {
	if d.diag == nil || d.veth == nil {
		return 0
	}
	const (
		sizeofRequest = 56 // struct inet_diag_req_v2, include/uapi/linux/inet_diag.h
		sizeofMessage = 72 // struct inet_diag_msg
		wqueue        = 60
		closing       = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING
	)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, sizeofRequest)
		request[0], request[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(request[4:], closing)
		replies, err := d.diag.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
			Data:   request,
		})
		if err != nil {
			continue
		}
		for _, m := range replies {
			if len(m.Data) >= sizeofMessage {
				sum += int64(binary.NativeEndian.Uint32(m.Data[wqueue:]))
			}
		}
	}
	return sum
}
