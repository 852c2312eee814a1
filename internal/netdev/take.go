package netdev

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// Interface is a device of a network namespace as somebody has configured it, for a TCP/IP stack that takes the kernel's
// place.
type Interface struct {
	Name       string
	Loopback   bool
	MTU        uint32
	Hardware   []byte // address; of no loopback
	Addresses  []Prefix
	Routes     []Route // those that apply first come first
	Neighbours []Neighbour
	// Socket receives and sends the device's packets (packet(7)), each behind a struct virtio_net_hdr: a sequence of TCP
	// segments may be one. Nil for the loopback.
	Socket *os.File

	index int32
}

// Prefix is an address with the length of its network's. An empty one is of none.
type Prefix struct {
	IP   []byte
	Bits int
}

// Route is a way to a network: by a gateway, if that isn't empty.
type Route struct {
	To      Prefix
	Gateway []byte

	metric uint32
}

// Neighbour is an entry that somebody has made, since nobody answers for the address.
type Neighbour struct{ IP, Hardware []byte }

// Taking is what was read of a namespace.
type Taking struct {
	Interfaces []Interface

	stub    *stub.Stub
	conn    *conn
	removed []removal
}

// removal is a request that takes an address or a route away.
type removal struct {
	typ        uint16
	header     []byte
	attributes []attribute
	what       string
}

// Take reads what is configured in a network namespace, and opens a socket for each device that is up. It changes nothing;
// Remove does.
func Take(netns *os.File, trace func(stub.Call)) (_ *Taking, err error) {
	t := &Taking{}
	defer func() {
		if err != nil {
			t.Close()
			err = &fault.Error{Step: "read the network namespace", Err: err}
		}
	}()
	if t.stub, err = stub.Start(stub.Config{Extra: []*os.File{netns}, Trace: trace}); err != nil {
		return nil, err
	}
	b := new(stub.Batch)
	b.In("linux.namespaces")
	b.Call(unix.SYS_SETNS, stub.Int(stub.FirstExtra), stub.Int(unix.CLONE_NEWNET))
	fd := b.Call(unix.SYS_SOCKET, stub.Int(unix.AF_NETLINK), stub.Int(unix.SOCK_RAW|unix.SOCK_CLOEXEC), stub.Int(unix.NETLINK_ROUTE))
	b.SendFDs(fd.Arg())
	files, err := t.open(b, 1)
	if err != nil {
		return nil, err
	}
	t.conn = &conn{file: files[0]}
	if err := t.conn.setOptions(); err != nil {
		return nil, err
	}
	for _, read := range []func() error{t.readLinks, t.readAddresses, t.readRoutes, t.readNeighbours, t.openSockets} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// open executes a batch that sends n descriptors.
func (t *Taking) open(b *stub.Batch, n int) ([]*os.File, error) {
	if err := t.stub.Do(b); err != nil {
		return nil, err
	}
	files := t.stub.Files()
	if len(files) != n {
		for _, f := range files {
			f.Close()
		}
		return nil, stub.ErrGone
	}
	return files, nil
}

// Close gives up what was opened.
func (t *Taking) Close() {
	if t.conn != nil {
		t.conn.close()
	}
	if t.stub != nil {
		t.stub.Kill()
	}
	for _, i := range t.Interfaces {
		if i.Socket != nil {
			i.Socket.Close()
		}
	}
}

// Remove takes the addresses and routes away: the kernel of the host must not answer, or forward, what comes for the stack
// that has taken them over.
func (t *Taking) Remove() error {
	// The kernel would make link-local addresses again, and may have made one meanwhile.
	for _, i := range t.Interfaces {
		if !i.Loopback {
			_, _ = t.conn.request(unix.RTM_SETLINK, unix.NLM_F_ACK, linkHeader(i.index, 0, 0), []attribute{noGeneratedAddresses()}) // without IPv6 there are none
		}
	}
	t.removed = nil
	if err := errors.Join(t.readAddresses(), t.readRoutes()); err != nil {
		return &fault.Error{Step: "read the network namespace", Err: err}
	}
	for _, r := range t.removed {
		_, err := t.conn.request(r.typ, unix.NLM_F_ACK, r.header, r.attributes)
		// A route goes with the address that it belongs to.
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return &fault.Error{Step: "take " + r.what + " from the host's kernel", Err: err}
		}
	}
	return nil
}

// noGeneratedAddresses is the attribute by which the kernel makes no IPv6 addresses of its own for a device.
func noGeneratedAddresses() attribute {
	const mode, none = 8, 1 // IFLA_INET6_ADDR_GEN_MODE and IN6_ADDR_GEN_MODE_NONE, include/uapi/linux/if_link.h
	return nested(unix.IFLA_AF_SPEC, nested(unix.AF_INET6, attribute{mode, []byte{none}}))
}

