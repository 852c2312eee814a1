package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Obstacle says what of the host's rules may keep a packet of a family (NFPROTO_IPV4, NFPROTO_IPV6) from being forwarded,
// or send it elsewhere, or keeps the host's own programs from sending it; "" is nothing. What it doesn't know may. The
// tables of other owners that hull made are for their packets alone, and not looked at; nor is what packets for the host
// itself have to pass.
func (c *Conn) Obstacle(family byte) (string, error) {
	if why, err := legacy(family); why != "" || err != nil {
		return why, err
	}
	// Others may change their rules meanwhile; other networks of hull's often do.
	const attempts = 50
	for range attempts {
		why, err := c.obstacle(family)
		if err != errChanged {
			return why, err
		}
	}
	return "", errChanged
}

var (
	errChanged = errors.New("nftables' rules were changed while they were read")
	errShort   = errors.New("a message of nfnetlink is too short")
)

func (c *Conn) obstacle(family byte) (string, error) {
	bases, err := c.baseChains(family)
	if err != nil {
		return "", err
	}
	// After the chains: a table that is gone by now has no rules either.
	hull, err := c.hullTables()
	if err != nil {
		return "", err
	}
	rules := make(map[tableName]map[string][]hostRule)
	for _, b := range bases {
		if hull[b.table] {
			continue
		}
		if b.policy == verdictDrop {
			return fmt.Sprintf("the policy of nftables' %s is drop", b), nil
		}
		if rules[b.table] == nil {
			if rules[b.table], err = c.rules(b.table); err != nil {
				return "", err
			}
		}
		if what := find(rules[b.table], b.chain, nil); what != "" {
			return fmt.Sprintf("nftables' %s has a rule with %s", b, what), nil
		}
	}
	return "", nil
}

// legacy looks for tables of the iptables before nftables, which are listed while they are in use. What is in them can't
// be told from here.
func legacy(family byte) (string, error) {
	file, command := "/proc/self/net/ip_tables_names", "iptables"
	if family == unix.NFPROTO_IPV6 {
		file, command = "/proc/self/net/ip6_tables_names", "ip6tables"
	}
	names, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case len(names) == 0:
		return "", nil
	}
	return fmt.Sprintf("%s-legacy has tables: %s", command, strings.Join(strings.Fields(string(names)), ", ")), nil
}

type tableName struct {
	family byte
	name   string
}

type baseChain struct {
	table  tableName
	chain  string
	policy uint32
}

func (b baseChain) String() string {
	families := map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}
	return fmt.Sprintf("chain %s %s %s", families[b.table.family], b.table.name, b.chain)
}

// hostRule is the expressions of a rule as far as they are of interest here.
type hostRule struct {
	does string   // what may be an obstacle, or ""
	to   []string // chains that it goes on with
}

// dump lists objects of a type.
func (c *Conn) dump(typ netlink.HeaderType, family byte, attrs []byte, each func(family byte, ad *netlink.AttributeDecoder) error) error {
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
		return errChanged
	}
	if err != nil {
		return err
	}
	for _, m := range replies {
		if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			return errChanged
		}
		if len(m.Data) < 4 {
			return errShort
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		if err := errors.Join(each(m.Data[0], ad), ad.Err()); err != nil {
			return err
		}
	}
	return nil
}

// hullTables returns the tables that belong to other networks of hull's.
func (c *Conn) hullTables() (map[tableName]bool, error) {
	hull := make(map[tableName]bool)
	return hull, c.dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil, func(family byte, ad *netlink.AttributeDecoder) error {
		var name string
		var flags uint32
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				flags = ad.Uint32()
			}
		}
		if flags&flagOwner != 0 && strings.HasPrefix(name, Prefix) {
			hull[tableName{family, name}] = true
		}
		return nil
	})
}

