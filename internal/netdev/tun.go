package netdev

import (
	"encoding/binary"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// tunName is the name of the device of OpenTun.
const tunName = "hull-resolver"

// Tun is a network for programs of the host that work in a namespace whose devices were taken over: its addresses, that of the
// other end, and the MTU.
type Tun struct {
	Address  [4]byte
	Address6 [16]byte // used where the namespace has IPv6 addresses
	MTU      uint32
}

// OpenTun makes a tun device in the namespace, which ends with the file that it returns. Nothing goes there before Route.
func (t *Taking) OpenTun() (*os.File, error) {
	b := new(stub.Batch)
	fd := b.Openat(stub.CWD, "/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	request := make([]byte, 40) // struct ifreq
	copy(request, tunName)
	binary.NativeEndian.PutUint16(request[unix.IFNAMSIZ:], unix.IFF_TUN|unix.IFF_NO_PI)
	b.Ioctl(fd, unix.TUNSETIFF, b.Const(request).Arg())
	b.SendFDs(fd.Arg())
	files, err := t.open(b, 1)
	if err != nil {
		return nil, &fault.Error{Step: "make the device " + tunName, Err: err}
	}
	return files[0], nil
}

// RouteTun has all that programs of the namespace send go to its tun device, and lets their loopback's addresses be spoken to
// from there. The routes of what was taken over must be gone.
func (t *Taking) RouteTun(d *Tun) error {
	n := &namespace{conn: t.conn}
	l, err := n.linkByName(tunName)
	step := func(what string) {
		if err != nil {
			err = &fault.Error{Step: tunName + ": " + what, Err: err}
		}
	}
	if err != nil {
		step("look for it")
		return err
	}
	_ = n.change(unix.RTM_SETLINK, 0, linkHeader(l.index, 0, 0), noGeneratedAddresses()) // without IPv6 there are none
	mtu := attribute{unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, d.MTU)}
	err = n.change(unix.RTM_SETLINK, 0, linkHeader(l.index, unix.IFF_UP, unix.IFF_UP), mtu, routeLocalnet())
	if err != nil {
		step("bring it up")
		return err
	}
	ips := [][]byte{d.Address[:]}
	if slices.ContainsFunc(t.Interfaces, func(i Interface) bool {
		return !i.Loopback && slices.ContainsFunc(i.Addresses, func(p Prefix) bool { return len(p.IP) == 16 })
	}) {
		ips = append(ips, d.Address6[:])
	}
	for _, ip := range ips {
		a := address{family: unix.AF_INET, prefix: byte(8 * len(ip)), flags: unix.IFA_F_NODAD, attributes: []attribute{{unix.IFA_LOCAL, ip}}}
		if len(ip) == 16 {
			a.family = unix.AF_INET6
		}
		if err = n.addAddress(l.index, a); err != nil {
			step("add address " + formatIP(ip))
			return err
		}
		header := make([]byte, unix.SizeofRtMsg) // to everywhere
		header[0], header[4], header[5], header[6], header[7] = a.family, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_LINK, unix.RTN_UNICAST
		device := attribute{unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(l.index))}
		if err = n.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, header, device, attribute{unix.RTA_PREFSRC, ip}); err != nil {
			step("add the default route")
			return err
		}
	}
	return nil
}

// routeLocalnet is the attribute by which the kernel takes packets from a device to addresses of the loopback, and answers
// there: net.ipv4.conf.DEVICE.route_localnet.
func routeLocalnet() attribute {
	const inetConf, routeLocalnet = 1, 26 // IFLA_INET_CONF and IPV4_DEVCONF_ROUTE_LOCALNET, include/uapi/linux/if_link.h and ip.h
	on := attribute{routeLocalnet, binary.NativeEndian.AppendUint32(nil, 1)}
	return nested(unix.IFLA_AF_SPEC, nested(unix.AF_INET, nested(inetConf, on)))
}
