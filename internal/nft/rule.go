package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Rule is expressions, which are evaluated in turn until one doesn't match. A value goes from one to the next by way of
// the one register that these use.
type Rule []expression

type expression struct {
	name  string
	attrs func(*netlink.AttributeEncoder)
}

func (r Rule) encode(ae *netlink.AttributeEncoder) error {
	for _, e := range r {
		ae.Nested(unix.NFTA_LIST_ELEM, func(ae *netlink.AttributeEncoder) error {
			ae.String(unix.NFTA_EXPR_NAME, e.name)
			ae.Nested(unix.NFTA_EXPR_DATA, func(ae *netlink.AttributeEncoder) error {
				if e.attrs != nil {
					e.attrs(ae)
				}
				return nil
			})
			return nil
		})
	}
	return nil
}

// Then returns the rule with what follows.
func (r Rule) Then(more ...Rule) Rule {
	all := append(Rule(nil), r...)
	for _, m := range more {
		all = append(all, m...)
	}
	return all
}

func value(ae *netlink.AttributeEncoder, typ uint16, p []byte) {
	ae.Nested(typ, func(ae *netlink.AttributeEncoder) error {
		ae.Bytes(unix.NFTA_DATA_VALUE, p)
		return nil
	})
}

func compare(op uint32, p []byte) expression {
	return expression{"cmp", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_CMP_OP, op)
		value(ae, unix.NFTA_CMP_DATA, p)
	}}
}

func meta(key uint32) expression {
	return expression{"meta", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_META_DREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_META_KEY, key)
	}}
}

// mask leaves those bits that mask has.
func mask(p []byte) expression {
	return expression{"bitwise", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_BITWISE_LEN, uint32(len(p)))
		value(ae, unix.NFTA_BITWISE_MASK, p)
		value(ae, unix.NFTA_BITWISE_XOR, make([]byte, len(p)))
	}}
}

func device(key uint32, name string) Rule {
	p := make([]byte, unix.IFNAMSIZ)
	copy(p, name)
	return Rule{meta(key), compare(unix.NFT_CMP_EQ, p)}
}

// From matches packets that have come in by a device, To those that go out by one.
func From(name string) Rule { return device(unix.NFT_META_IIFNAME, name) }

// To is From's counterpart.
func To(name string) Rule { return device(unix.NFT_META_OIFNAME, name) }

// Protocol matches packets of an Ethernet protocol, Transport those that carry a protocol of IP's.
func Protocol(ethertype uint16) Rule {
	return Rule{meta(unix.NFT_META_PROTOCOL), compare(unix.NFT_CMP_EQ, binary.BigEndian.AppendUint16(nil, ethertype))}
}

// Transport is for a packet of which Protocol has matched, or in an inet table.
func Transport(proto byte) Rule {
	return Rule{meta(unix.NFT_META_L4PROTO), compare(unix.NFT_CMP_EQ, []byte{proto})}
}

// addresses has the offset and the length of an address in the header of its family.
func address(prefix netip.Prefix, offset4, offset6 uint32) Rule {
	a := prefix.Masked().Addr()
	offset := offset4
	if a.Is6() {
		offset = offset6
	}
	load := expression{"payload", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
		ae.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
		ae.Uint32(unix.NFTA_PAYLOAD_LEN, uint32(a.BitLen()/8))
	}}
	r := Rule{load}
	if prefix.Bits() < a.BitLen() {
		bits := make([]byte, a.BitLen()/8)
		for i := range prefix.Bits() {
			bits[i/8] |= 0x80 >> (i % 8)
		}
		r = append(r, mask(bits))
	}
	return append(r, compare(unix.NFT_CMP_EQ, a.AsSlice()))
}

// Source matches packets with a source address in a prefix; Protocol must have matched its family.
func Source(p netip.Prefix) Rule { return address(p, 12, 8) }

// Destination is Source's counterpart.
func Destination(p netip.Prefix) Rule { return address(p, 16, 24) }

// DestinationType matches packets whose destination is of a type of route (RTN_…) on this host.
func DestinationType(typ uint32) Rule {
	return Rule{{"fib", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_FIB_DREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		ae.Uint32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)
	}}, compare(unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, typ))}
}

// States of a connection: the bits of NF_CT_STATE_BIT, include/uapi/linux/netfilter/nf_conntrack_common.h.
const (
	Invalid     = 1 << 0
	Established = 1 << 1
	Related     = 1 << 2
	New         = 1 << 3
	Untracked   = 1 << 6
)

// State matches packets of connections in one of the states.
func State(states uint32) Rule {
	return Rule{{"ct", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
	}}, mask(binary.NativeEndian.AppendUint32(nil, states)), compare(unix.NFT_CMP_NEQ, make([]byte, 4))}
}

// ForUs has the kernel take a packet although its frame is for another hardware address.
func ForUs() Rule {
	const packetHost = 0
	return Rule{
		{"immediate", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1)
			value(ae, unix.NFTA_IMMEDIATE_DATA, []byte{packetHost})
		}},
		{"meta", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NFTA_META_KEY, unix.NFT_META_PKTTYPE)
			ae.Uint32(unix.NFTA_META_SREG, unix.NFT_REG_1)
		}},
	}
}

// Masquerade gives a connection the address of the device that it goes out by.
func Masquerade() Rule { return Rule{{"masq", nil}} }

const (
	verdictDrop   = 0 // NF_DROP
	verdictAccept = 1 // NF_ACCEPT
)

func verdict(code int32, chain string) Rule {
	return Rule{{"immediate", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		ae.Nested(unix.NFTA_IMMEDIATE_DATA, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(unix.NFTA_DATA_VERDICT, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					ae.String(unix.NFTA_VERDICT_CHAIN, chain)
				}
				return nil
			})
			return nil
		})
	}}}
}

// Accept ends the chain for a packet.
func Accept() Rule { return verdict(verdictAccept, "") }

// Drop ends the packet.
func Drop() Rule { return verdict(verdictDrop, "") }

// Goto goes on with another chain.
func Goto(chain string) Rule { return verdict(unix.NFT_GOTO, chain) }