// nested is an attribute that is made of others.
func nested(typ uint16, inner attribute) attribute {
	size := unix.SizeofRtAttr + len(inner.data)
	p := binary.NativeEndian.AppendUint16(nil, uint16(size))
	p = binary.NativeEndian.AppendUint16(p, inner.typ)
	p = append(p, inner.data...)
	return attribute{typ, append(p, make([]byte, align(size)-size)...)}
}

// byIndex returns the interface with that index, or nil: one that is down, which is nobody's.
func (t *Taking) byIndex(index int32) *Interface {
	i := slices.IndexFunc(t.Interfaces, func(i Interface) bool { return i.index == index })
	if i < 0 {
		return nil
	}
	return &t.Interfaces[i]
}

// dump asks for a list. One that changed while the kernel wrote it may lack some.
func (t *Taking) dump(typ uint16, header []byte) ([]message, error) {
	for range 10 {
		replies, err := t.conn.request(typ, unix.NLM_F_DUMP, header, nil)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(replies, func(m message) bool { return m.flags&unix.NLM_F_DUMP_INTR != 0 }) {
			return replies, nil
		}
	}
	return nil, errors.New("the configuration changes all the time")
}

// split takes a message apart, into a header of that size and attributes by their types.
func (m message) split(size int) (header []byte, attributes map[uint16][]byte, err error) {
	if len(m.data) < size {
		return nil, nil, errReply
	}
	list, err := parseAttributes(m.data[size:])
	attributes = make(map[uint16][]byte, len(list))
	for _, a := range list {
		attributes[a.typ] = a.data
	}
	return m.data[:size], attributes, err
}

func number(p []byte) uint32 {
	if len(p) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(p)
}

func (t *Taking) readLinks() error {
	replies, err := t.dump(unix.RTM_GETLINK, linkHeader(0, 0, 0))
	for _, m := range replies {
		h, a, perr := m.split(unix.SizeofIfInfomsg)
		if perr != nil {
			return perr
		}
		flags := number(h[8:])
		if flags&unix.IFF_UP == 0 {
			continue
		}
		i := Interface{
			Name: unix.ByteSliceToString(a[unix.IFLA_IFNAME]), Loopback: flags&unix.IFF_LOOPBACK != 0, MTU: number(a[unix.IFLA_MTU]),
			Hardware: a[unix.IFLA_ADDRESS], index: int32(number(h[4:])),
		}
		if i.Name == tunName {
			return &fault.Error{Kind: fault.BadState, Err: errors.New("the kernel of another sandbox has taken the network over")}
		}
		if typ := binary.NativeEndian.Uint16(h[2:]); !i.Loopback && (typ != unix.ARPHRD_ETHER || len(i.Hardware) != 6) {
			return &fault.Error{Step: fmt.Sprintf("interface %q", i.Name), Kind: fault.Unsupported,
				Err: errors.New("not possible in sandbox isolation: its kernel takes over Ethernet devices, and this is another")}
		}
		t.Interfaces = append(t.Interfaces, i)
	}
	return err
}

func (t *Taking) readAddresses() error {
	replies, err := t.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg))
	for _, m := range replies {
		h, a, perr := m.split(unix.SizeofIfAddrmsg)
		if perr != nil {
			return perr
		}
		i := t.byIndex(int32(number(h[4:])))
		if i == nil {
			continue
		}
		ip := a[unix.IFA_LOCAL]
		if ip == nil {
			ip = a[unix.IFA_ADDRESS]
		}
		if len(ip) != 4 && len(ip) != 16 || int(h[1]) > 8*len(ip) {
			return errReply
		}
		i.Addresses = append(i.Addresses, Prefix{ip, int(h[1])})
		if i.Loopback {
			continue
		}
		header := make([]byte, unix.SizeofIfAddrmsg)
		header[0], header[1] = h[0], h[1]
		copy(header[4:], h[4:8])
		r := removal{typ: unix.RTM_DELADDR, header: header, what: "address " + formatIP(ip)}
		for _, typ := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
			if v, ok := a[typ]; ok {
				r.attributes = append(r.attributes, attribute{typ, v})
			}
		}
		t.removed = append(t.removed, r)
	}
	return err
}

// routeAttributes are those that name a route.
var routeAttributes = []uint16{unix.RTA_DST, unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_PRIORITY, unix.RTA_TABLE}

