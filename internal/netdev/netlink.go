package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// requestTimeout bounds a request to the kernel, which may have to wait for the lock that all network configuration of
// the host shares.
const requestTimeout = 10 * time.Second

// bufferSize is more than the kernel puts into one datagram of a dump (NLMSG_GOODSIZE and at most 32 KiB,
// net/netlink/af_netlink.c).
const bufferSize = 64 << 10

var errReply = errors.New("a netlink reply of an unknown form")

// conn is a netlink(7) socket of the family NETLINK_ROUTE.
type conn struct {
	file *os.File
	seq  uint32
}

// message is what the kernel answers.
type message struct {
	typ, flags uint16
	data       []byte
}

// attribute is a struct rtattr (rtnetlink(7)).
type attribute struct {
	typ  uint16
	data []byte
}

// dial opens a socket in each of the network namespaces.
func dial(trace func(stub.Call), namespaces ...*os.File) ([]*conn, error) {
	s, err := stub.Start(stub.Config{Extra: namespaces, Trace: trace})
	if err != nil {
		return nil, err
	}
	defer s.Kill()
	b := new(stub.Batch)
	b.In("linux.netDevices")
	for i := range namespaces {
		b.Call(unix.SYS_SETNS, stub.Int(stub.FirstExtra+i), stub.Int(unix.CLONE_NEWNET))
		fd := b.Call(unix.SYS_SOCKET, stub.Int(unix.AF_NETLINK), stub.Int(unix.SOCK_RAW|unix.SOCK_CLOEXEC), stub.Int(unix.NETLINK_ROUTE))
		b.SendFDs(fd.Arg())
	}
	if err := s.Do(b); err != nil {
		return nil, err
	}
	var conns []*conn
	for _, f := range s.Files() {
		c := &conn{file: f}
		conns = append(conns, c)
		err = errors.Join(err, c.setOptions())
	}
	if err == nil && len(conns) != len(namespaces) {
		err = stub.ErrGone
	}
	if err != nil {
		for _, c := range conns {
			c.close()
		}
		return nil, err
	}
	return conns, nil
}

func (c *conn) close() { c.file.Close() }

// setOptions bounds the wait for an answer, and asks for the kernel's own words of a failure and for strict checking,
// without which it ignores that a dump is asked of one device only (Linux 4.20).
func (c *conn) setOptions() error {
	fd := int(c.file.Fd())
	tv := unix.NsecToTimeval(int64(requestTimeout))
	return os.NewSyscallError("setsockopt", errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
	))
}

