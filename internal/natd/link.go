package natd

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// headers is what precedes a packet: struct virtio_net_hdr and an Ethernet header.
const headers = header.VirtioNetHeaderSize + header.EthernetMinimumSize

// link is the stack's end of the tap. There is one other end, so that it needs no resolution of addresses: every frame
// goes to the container.
//
// The kernel's checksums aren't looked at, and of TCP none is made: both ends are on one machine, and the kernel takes
// and gives segments of up to 64 KiB as they are.
type link struct {
	file *os.File
	fd   int

	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	once       sync.Once
	done       sync.WaitGroup
	ended      atomic.Bool // there is nothing to read any more
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(tap *os.File) (*link, error) {
	l := &link{file: tap}
	rc, err := tap.SyscallConn()
	if err != nil {
		return nil, err
	}
	return l, rc.Control(func(fd uintptr) { l.fd = int(fd) })
}

func (*link) MTU() uint32                                  { return mtu }
func (*link) SetMTU(uint32)                                {}
func (*link) MaxHeaderLength() uint16                      { return header.EthernetMinimumSize }
func (*link) LinkAddress() tcpip.LinkAddress               { return tcpip.LinkAddress(gatewayMAC[:]) }
func (*link) SetLinkAddress(tcpip.LinkAddress)             {}
func (*link) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareEther }
func (*link) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (*link) SetOnCloseAction(func())                      {}
func (*link) GSOMaxSize() uint32                           { return mtu }
func (*link) SupportedGSO() stack.SupportedGSO             { return stack.HostGSOSupported }
func (l *link) Close()                                     { l.file.Close() }
func (l *link) Wait()                                      { l.done.Wait() }
func (l *link) IsAttached() bool                           { return l.dispatcher.Load() != nil }
func (*link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityRXChecksumOffload }

// Attach starts to read.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
	l.once.Do(func() { l.done.Go(l.read) })
}

// AddHeader writes the Ethernet header: from the one end to the other.
func (*link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(gatewayMAC[:]),
		DstAddr: tcpip.LinkAddress(containerMAC[:]),
		Type:    pkt.NetworkProtocolNumber,
	})
}

// read takes frames from the container until the tap is gone.
func (l *link) read() {
	defer l.ended.Store(true)
	scratch := make([]byte, headers+mtu)
	for {
		n, err := l.file.Read(scratch)
		if err != nil {
			return
		}
		d := l.dispatcher.Load()
		if n < headers || d == nil {
			continue
		}
		var proto tcpip.NetworkProtocolNumber
		switch proto = tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(scratch[headers-2:])); proto {
		case header.IPv4ProtocolNumber, header.IPv6ProtocolNumber:
		default:
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(scratch[headers:n])})
		(*d).DeliverNetworkPacket(proto, pkt)
		pkt.DecRef()
	}
}

// WritePackets gives frames to the container. What it has no room for is lost, as on any link.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if !l.write(offloads(pkt), pkt.AsSlices()) {
			break
		}
		n++
	}
	if n == 0 && pkts.Len() > 0 {
		return 0, &tcpip.ErrNoBufferSpace{}
	}
	return n, nil
}

// offloads says what the kernel has to complete: a checksum of which the pseudo header's sum is there, and segments.
func offloads(pkt *stack.PacketBuffer) (h [header.VirtioNetHeaderSize]byte) {
	gso := pkt.GSOOptions
	if gso.Type == stack.GSONone {
		return h
	}
	f := header.VirtioNetHeaderFields{HdrLen: uint16(pkt.HeaderSize())}
	if gso.NeedsCsum {
		f.Flags = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
		f.CSumStart = header.EthernetMinimumSize + gso.L3HdrLen
		f.CSumOffset = gso.CsumOffset
	}
	if pkt.Data().Size() > int(gso.MSS) {
		f.GSOType = 1 // VIRTIO_NET_HDR_GSO_TCPV4
		if gso.Type == stack.GSOTCPv6 {
			f.GSOType = 4 // VIRTIO_NET_HDR_GSO_TCPV6
		}
		f.GSOSize = gso.MSS
	}
	header.VirtioNetHeader(h[:]).Encode(&f)
	return h
}

func (l *link) write(offloads [header.VirtioNetHeaderSize]byte, slices [][]byte) bool {
	iov := make([][]byte, 1, 8)
	iov[0] = offloads[:]
	iov = append(iov, slices...)
	for {
		_, err := unix.Writev(l.fd, iov)
		if err == unix.EINTR {
			continue
		}
		return err == nil
	}
}

// writeIP gives the container a packet that the stack didn't make.
func (l *link) writeIP(proto tcpip.NetworkProtocolNumber, packet []byte) {
	eth := make([]byte, header.EthernetMinimumSize)
	header.Ethernet(eth).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(gatewayMAC[:]),
		DstAddr: tcpip.LinkAddress(containerMAC[:]),
		Type:    proto,
	})
	l.write([header.VirtioNetHeaderSize]byte{}, [][]byte{eth, packet})
}