// readRoutes reads those of the main table; the kernel's own have others.
func (t *Taking) readRoutes() error {
	var routes []removal
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, unix.SizeofRtMsg)
		header[0] = family
		replies, err := t.dump(unix.RTM_GETROUTE, header)
		if err != nil {
			return err
		}
		for _, m := range replies {
			h, a, err := m.split(unix.SizeofRtMsg)
			if err != nil {
				return err
			}
			table := uint32(h[4])
			if v, ok := a[unix.RTA_TABLE]; ok {
				table = number(v)
			}
			if h[0] != family || table != unix.RT_TABLE_MAIN || number(h[8:])&unix.RTM_F_CLONED != 0 {
				continue
			}
			if err := t.addRoute(h, a); err != nil {
				return err
			}
			r := removal{typ: unix.RTM_DELROUTE, header: slices.Clone(h), what: "route to " + formatIP(a[unix.RTA_DST])}
			for _, typ := range routeAttributes {
				if v, ok := a[typ]; ok {
					r.attributes = append(r.attributes, attribute{typ, v})
				}
			}
			if i := t.byIndex(int32(number(a[unix.RTA_OIF]))); i != nil && !i.Loopback {
				routes = append(routes, r)
			}
		}
	}
	// Before the addresses, with which some of them go.
	t.removed = append(routes, t.removed...)
	for _, i := range t.Interfaces {
		slices.SortStableFunc(i.Routes, func(a, b Route) int { return cmp.Compare(a.metric, b.metric) })
	}
	return nil
}

// addRoute adds a route to its interface.
func (t *Taking) addRoute(h []byte, a map[uint16][]byte) error {
	to := Prefix{IP: a[unix.RTA_DST], Bits: int(h[1])}
	if to.IP == nil {
		to.IP = make([]byte, map[byte]int{unix.AF_INET: 4, unix.AF_INET6: 16}[h[0]])
	}
	refuse := func(why string) error {
		return &fault.Error{Step: fmt.Sprintf("route to %s/%d", formatIP(to.IP), to.Bits), Kind: fault.Unsupported, Err: errors.New("not possible in sandbox isolation: " + why)}
	}
	if len(to.IP) != 4 && len(to.IP) != 16 || to.Bits > 8*len(to.IP) {
		return errReply
	}
	switch h[7] {
	case unix.RTN_UNICAST:
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return refuse("routes that lead nowhere")
	default:
		return nil // local, multicast and the like, which its kernel knows by itself
	}
	if _, ok := a[unix.RTA_MULTIPATH]; ok {
		return refuse("routes by several gateways")
	}
	if _, ok := a[unix.RTA_VIA]; ok {
		return refuse("routes by a gateway of another address family")
	}
	gateway := a[unix.RTA_GATEWAY]
	if gateway != nil && len(gateway) != len(to.IP) {
		return errReply
	}
	if i := t.byIndex(int32(number(a[unix.RTA_OIF]))); i != nil {
		i.Routes = append(i.Routes, Route{To: to, Gateway: gateway, metric: number(a[unix.RTA_PRIORITY])})
	}
	return nil
}

func (t *Taking) readNeighbours() error {
	const size = 12 // struct ndmsg, include/uapi/linux/neighbour.h
	replies, err := t.dump(unix.RTM_GETNEIGH, make([]byte, size))
	for _, m := range replies {
		h, a, perr := m.split(size)
		if perr != nil {
			return perr
		}
		state := binary.NativeEndian.Uint16(h[8:])
		i := t.byIndex(int32(number(h[4:])))
		ip, hardware := a[unix.NDA_DST], a[unix.NDA_LLADDR]
		if i == nil || state&unix.NUD_PERMANENT == 0 || len(hardware) != 6 || len(ip) != 4 && len(ip) != 16 {
			continue
		}
		i.Neighbours = append(i.Neighbours, Neighbour{ip, hardware})
	}
	return err
}

// openSockets opens the packet sockets, ready to be used: who gets them may be allowed nothing but to send and to receive.
func (t *Taking) openSockets() error {
	for n := range t.Interfaces {
		i := &t.Interfaces[n]
		if i.Loopback {
			continue
		}
		b := new(stub.Batch)
		// Without a protocol, or it would receive from all devices before it is bound.
		fd := b.Call(unix.SYS_SOCKET, stub.Int(unix.AF_PACKET), stub.Int(unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK), stub.Int(0))
		b.SendFDs(fd.Arg())
		files, err := t.open(b, 1)
		if err != nil {
			return err
		}
		i.Socket = files[0]
		if err := preparePacket(int(i.Socket.Fd()), i.index); err != nil {
			return fmt.Errorf("interface %q: %w", i.Name, err)
		}
	}
	return nil
}

// packetBuffer is what a packet socket holds each way, in bytes: more than the host's limit for other programs.
const packetBuffer = 4 << 20

func preparePacket(fd int, index int32) error {
	const ignoreOutgoing = 23 // PACKET_IGNORE_OUTGOING, include/uapi/linux/if_packet.h, Linux 4.20
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return os.NewSyscallError("setsockopt PACKET_VNET_HDR", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, ignoreOutgoing, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, packetBuffer)
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(index)}))
}
