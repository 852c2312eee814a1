// Package nft makes an nftables table that ends with its owner, and tells what other tables may do to a packet.
//
// A table with the flag owner (Linux 5.12) belongs to the netlink socket that made it. Nobody else can change it, `nft flush
// ruleset` passes over it, and the kernel removes it with all that is in it when the last descriptor of the socket is
// closed, however that happens. So the descriptor is passed to whoever has to live for the rules to stay.
package nft

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// flagOwner is NFT_TABLE_F_OWNER of include/uapi/linux/netfilter/nf_tables.h, Linux 5.12, which x/sys lacks.
const flagOwner = 2

// patience bounds the wait for the kernel, which answers at once but when another has a large ruleset replaced.
const patience = 10 * time.Second

// Prefix begins the name of each table that hull owns.
const Prefix = "hull-"

// Conn is a socket of nfnetlink, and the owner of the tables that are made by it.
type Conn struct{ *netlink.Conn }

// Dial opens one in the network namespace of the process.
func Dial() (*Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	return &Conn{c}, c.SetDeadline(time.Now().Add(patience))
}

// File returns another descriptor of the socket.
func (c *Conn) File() (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(s uintptr) { fd, dupErr = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", dupErr)
	}
	return os.NewFile(uintptr(fd), "nftables"), nil
}

// A Batch is a transaction: all of it is done, or nothing.
type Batch struct {
	messages []netlink.Message
	err      error
}

// A Chain is where rules are: a base chain if it has a Type, else one to jump to.
type Chain struct {
	Name     string
	Type     string // "filter" or "nat"
	Hook     uint32 // NF_INET_… or NF_NETDEV_…
	Device   string // of a hook of the family netdev
	Priority int32
	Drop     bool // what no rule takes
}

// A Table is one that the batch makes. It is the owner's.
type Table struct {
	batch  *Batch
	family byte
	name   string
}

// Table makes a table, which must not be there (EEXIST).
func (b *Batch) Table(family byte, name string) *Table {
	t := &Table{b, family, name}
	b.add(family, unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, name)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, flagOwner)
	})
	return t
}

// Chain makes a chain with rules.
func (t *Table) Chain(c Chain, rules ...Rule) {
	t.batch.add(t.family, unix.NFT_MSG_NEWCHAIN, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, t.name)
		ae.String(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Type == "" {
			return
		}
		ae.String(unix.NFTA_CHAIN_TYPE, c.Type)
		ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, c.Hook)
			ae.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
			if c.Device != "" {
				ae.String(unix.NFTA_HOOK_DEV, c.Device)
			}
			return nil
		})
		policy := uint32(verdictAccept)
		if c.Drop {
			policy = verdictDrop
		}
		ae.Uint32(unix.NFTA_CHAIN_POLICY, policy)
	})
	for _, r := range rules {
		t.batch.add(t.family, unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_RULE_TABLE, t.name)
			ae.String(unix.NFTA_RULE_CHAIN, c.Name)
			ae.Nested(unix.NFTA_RULE_EXPRESSIONS, r.encode)
		})
	}
}

func (b *Batch) add(family byte, typ netlink.HeaderType, flags netlink.HeaderFlags, attrs func(*netlink.AttributeEncoder)) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	attrs(ae)
	p, err := ae.Encode()
	b.err = errors.Join(b.err, err)
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, p...), // struct nfgenmsg
	})
}

// Apply does a batch. After an error the socket is of no use: there may be more of them waiting.
func (c *Conn) Apply(b *Batch) error {
	if b.err != nil || len(b.messages) == 0 {
		return b.err
	}
	// An error is told whichever message it is about, and success where that was asked for: at the last.
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	marker := func(typ netlink.HeaderType) netlink.Message {
		// struct nfgenmsg; its resource id is the subsystem's, in network order
		return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request}, Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	}
	messages := append([]netlink.Message{marker(unix.NFNL_MSG_BATCH_BEGIN)}, b.messages...)
	if _, err := c.SendMessages(append(messages, marker(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	_, err := c.Receive()
	return err
}
