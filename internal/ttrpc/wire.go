// Package ttrpc speaks ttrpc, the protocol between containerd and its shims: remote procedure calls over a Unix socket, of
// which only the unary ones are used there (containerd/ttrpc, PROTOCOL.md).
//
//	frame     length uint32, stream uint32, type byte, flags byte, all big-endian; then length bytes
//	request   type 1: service, method, payload, timeout and metadata, as protobuf
//	response  type 2, of the same stream: status and payload, as protobuf
//
// A shim is there for every pod of a machine, and what it links stays in memory. The protocol's own implementation brings
// gRPC's packages and protobuf's registry of types, three times what all of hull takes; so there are only frames here, over
// protobuf's package for single fields (protowire).
//
// The other end is root's, but not believed: lengths are bounded, and so are the calls under way.
package ttrpc

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	headerSize = 10
	// maxPayload bounds a frame, as ttrpc does.
	maxPayload = 4 << 20
)

// Types of frames.
const (
	typeRequest  = 1
	typeResponse = 2
)

// header is that of a frame.
type header struct {
	length, stream uint32
	typ, flags     byte
}

func readFrame(r io.Reader) (header, []byte, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, nil, err
	}
	h := header{binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint32(b[4:]), b[8], b[9]}
	if h.length > maxPayload {
		return h, nil, fmt.Errorf("ttrpc: a frame of %d bytes, at most %d are allowed", h.length, maxPayload)
	}
	p := make([]byte, h.length)
	_, err := io.ReadFull(r, p)
	return h, p, err
}

// frame returns the bytes of a frame. Its error is the call's, and no reason to end the connection.
func frame(stream uint32, typ byte, payload []byte) ([]byte, error) {
	if len(payload) > maxPayload {
		return nil, &Error{ResourceExhausted, fmt.Sprintf("ttrpc: a message of %d bytes, at most %d are allowed", len(payload), maxPayload)}
	}
	b := make([]byte, headerSize, headerSize+len(payload))
	binary.BigEndian.PutUint32(b, uint32(len(payload)))
	binary.BigEndian.PutUint32(b[4:], stream)
	b[8] = typ
	return append(b, payload...), nil
}

// request is what a call asks for. Metadata is of no use to a shim.
type request struct {
	service, method string
	payload         []byte
	timeout         time.Duration // or 0
}

func (q *request) marshal() []byte {
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	b = protowire.AppendString(b, q.service)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendString(b, q.method)
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendBytes(b, q.payload)
	if q.timeout > 0 {
		b = protowire.AppendTag(b, 4, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(q.timeout))
	}
	return b
}

func (q *request) unmarshal(b []byte) error {
	return Fields(b, func(n protowire.Number, v uint64, p []byte) error {
		switch n {
		case 1:
			q.service = string(p)
		case 2:
			q.method = string(p)
		case 3:
			q.payload = p
		case 4:
			q.timeout = time.Duration(v)
		}
		return nil
	})
}

// response is what a call returns.
type response struct {
	code    Code
	message string
	payload []byte
}

func (r *response) marshal() []byte {
	var b []byte
	if r.code != OK {
		s := protowire.AppendTag(nil, 1, protowire.VarintType)
		s = protowire.AppendVarint(s, uint64(r.code))
		s = protowire.AppendTag(s, 2, protowire.BytesType)
		s = protowire.AppendString(s, r.message)
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendBytes(b, s)
	}
	if len(r.payload) > 0 {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, r.payload)
	}
	return b
}

func (r *response) unmarshal(b []byte) error {
	return Fields(b, func(n protowire.Number, _ uint64, p []byte) error {
		switch n {
		case 1:
			return Fields(p, r.status)
		case 2:
			r.payload = p
		}
		return nil
	})
}

// status reads a field of the status.
func (r *response) status(n protowire.Number, v uint64, p []byte) error {
	switch n {
	case 1:
		r.code = Code(min(v, math.MaxUint32))
	case 2:
		r.message = string(p)
	}
	return nil
}

// Fields calls f for each field of a message, until it fails: with a number, or with bytes. Groups and fixed-size numbers are
// skipped; no message of this protocol, or of those that it carries here, has any.
func Fields(b []byte, f func(n protowire.Number, v uint64, p []byte) error) error {
	for len(b) > 0 {
		num, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return fmt.Errorf("ttrpc: message: %w", protowire.ParseError(size))
		}
		b = b[size:]
		var v uint64
		var p []byte
		switch typ {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			p, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(num, typ, b)
		}
		if size < 0 {
			return fmt.Errorf("ttrpc: field %d: %w", num, protowire.ParseError(size))
		}
		if typ == protowire.VarintType || typ == protowire.BytesType {
			if err := f(num, v, p); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}