// baseChains returns those that a packet of a family passes on its way from another device or from a program of the host.
func (c *Conn) baseChains(of byte) ([]baseChain, error) {
	var bases []baseChain
	return bases, c.dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil, func(family byte, ad *netlink.AttributeDecoder) error {
		b := baseChain{table: tableName{family: family}, policy: verdictAccept}
		hook := -1
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				b.table.name = ad.String()
			case unix.NFTA_CHAIN_NAME:
				b.chain = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				b.policy = ad.Uint32()
			case unix.NFTA_CHAIN_HOOK:
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == unix.NFTA_HOOK_HOOKNUM {
							hook = int(ad.Uint32())
						}
					}
					return nil
				})
			}
		}
		if family != of && family != unix.NFPROTO_INET {
			return nil
		}
		switch hook {
		case unix.NF_INET_PRE_ROUTING, unix.NF_INET_FORWARD, unix.NF_INET_LOCAL_OUT, unix.NF_INET_POST_ROUTING:
			bases = append(bases, b)
		}
		return nil
	})
}

// rules returns the rules of a table by their chains.
func (c *Conn) rules(t tableName) (map[string][]hostRule, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_RULE_TABLE, t.name)
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	chains := make(map[string][]hostRule)
	return chains, c.dump(unix.NFT_MSG_GETRULE, t.family, attrs, func(_ byte, ad *netlink.AttributeDecoder) error {
		var table, chain string
		var r hostRule
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(r.decode)
			}
		}
		if table == t.name {
			chains[chain] = append(chains[chain], r)
		}
		return nil
	})
}

func (r *hostRule) decode(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			var name string
			var data []byte
			for ad.Next() {
				switch ad.Type() {
				case unix.NFTA_EXPR_NAME:
					name = ad.String()
				case unix.NFTA_EXPR_DATA:
					data = ad.Bytes()
				}
			}
			return r.expression(name, data)
		})
	}
	return nil
}

// expression notes what an expression may do beside deciding whether the rule matches. An expression that changes a packet
// or what is known of it (a mark, which may choose another route) is an obstacle as well.
func (r *hostRule) expression(name string, data []byte) error {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	sets := func(sreg uint16) {
		for ad.Next() {
			if ad.Type() == sreg {
				r.does = name + " set"
			}
		}
	}
	switch name {
	case "cmp", "range", "bitwise", "byteorder", "fib", "socket", "hash", "numgen", "osf", "xfrm", "rt", "counter", "log", "masq":
	case "limit", "quota", "connlimit": // a match as well
	case "meta":
		sets(unix.NFTA_META_SREG)
	case "ct":
		sets(unix.NFTA_CT_SREG)
	case "payload":
		sets(unix.NFTA_PAYLOAD_SREG)
	case "exthdr":
		sets(unix.NFTA_EXTHDR_SREG)
	case "lookup":
		for ad.Next() {
			if ad.Type() == unix.NFTA_LOOKUP_DREG && ad.Uint32() == unix.NFT_REG_VERDICT {
				r.does = "a verdict map"
			}
		}
	case "immediate":
		for ad.Next() {
			if ad.Type() == unix.NFTA_IMMEDIATE_DATA {
				ad.Nested(r.verdict)
			}
		}
	default:
		r.does = name
	}
	return ad.Err()
}

func (r *hostRule) verdict(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() != unix.NFTA_DATA_VERDICT {
			continue
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			var code int32
			var chain string
			for ad.Next() {
				switch ad.Type() {
				case unix.NFTA_VERDICT_CODE:
					code = int32(ad.Uint32())
				case unix.NFTA_VERDICT_CHAIN:
					chain = ad.String()
				}
			}
			switch code {
			case verdictAccept, unix.NFT_RETURN, unix.NFT_CONTINUE, unix.NFT_BREAK:
			case unix.NFT_JUMP, unix.NFT_GOTO:
				r.to = append(r.to, chain)
			case verdictDrop:
				r.does = "drop"
			default:
				r.does = "a verdict"
			}
			return nil
		})
	}
	return nil
}

// find looks for an obstacle in a chain and those that it goes on with.
func find(chains map[string][]hostRule, chain string, seen map[string]bool) string {
	if seen == nil {
		seen = make(map[string]bool)
	}
	if seen[chain] {
		return ""
	}
	seen[chain] = true
	for _, r := range chains[chain] {
		if r.does != "" {
			return r.does
		}
		for _, to := range r.to {
			if what := find(chains, to, seen); what != "" {
				return what
			}
		}
	}
	return ""
}
