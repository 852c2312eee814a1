package netdev

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// requestTimeout bounds a request to the kernel, which may have to wait for the lock that all network configuration of
// the host shares.
const requestTimeout = 10 * time.Second

// Attributes of addresses that x/sys lacks: include/uapi/linux/if_addr.h.
const ifaProto = 11 // IFA_PROTO, Linux 5.18

// namespace is a network namespace with an rtnetlink(7) socket in it.
type namespace struct {
	file *os.File // the caller's
	conn *netlink.Conn
}

// open opens a socket in the namespace that file is.
func open(file *os.File) (*namespace, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(file.Fd()), Strict: true})
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", kernelWord(err))
	}
	return &namespace{file, conn}, nil
}

func (n *namespace) close() {
	if n != nil && n.conn != nil {
		n.conn.Close()
		n.conn = nil
	}
}

// request sends a message with a fixed header and attributes, and returns the replies.
func (n *namespace) request(typ netlink.HeaderType, flags netlink.HeaderFlags, header []byte, attrs []netlink.Attribute) ([]netlink.Message, error) {
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	if err := n.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, kernelWord(err)
	}
	replies, err := n.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | flags},
		Data:   append(header, body...),
	})
	return replies, kernelWord(err)
}

// kernelWord leaves of an error of package netlink the errno and what the kernel adds to it in its extended
// acknowledgement.
func kernelWord(err error) error {
	var op *netlink.OpError
	if !errors.As(err, &op) {
		return err
	}
	if op.Message != "" {
		return fmt.Errorf("%s: %w", op.Message, op.Err)
	}
	return op.Err
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

func nameAttribute(name string) netlink.Attribute {
	return netlink.Attribute{Type: unix.IFLA_IFNAME, Data: append([]byte(name), 0)}
}

// linkByName returns the device with that name. None is ENODEV.
func (n *namespace) linkByName(name string) (link, error) {
	replies, err := n.request(unix.RTM_GETLINK, 0, linkHeader(0, 0, 0), []netlink.Attribute{nameAttribute(name)})
	if err != nil {
		return link{}, err
	}
	if len(replies) != 1 || len(replies[0].Data) < unix.SizeofIfInfomsg {
		return link{}, errReply
	}
	h := replies[0].Data
	return link{int32(binary.NativeEndian.Uint32(h[4:])), binary.NativeEndian.Uint32(h[8:])}, nil
}

var errReply = errors.New("a netlink reply of an unknown form")

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
	_, err := n.request(unix.RTM_SETLINK, netlink.Acknowledge, linkHeader(index, 0, 0), []netlink.Attribute{
		nameAttribute(name),
		{Type: unix.IFLA_NET_NS_FD, Data: fd},
	})
	return err
}

// rename renames a device that is down. A name with %d gets a number that is free.
func (n *namespace) rename(index int32, name string) error {
	_, err := n.request(unix.RTM_SETLINK, netlink.Acknowledge, linkHeader(index, 0, 0), []netlink.Attribute{nameAttribute(name)})
	return err
}

func (n *namespace) up(index int32) error {
	_, err := n.request(unix.RTM_SETLINK, netlink.Acknowledge, linkHeader(index, unix.IFF_UP, unix.IFF_UP), nil)
	return err
}

// address is what the kernel tells of an address: struct ifaddrmsg and attributes.
type address struct {
	family, prefix, scope byte
	flags                 uint32
	attributes            []netlink.Attribute
}

// addresses returns the permanent addresses of a device, in the order in which they must be added to stand in the same
// order again: the kernel puts a new IPv4 address behind the others, and a new IPv6 address before them.
func (n *namespace) addresses(index int32) ([]address, error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	// A list that changed while the kernel wrote it may lack some.
	for range 10 {
		replies, err := n.request(unix.RTM_GETADDR, netlink.Dump, header, nil)
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

func parseAddresses(replies []netlink.Message, index int32) (found []address, interrupted bool, err error) {
	for _, r := range replies {
		if r.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			return nil, true, nil
		}
		if r.Header.Type != unix.RTM_NEWADDR {
			continue
		}
		a, on, err := parseAddress(r.Data)
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
	if a.attributes, err = netlink.UnmarshalAttributes(p[unix.SizeofIfAddrmsg:]); err != nil {
		return a, 0, err
	}
	for _, at := range a.attributes {
		if at.Type == unix.IFA_FLAGS && len(at.Data) >= 4 {
			a.flags = binary.NativeEndian.Uint32(at.Data) // the header has room for the first eight only
		}
	}
	return a, index, nil
}

// global tells whether the address is valid beyond the host and the link (RFC 3549, section 2.3.3.2).
func (a address) global() bool { return a.scope == unix.RT_SCOPE_UNIVERSE }

// String returns the address as ip(8) shows it.
func (a address) String() string {
	var local []byte
	for _, at := range a.attributes {
		// IFA_LOCAL where there is one: IFA_ADDRESS is the other end of a point-to-point link then.
		if at.Type == unix.IFA_LOCAL || at.Type == unix.IFA_ADDRESS && local == nil {
			local = at.Data
		}
	}
	ip, _ := netip.AddrFromSlice(local)
	return fmt.Sprintf("%s/%d", ip, a.prefix)
}

// addAddress adds an address that another device had. What is left out is its label, which begins with that device's
// name, and its lifetime, which for a permanent address is unlimited.
func (n *namespace) addAddress(index int32, a address) error {
	header := make([]byte, unix.SizeofIfAddrmsg)
	header[0], header[1], header[3] = a.family, a.prefix, a.scope
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	_, err := n.request(unix.RTM_NEWADDR, netlink.Acknowledge|netlink.Create|netlink.Excl, header, a.lasting())
	return err
}

// lasting returns the attributes that are the address's own: not what the kernel says of its present state.
func (a address) lasting() []netlink.Attribute {
	const settable = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN
	keep := []netlink.Attribute{{Type: unix.IFA_FLAGS, Data: binary.NativeEndian.AppendUint32(nil, a.flags&settable)}}
	for _, at := range a.attributes {
		switch at.Type {
		case unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST, unix.IFA_RT_PRIORITY, ifaProto:
			keep = append(keep, netlink.Attribute{Type: at.Type, Data: at.Data})
		}
	}
	return keep
}