// request sends a message with a fixed header and attributes, and returns what the kernel answers: nothing for an
// acknowledgement, the errno and the kernel's words for a failure.
func (c *conn) request(typ, flags uint16, header []byte, attrs []attribute) ([]message, error) {
	c.seq++
	err := unix.Sendto(int(c.file.Fd()), encode(typ, flags|unix.NLM_F_REQUEST, c.seq, header, attrs), 0,
		&unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var all []message
	p := make([]byte, bufferSize)
	for {
		n, err := c.receive(p)
		if err != nil {
			return nil, err
		}
		msgs, done, err := decode(p[:n], c.seq)
		if err != nil {
			return nil, err
		}
		// The next datagram is read into p.
		for _, m := range msgs {
			m.data = append([]byte(nil), m.data...)
			all = append(all, m)
		}
		if done {
			return all, nil
		}
	}
}

// receive reads one datagram that comes from the kernel.
func (c *conn) receive(p []byte) (int, error) {
	for {
		n, _, flags, from, err := unix.Recvmsg(int(c.file.Fd()), p, nil, 0)
		switch sa, ok := from.(*unix.SockaddrNetlink); {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, fmt.Errorf("netlink: no answer within %v", requestTimeout)
		case err != nil:
			return 0, os.NewSyscallError("recvmsg", err)
		case !ok || sa.Pid != 0: // from another process
		case flags&unix.MSG_TRUNC != 0:
			return 0, errReply
		default:
			return n, nil
		}
	}
}

func encode(typ, flags uint16, seq uint32, header []byte, attrs []attribute) []byte {
	ne := binary.NativeEndian
	p := make([]byte, unix.SizeofNlMsghdr, 256)
	p = append(p, header...)
	for _, a := range attrs {
		p = ne.AppendUint16(p, uint16(unix.SizeofRtAttr+len(a.data)))
		p = ne.AppendUint16(p, a.typ)
		p = append(p, a.data...)
		p = append(p, make([]byte, align(len(p))-len(p))...)
	}
	ne.PutUint32(p, uint32(len(p)))
	ne.PutUint16(p[4:], typ)
	ne.PutUint16(p[6:], flags)
	ne.PutUint32(p[8:], seq)
	return p
}

// align is NLMSG_ALIGN and RTA_ALIGN.
func align(n int) int { return (n + 3) &^ 3 }

// decode takes a datagram apart. What answers an earlier request, one that was given up, is left out. done tells that no
// datagram follows.
func decode(p []byte, seq uint32) (msgs []message, done bool, err error) {
	ne := binary.NativeEndian
	for len(p) > 0 {
		if len(p) < unix.SizeofNlMsghdr {
			return nil, false, errReply
		}
		size := int(ne.Uint32(p))
		if size < unix.SizeofNlMsghdr || size > len(p) {
			return nil, false, errReply
		}
		m := message{ne.Uint16(p[4:]), ne.Uint16(p[6:]), p[unix.SizeofNlMsghdr:size]}
		ours := ne.Uint32(p[8:]) == seq
		p = p[min(align(size), len(p)):]
		if !ours {
			continue
		}
		switch m.typ {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			return msgs, true, m.failure()
		case unix.NLMSG_NOOP:
			continue
		}
		msgs = append(msgs, m)
		done = m.flags&unix.NLM_F_MULTI == 0
	}
	return msgs, done, nil
}

// failure returns what the kernel says of a request that it is done with: nil for an acknowledgement.
func (m message) failure() error {
	if len(m.data) < 4 {
		if m.typ == unix.NLMSG_DONE {
			return nil
		}
		return errReply
	}
	errno := -int32(binary.NativeEndian.Uint32(m.data))
	if errno == 0 {
		return nil
	}
	if errno < 0 || errno > 4095 {
		return errReply
	}
	if text := m.kernelWords(); text != "" {
		return fmt.Errorf("%s: %w", text, unix.Errno(errno))
	}
	return unix.Errno(errno)
}

// kernelWords returns the message in an extended acknowledgement (NLMSGERR_ATTR_MSG, include/uapi/linux/netlink.h), or "".
func (m message) kernelWords() string {
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return ""
	}
	attrs := m.data[4:]
	if m.typ == unix.NLMSG_ERROR {
		// The request is repeated in front of them; only its header if NLM_F_CAPPED says so.
		if len(attrs) < unix.SizeofNlMsghdr {
			return ""
		}
		skip := unix.SizeofNlMsghdr
		if m.flags&unix.NLM_F_CAPPED == 0 {
			skip = align(int(binary.NativeEndian.Uint32(attrs)))
		}
		if skip < 0 || skip > len(attrs) {
			return ""
		}
		attrs = attrs[skip:]
	}
	const msg = 1 // NLMSGERR_ATTR_MSG
	found, err := parseAttributes(attrs)
	if err != nil {
		return ""
	}
	for _, a := range found {
		if a.typ == msg && len(a.data) > 0 {
			return string(a.data[:len(a.data)-1])
		}
	}
	return ""
}

func parseAttributes(p []byte) ([]attribute, error) {
	var attrs []attribute
	for len(p) > 0 {
		if len(p) < unix.SizeofRtAttr {
			return nil, errReply
		}
		size := int(binary.NativeEndian.Uint16(p))
		if size < unix.SizeofRtAttr || size > len(p) {
			return nil, errReply
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		attrs = append(attrs, attribute{binary.NativeEndian.Uint16(p[2:]) &^ flags, p[unix.SizeofRtAttr:size]})
		p = p[min(align(size), len(p)):]
	}
	return attrs, nil
}
