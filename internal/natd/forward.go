package natd

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"hull/internal/nft"
)

// forwards tells whether the host forwards packets of a family, and nothing keeps them; or why not.
func (h *host) forwards(family byte) (bool, string) {
	why, err := h.forwarding(family)
	if err == nil && why == "" {
		var c *nft.Conn
		if c, err = nft.Dial(); err == nil {
			why, err = c.Obstacle(family)
			c.Close()
		}
	}
	if err != nil {
		return false, err.Error()
	}
	return why == "", why
}

// The members of struct netconfmsg and its attributes, include/uapi/linux/netconf.h, which x/sys lacks.
const (
	netconfIfindex    = 1
	netconfForwarding = 2
	netconfAll        = -1
	netconfDefault    = -2
	sizeofNetconfmsg  = 4 // aligned
)

// forwarding looks at the sysctls. IPv4 asks the device that a packet comes in by: the veth, which will have the default,
// or one by which answers come. IPv6 asks that of all devices.
func (h *host) forwarding(family byte) (why string, err error) {
	replies, err := h.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETNETCONF, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{family, 0, 0, 0},
	})
	if err != nil {
		return "", fmt.Errorf("netconf: %w", err)
	}
	for _, m := range replies {
		if len(m.Data) < sizeofNetconfmsg {
			return "", errShort
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[sizeofNetconfmsg:])
		if err != nil {
			return "", err
		}
		var index int32
		on := false
		for ad.Next() {
			switch ad.Type() {
			case netconfIfindex:
				index = ad.Int32()
			case netconfForwarding:
				on = ad.Int32() != 0
			}
		}
		if on || m.Data[0] != family {
			continue
		}
		if family == unix.AF_INET6 && index == netconfAll {
			return "net.ipv6.conf.all.forwarding is 0", nil
		}
		if family == unix.AF_INET && (index == netconfDefault || h.out4[index] && index > loopback) {
			return "the host doesn't forward (sysctl net.ipv4.ip_forward, or that of a device)", nil
		}
	}
	return "", nil
}

// pathMTU is that of the default routes' devices, so that nothing has to be made smaller on its way.
func (h *host) pathMTU() uint32 {
	mtu := uint32(0)
	for index, up := range h.uplinks {
		if m := (links{h.conn}).mtu(index); up && m > 0 && (mtu == 0 || m < mtu) {
			mtu = m
		}
	}
	if mtu == 0 {
		mtu = 1500
	}
	return max(mtu, 1280) // IPv6's least
}
