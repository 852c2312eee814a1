package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxMessage bounds what a manager may send at once; D-Bus would allow 128 MiB.
const maxMessage = 1 << 20

type messageType byte

const (
	typeCall   messageType = 1
	typeReturn messageType = 2
	typeError  messageType = 3
	typeSignal messageType = 4
)

// The header fields of the D-Bus specification that are used here.
const (
	fieldPath      = 1
	fieldInterface = 2
	fieldMember    = 3
	fieldError     = 4
	fieldReplyTo   = 5
	fieldTo        = 6
	fieldSignature = 8
)

// message is one that came.
type message struct {
	kind      messageType
	replyTo   uint32
	member    string
	errorName string
	body      []byte
}

// encodeCall returns a method call.
func encodeCall(serial uint32, to, path, iface, member string, args ...any) []byte {
	var body encoder
	var sig string
	for _, a := range args {
		sig += signature(a)
		body.value(a)
	}
	e := encoder{buf: []byte{'l', byte(typeCall), 0, 1}}
	e.uint32(uint32(len(body.buf)))
	e.uint32(serial)
	e.array(8, func() {
		field := func(code byte, v any) {
			e.align(8)
			e.buf = append(e.buf, code)
			e.variant(v)
		}
		field(fieldPath, ObjectPath(path))
		field(fieldInterface, iface)
		field(fieldMember, member)
		if to != "" {
			field(fieldTo, to)
		}
		if sig != "" {
			e.align(8)
			e.buf = append(e.buf, fieldSignature)
			e.signature("g")
			e.signature(sig)
		}
	})
	e.align(8)
	return append(e.buf, body.buf...)
}

// readMessage reads a message. A manager on this machine has this machine's byte order.
func readMessage(r io.Reader) (*message, error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if head[0] != 'l' || head[3] != 1 {
		return nil, fmt.Errorf("message of byte order %q and version %d", head[0], head[3])
	}
	body := binary.LittleEndian.Uint32(head[4:])
	fields := binary.LittleEndian.Uint32(head[12:])
	if body > maxMessage || fields > maxMessage {
		return nil, errors.New("message is too long")
	}
	padded := (int(fields) + 7) / 8 * 8
	rest := make([]byte, padded+int(body))
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, err
	}
	m := &message{kind: messageType(head[1]), body: rest[padded:]}
	return m, m.decodeFields(rest[:fields])
}

func (m *message) decodeFields(buf []byte) error {
	d := decoder{buf: buf}
	for d.err == nil && d.pos < len(buf) {
		code := d.take(8, 1)
		if code == nil {
			break
		}
		v := d.variant()
		switch code[0] {
		case fieldReplyTo:
			m.replyTo, _ = v.(uint32)
		case fieldMember:
			m.member, _ = v.(string)
		case fieldError:
			m.errorName, _ = v.(string)
		}
	}
	return d.err
}
