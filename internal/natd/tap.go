package natd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// device is the container's interface.
const device = "eth0"

// loopback is the index of a namespace's first device.
const loopback = 1

// mtu is the largest with which a frame, its Ethernet header and the header of the offloads fit into one chunk of the
// stack's buffers, which have 64 KiB.
const mtu = 65500

// The addresses of the two ends: locally administered, and the same for all, since each link has these two ends only.
var (
	containerMAC = [6]byte{0x02, 'h', 'u', 'l', 'l', 2}
	gatewayMAC   = [6]byte{0x02, 'h', 'u', 'l', 'l', 1}
)

// inside is what hull-net has of the container's namespace.
type inside struct {
	tap   *os.File
	route *netlink.Conn // rtnetlink
	diag  *netlink.Conn // sock_diag(7); or nil
}

// openTap makes the tap in the namespace, by that name, and opens sockets there: that of sock_diag only if diag is set.
//
// The stub s enters the namespace: an ordinary user may only do so by way of the user namespace that owns it, which no
// process with threads can enter.
func openTap(s *stub.Stub, netns *os.File, name string, diag bool) (*inside, error) {
	owner, err := unix.IoctlRetInt(int(netns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, &fault.Error{Step: "owner of the network namespace", Err: os.NewSyscallError("ioctl NS_GET_USERNS", err)}
	}
	userns := os.NewFile(uintptr(owner), "user namespace")
	defer userns.Close()
	const (
		offloadHeader = 10 // struct virtio_net_hdr
		offloads      = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	)
	b := new(stub.Batch)
	passed := b.RecvFDs(2)
	// Who is root over both namespaces needs no detour, and is forbidden it when the owner is his own.
	join, joined := b.Label(), b.Label()
	direct := b.Call(unix.SYS_SETNS, passed[0].Arg(), stub.Int(unix.CLONE_NEWNET))
	b.OnErr(direct, unix.EPERM, join)
	b.OnOK(direct, joined)
	b.Mark(join)
	b.Call(unix.SYS_SETNS, passed[1].Arg(), stub.Int(unix.CLONE_NEWUSER))
	b.Call(unix.SYS_SETNS, passed[0].Arg(), stub.Int(unix.CLONE_NEWNET))
	b.Mark(joined)
	fd := b.Openat(stub.CWD, "/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	request := make([]byte, 40) // struct ifreq
	copy(request, name)
	binary.NativeEndian.PutUint16(request[unix.IFNAMSIZ:], unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR)
	b.Ioctl(fd, unix.TUNSETIFF, b.Const(request).Arg())
	// The end of the descriptor would be that of the device, which takes the kernel some 15 ms. So it ends with its
	// namespace, which nobody waits for.
	b.Ioctl(fd, unix.TUNSETPERSIST, stub.Int(1))
	b.Ioctl(fd, unix.TUNSETVNETHDRSZ, b.Const(binary.NativeEndian.AppendUint32(nil, offloadHeader)).Arg())
	b.Ioctl(fd, unix.TUNSETOFFLOAD, stub.Int(offloads))
	sock := b.Call(unix.SYS_SOCKET, stub.Int(unix.AF_NETLINK), stub.Int(unix.SOCK_RAW|unix.SOCK_CLOEXEC), stub.Int(unix.NETLINK_ROUTE))
	opened := []stub.Arg{fd.Arg(), sock.Arg()}
	if diag {
		opened = append(opened, b.Call(unix.SYS_SOCKET, stub.Int(unix.AF_NETLINK), stub.Int(unix.SOCK_RAW|unix.SOCK_CLOEXEC), stub.Int(unix.NETLINK_SOCK_DIAG)).Arg())
	}
	b.SendFDs(opened...)
	if err := s.Send(b); err != nil {
		return nil, err
	}
	if err := s.PassFDs(netns, userns); err != nil {
		return nil, err
	}
	if err := s.Receive(); err != nil {
		return nil, explainTun(err)
	}
	files := s.Files()
	if len(files) != len(opened) {
		return nil, stub.ErrGone
	}
	in := &inside{tap: files[0]}
	if in.route, err = dialFile(files[1]); err == nil && diag {
		in.diag, err = dialFile(files[2])
	}
	if err != nil {
		in.tap.Close()
		return nil, err
	}
	return in, nil
}

// explainTun adds what to do about a tun device that is missing or forbidden.
func explainTun(err error) error {
	e := &fault.Error{Step: "tap", Err: err}
	st, statErr := os.Stat("/dev/net/tun")
	switch {
	case errors.Is(err, unix.ENOENT) || statErr != nil:
		e.Hint = "the host has no /dev/net/tun: modprobe tun"
	case errors.Is(err, unix.EACCES) && st.Mode().Perm()&0o006 != 0o006:
		e.Hint = fmt.Sprintf("/dev/net/tun has mode %#o here, where users can't open it; 0666 is usual", st.Mode().Perm())
	case errors.Is(err, unix.EBUSY):
		e.Hint = "the container's network namespace has a device " + device
	}
	return e
}

// configure gives the container what the plan has. The tap, which was made by the name of tap, is its interface; where a
// veth is that for one family or both, the tap leads to hull-net and to what is refused there: the host's own addresses
// among it.
func configure(l links, tap string, p plan, own []netip.Prefix) error {
	step := func(what string, err error) error {
		if err != nil {
			return &fault.Error{Step: device + ": " + what, Err: err}
		}
		return nil
	}
	if err := l.set(loopback, unix.IFF_UP, func(*netlink.AttributeEncoder) {}); err != nil {
		return step("loopback up", err)
	}
	index, err := l.index(tap)
	if err != nil {
		return step("look for it", err)
	}
	// No ARP: everything is behind the one other end.
	if err := l.set(index, unix.IFF_UP|unix.IFF_NOARP, func(ae *netlink.AttributeEncoder) {
		if tap != device && !p.veth4 && !p.veth6 {
			ae.String(unix.IFLA_IFNAME, device)
		}
		ae.Bytes(unix.IFLA_ADDRESS, containerMAC[:])
		ae.Uint32(unix.IFLA_MTU, mtu)
	}); err != nil {
		return step("up", err)
	}
	index4, index6 := index, index
	if p.veth4 || p.veth6 {
		veth, err := l.index(device)
		if err != nil {
			return step("look for it", err)
		}
		if err := l.set(veth, unix.IFF_UP|unix.IFF_NOARP, func(*netlink.AttributeEncoder) {}); err != nil {
			return step("up", err)
		}
		if p.veth4 {
			index4 = veth
		}
		if p.veth6 {
			index6 = veth
		}
	}
	if err := l.addAddress(index4, p.ip4, p.bits4); err != nil {
		return step("add address "+p.ip4.String(), err)
	}
	if err := l.addDefaultRoute(index4, p.gateway4); err != nil {
		return step("add default route by "+p.gateway4.String(), err)
	}
	if p.veth4 {
		if err := l.addRoutes(index, append(refused4, netip.PrefixFrom(p.gateway4, 32)), own); err != nil {
			return step("add routes to hull-net", err)
		}
	}
	if !p.ip6.IsValid() {
		return nil
	}
	// A kernel without IPv6, or a namespace in which it is off, is no reason to have no network.
	err = l.addAddress(index6, p.ip6, network6.Bits())
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	if err != nil {
		return step("add address "+p.ip6.String(), err)
	}
	if err := l.addDefaultRoute(index6, p.gateway6); err != nil {
		return step("add default route by "+p.gateway6.String(), err)
	}
	if p.veth6 {
		return step("add routes to hull-net", l.addRoutes(index, append(refused6, netip.PrefixFrom(p.gateway6, 128)), own))
	}
	return nil
}

// fileSocket is a netlink socket that was opened elsewhere.
type fileSocket struct{ file *os.File }

func dialFile(f *os.File) (*netlink.Conn, error) {
	fd := int(f.Fd())
	tv := unix.Timeval{Sec: 10}
	err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	sa, err2 := unix.Getsockname(fd)
	if err = errors.Join(err, err2); err != nil {
		f.Close()
		return nil, err
	}
	return netlink.NewConn(fileSocket{f}, sa.(*unix.SockaddrNetlink).Pid), nil
}

func (s fileSocket) Close() error { return s.file.Close() }

func (s fileSocket) Send(m netlink.Message) error { return s.SendMessages([]netlink.Message{m}) }

func (s fileSocket) SendMessages(ms []netlink.Message) error {
	var p []byte
	for _, m := range ms {
		b, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		p = append(p, b...)
	}
	return os.NewSyscallError("sendto", unix.Sendto(int(s.file.Fd()), p, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

func (s fileSocket) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		ms, err := s.Receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range ms {
			if !yield(m, nil) {
				return
			}
		}
	}
}

func (s fileSocket) Receive() ([]netlink.Message, error) {
	p := make([]byte, 64<<10)
	for {
		n, from, err := unix.Recvfrom(int(s.file.Fd()), p, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // not from the kernel
		}
		var ms []netlink.Message
		for rest := p[:n]; len(rest) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.SizeofNlMsghdr || size > len(rest) {
				return nil, errShort
			}
			var m netlink.Message
			if err := m.UnmarshalBinary(rest[:(size+3)&^3][:size]); err != nil {
				return nil, err
			}
			ms = append(ms, m)
			rest = rest[min((size+3)&^3, len(rest)):]
		}
		return ms, nil
	}
}
