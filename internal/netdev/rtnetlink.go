package netdev

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes of addresses that x/sys lacks: include/uapi/linux/if_addr.h.
const ifaProto = 11 // IFA_PROTO, Linux 5.18

// namespace is a network namespace with an rtnetlink(7) socket in it.
type namespace struct {
	file *os.File // the caller's
	conn *conn
}

func (n *namespace) close() {
	if n != nil && n.conn != nil {
		n.conn.close()
		n.conn = nil
	}
}

func (n *namespace) change(typ uint16, flags uint16, header []byte, attrs ...attribute) error {
	_, err := n.conn.request(typ, unix.NLM_F_ACK|flags, header, attrs)
	return err
}

// link is a network device.
type link struct {
	index int32
	flags uint32
}

func (l link) up() bool { return l.flags&unix.IFF_UP != 0 }

// linkHeader returns a struct ifinfomsg that names a link by its index, or by attributes if that is 0, and changes the
// flags that mask has.
func linkHeader(index int32, flags, mask uint32) []byte {
	h := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], mask)
	return h
}

func nameAttribute(name string) attribute {
	return attribute{unix.IFLA_IFNAME, append([]byte(name), 0)}
}

// linkByName returns the device with that name. None is ENODEV.
func (n *namespace) linkByName(name string) (link, error) {
	replies, err := n.conn.request(unix.RTM_GETLINK, 0, linkHeader(0, 0, 0), []attribute{nameAttribute(name)})
	if err != nil {
		return link{}, err
	}
	if len(replies) != 1 || len(replies[0].data) < unix.SizeofIfInfomsg {
		return link{}, errReply
	}
	h := replies[0].data
	return link{int32(binary.NativeEndian.Uint32(h[4:])), binary.NativeEndian.Uint32(h[8:])}, nil
}

// has tells whether the namespace has a device of that name.
func (n *namespace) has(name string) (bool, error) {
	_, err := n.linkByName(name)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// moveLink moves a device to another namespace, where it has that name.
func (n *namespace) moveLink(index int32, name string, to *namespace) error {
	fd := binary.NativeEndian.AppendUint32(nil, uint32(to.file.Fd()))
	return n.change(unix.RTM_SETLINK, 0, linkHeader(index, 0, 0), nameAttribute(name), attribute{unix.IFLA_NET_NS_FD, fd})
}

// rename renames a device that is down. A name with %d gets a number that is free.
func (n *namespace) rename(index int32, name string) error {
	return n.change(unix.RTM_SETLINK, 0, linkHeader(index, 0, 0), nameAttribute(name))
}

func (n *namespace) up(index int32) error {
	return n.change(unix.RTM_SETLINK, 0, linkHeader(index, unix.IFF_UP, unix.IFF_UP))
}

// address is what the kernel tells of an address: struct ifaddrmsg and attributes.
type address struct {
	family, prefix, scope byte
	flags                 uint32
	attributes            []attribute
}

// addresses returns the permanent addresses of a device, in the order in which they must be added to stand in the same
// order again: the kernel puts a new IPv4 address behind the others, and a new IPv6 address before them.
func (n *namespace) addresses(index int32) ([]address, error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	// A list that changed while the kernel wrote it may lack some.
	for range 10 {
		replies, err := n.conn.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, header, nil)
		if err != nil {
			return nil, err
		}
		found, interrupted, err := parseAddresses(replies, index)
		if err != nil || !interrupted {
			return found, err
		}
	}
	return nil, errors.New("the addresses change all the time")
}

func parseAddresses(replies []message, index int32) (found []address, interrupted bool, err error) {
	for _, r := range replies {
		if r.flags&unix.NLM_F_DUMP_INTR != 0 {
			return nil, true, nil
		}
		if r.typ != unix.RTM_NEWADDR {
			continue
		}
		a, on, err := parseAddress(r.data)
		if err != nil {
			return nil, false, err
		}
		if on == index && a.flags&unix.IFA_F_PERMANENT != 0 {
			found = append(found, a)
		}
	}
	slices.SortStableFunc(found, func(a, b address) int { return cmp.Compare(a.family, b.family) })
	v6 := slices.IndexFunc(found, func(a address) bool { return a.family == unix.AF_INET6 })
	if v6 >= 0 {
		slices.Reverse(found[v6:])
	}
	return found, false, nil
}

func parseAddress(p []byte) (a address, index int32, err error) {
	if len(p) < unix.SizeofIfAddrmsg {
		return a, 0, errReply
	}
	a = address{family: p[0], prefix: p[1], flags: uint32(p[2]), scope: p[3]}
	index = int32(binary.NativeEndian.Uint32(p[4:]))
	if a.attributes, err = parseAttributes(p[unix.SizeofIfAddrmsg:]); err != nil {
		return a, 0, err
	}
	for _, at := range a.attributes {
		if at.typ == unix.IFA_FLAGS && len(at.data) >= 4 {
			a.flags = binary.NativeEndian.Uint32(at.data) // the header has room for the first eight only
		}
	}
	return a, index, nil
}

// global tells whether the address is valid beyond the host and the link (RFC 3549, section 2.3.3.2).
func (a address) global() bool { return a.scope == unix.RT_SCOPE_UNIVERSE }

// String returns the address with the length of its prefix.
func (a address) String() string {
	var local []byte
	for _, at := range a.attributes {
		// IFA_LOCAL where there is one: IFA_ADDRESS is the other end of a point-to-point link then.
		if at.typ == unix.IFA_LOCAL || at.typ == unix.IFA_ADDRESS && local == nil {
			local = at.data
		}
	}
	return fmt.Sprintf("%s/%d", formatIP(local), a.prefix)
}

// formatIP writes an address in full: package net/netip, which abbreviates them, costs every start of hull time.
func formatIP(ip []byte) string {
	var parts []string
	if len(ip) == 4 {
		for _, b := range ip {
			parts = append(parts, strconv.Itoa(int(b)))
		}
		return strings.Join(parts, ".")
	}
	for ; len(ip) > 1; ip = ip[2:] {
		parts = append(parts, strconv.FormatUint(uint64(binary.BigEndian.Uint16(ip)), 16))
	}
	return strings.Join(parts, ":")
}

// addAddress adds an address that another device had. What is left out is its label, which begins with that device's
// name, and its lifetime, which for a permanent address is unlimited.
func (n *namespace) addAddress(index int32, a address) error {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0], header[1], header[3] = a.family, a.prefix, a.scope
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	return n.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, header, a.lasting()...)
}

// lasting returns the attributes that are the address's own: not what the kernel says of its present state.
func (a address) lasting() []attribute {
	const settable = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN
	keep := []attribute{{unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, a.flags&settable)}}
	for _, at := range a.attributes {
		switch at.typ {
		case unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST, unix.IFA_RT_PRIORITY, ifaProto:
			keep = append(keep, at)
		}
	}
	return keep
}
