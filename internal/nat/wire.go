package nat

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Version is the version of the protocol. hull and hull-net are built and installed together; one that meets another
// version says so and stops.
const Version = "2"

// maxMessage bounds a message. The longest is hull-net's answer to "attach", which has the files for the container.
const maxMessage = 128 << 10

// A Message is what hull and hull-net say to each other: lines of words. The first word of the first line is the request
// or "ok", or "error" with what went wrong and, perhaps, what to do about it.
type Message [][]string

var errMessage = errors.New("a message of an unknown form")

// encode writes every word quoted, so that any byte may be in it.
func (m Message) encode() []byte {
	var p []byte
	for _, line := range m {
		for i, word := range line {
			if i > 0 {
				p = append(p, ' ')
			}
			p = strconv.AppendQuote(p, word)
		}
		p = append(p, '\n')
	}
	return p
}

func decode(p []byte) (Message, error) {
	var m Message
	for s := string(p); s != ""; {
		var line []string
		for {
			quoted, err := strconv.QuotedPrefix(s)
			if err != nil || quoted[0] != '"' {
				return nil, errMessage
			}
			word, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, errMessage
			}
			line = append(line, word)
			s = s[len(quoted):]
			if rest, ok := strings.CutPrefix(s, " "); ok {
				s = rest
				continue
			}
			break
		}
		rest, ok := strings.CutPrefix(s, "\n")
		if !ok {
			return nil, errMessage
		}
		s = rest
		m = append(m, line)
	}
	if len(m) == 0 {
		return nil, errMessage
	}
	return m, nil
}

// Send sends a message, and a descriptor with it if file isn't nil.
func Send(socket *os.File, m Message, file *os.File) error {
	p := m.encode()
	if len(p) > maxMessage {
		return errMessage
	}
	var oob []byte
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(int(socket.Fd()), p, oob, nil, unix.MSG_NOSIGNAL))
}

// Receive returns the next message and the descriptor that came with it, if one did. io.EOF is the end of the other side.
func Receive(socket *os.File) (Message, *os.File, error) {
	p := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, flags, _, err := unix.Recvmsg(int(socket.Fd()), p, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil, nil, os.ErrDeadlineExceeded
		case err == unix.ECONNRESET || err == nil && n == 0:
			return nil, nil, io.EOF
		case err != nil:
			return nil, nil, os.NewSyscallError("recvmsg", err)
		}
		file := passed(oob[:oobn])
		m, err := decode(p[:n])
		if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			err = errMessage
		}
		if err != nil && file != nil {
			file.Close()
			file = nil
		}
		return m, file, err
	}
}

// passed takes the descriptor out of a control message.
func passed(oob []byte) *os.File {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(cmsgs) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "passed")
}

// limit bounds the wait for an answer.
func limit(socket *os.File, d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	return os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(int(socket.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
}
