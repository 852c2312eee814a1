package natd

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"hull/internal/nft"
)

// What policy.allowed refuses whoever asks, beside the host itself. No connection of the host's would be forwarded there.
var (
	refused4 = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
	refused6 = prefixes("::/80", "fe80::/10", "ff00::/8") // ::/80 has those that stand for addresses of IPv4's
)

func host32(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// tables keeps the host and the container apart, before any other rule of the host's, and masquerades.
func (v *veth) tables(p plan) *nft.Batch {
	const first, mangle, srcnat = -500, -150, 100
	b := new(nft.Batch)
	t := b.Table(unix.NFPROTO_INET, v.tableName(p))
	t.Chain(nft.Chain{Name: "input", Type: "filter", Hook: unix.NF_INET_LOCAL_IN, Priority: first},
		nft.From(v.name).Then(nft.Drop()))
	// What the connection tracking doesn't know would not be masqueraded. Nobody connects to the container.
	t.Chain(nft.Chain{Name: "forward", Type: "filter", Hook: unix.NF_INET_FORWARD, Priority: first},
		nft.From(v.name).Then(nft.State(nft.Invalid|nft.Untracked), nft.Drop()),
		nft.To(v.name).Then(nft.State(nft.New|nft.Invalid|nft.Untracked), nft.Drop()))
	t.Chain(nft.Chain{Name: "output", Type: "filter", Hook: unix.NF_INET_LOCAL_OUT, Priority: mangle},
		nft.To(v.name).Then(nft.State(nft.New|nft.Invalid|nft.Untracked), nft.Drop()))
	var masquerade []nft.Rule
	if p.veth4 {
		masquerade = append(masquerade, family4.Then(nft.Source(host32(p.ip4)), nft.Masquerade()))
	}
	if p.veth6 {
		masquerade = append(masquerade, family6.Then(nft.Source(host32(p.ip6)), nft.Masquerade()))
	}
	t.Chain(nft.Chain{Name: "nat", Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Priority: srcnat}, masquerade...)
	return b
}

func (v *veth) tableName(p plan) string {
	if p.veth4 {
		return nft.Prefix + p.ip4.String()
	}
	return nft.Prefix + p.ip6.String()
}

var (
	family4 = nft.Protocol(unix.ETH_P_IP)
	family6 = nft.Protocol(unix.ETH_P_IPV6)
)

// gate lets in what may be forwarded: from the container's address, of the protocols that the tap has, and to what
// policy.allowed allows. It is asked before anything else is, a redirection of the host's among it.
func (v *veth) gate(p plan) *nft.Batch {
	b := new(nft.Batch)
	t := b.Table(unix.NFPROTO_NETDEV, v.tableName(p))
	var pass []nft.Rule
	for _, typ := range []uint32{unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT} { // see host.isLocal
		pass = append(pass, nft.DestinationType(typ).Then(nft.ForUs(), nft.Accept()))
	}
	t.Chain(nft.Chain{Name: "pass"}, append(pass, nft.Drop())...)
	var gate []nft.Rule
	for _, f := range []struct {
		name    string
		use     bool
		family  nft.Rule
		source  netip.Addr
		refused []netip.Prefix
		icmp    byte
	}{
		{"ip", p.veth4, family4, p.ip4, refused4, unix.IPPROTO_ICMP},
		{"ip6", p.veth6, family6, p.ip6, refused6, unix.IPPROTO_ICMPV6},
	} {
		if !f.use {
			continue
		}
		var rules []nft.Rule
		for _, r := range f.refused {
			rules = append(rules, nft.Destination(r).Then(nft.Drop()))
		}
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, f.icmp} {
			rules = append(rules, nft.Transport(proto).Then(nft.Goto("pass")))
		}
		t.Chain(nft.Chain{Name: f.name}, append(rules, nft.Drop())...)
		gate = append(gate, f.family.Then(nft.Source(host32(f.source)), nft.Goto(f.name)))
	}
	t.Chain(nft.Chain{Name: "gate", Type: "filter", Hook: unix.NF_NETDEV_INGRESS, Device: v.name, Drop: true}, gate...)
	return b
}
