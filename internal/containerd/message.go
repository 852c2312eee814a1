// Package containerd has the messages of containerd's API that pass between it and a shim: of the task service
// (containerd/api/runtime/task/v3/shim.proto; those of v2 are the same) and the sandbox service, of events
// (containerd/api/events/task.proto) and of a shim's start (containerd/api/runtime/bootstrap/v1); and what CRI says of a pod.
// Numbers of fields are those of these files.
//
// They are written and read field by field: the generated types bring protobuf's registry and reflection with them, which
// would be most of a shim's memory. The tests of module test/shim hold them against the generated ones.
//
// Messages that are read come from containerd, which has root's rights; a field of a wrong type is left out, one that is cut
// off is an error.
package containerd

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"hull/internal/ttrpc"
)

// Any is google.protobuf.Any: a message and its type's name.
type Any struct {
	TypeURL string // without the host that typeurl may put before it, "types.containerd.io/…" excepted
	Value   []byte
}

// Message is what can be written.
type Message interface{ marshal(*writer) }

// Marshal returns the bytes of a message.
func Marshal(m Message) []byte {
	var w writer
	m.marshal(&w)
	return w.b
}

// Incoming is what can be read. *T of a message has it.
type Incoming interface{ field(f field) error }

// Unmarshal reads a message.
func Unmarshal(b []byte, m Incoming) error { return each(b, m.field) }

func (a *Any) marshal(w *writer) {
	w.str(1, a.TypeURL)
	w.bytes(2, a.Value)
}

func (a *Any) field(f field) error {
	switch f.num {
	case 1:
		a.TypeURL = f.str()
	case 2:
		a.Value = f.p
	}
	return nil
}

// writer appends fields. Those that have their type's zero value are left out, as proto3 has it.
type writer struct{ b []byte }

func (w *writer) uint(n protowire.Number, v uint64) {
	if v != 0 {
		w.b = protowire.AppendTag(w.b, n, protowire.VarintType)
		w.b = protowire.AppendVarint(w.b, v)
	}
}

func (w *writer) bool(n protowire.Number, v bool) { w.uint(n, protowire.EncodeBool(v)) }

func (w *writer) str(n protowire.Number, s string) {
	if s != "" {
		w.b = protowire.AppendTag(w.b, n, protowire.BytesType)
		w.b = protowire.AppendString(w.b, s)
	}
}

func (w *writer) bytes(n protowire.Number, p []byte) {
	if len(p) > 0 {
		w.b = protowire.AppendTag(w.b, n, protowire.BytesType)
		w.b = protowire.AppendBytes(w.b, p)
	}
}

// message writes a message within the message, also one that is empty.
func (w *writer) message(n protowire.Number, m Message) {
	w.b = protowire.AppendTag(w.b, n, protowire.BytesType)
	w.b = protowire.AppendBytes(w.b, Marshal(m))
}

// packed writes numbers that repeat.
func (w *writer) packed(n protowire.Number, vs []uint64) {
	var p []byte
	for _, v := range vs {
		p = protowire.AppendVarint(p, v)
	}
	w.bytes(n, p)
}

// time writes a google.protobuf.Timestamp, unless it is zero.
func (w *writer) time(n protowire.Number, t time.Time) {
	if !t.IsZero() {
		w.message(n, timestamp(t))
	}
}

type timestamp time.Time

func (t timestamp) marshal(w *writer) {
	w.uint(1, uint64(time.Time(t).Unix()))
	w.uint(2, uint64(time.Time(t).Nanosecond()))
}

// field is a field of a message that is read: a number, or bytes.
type field struct {
	num protowire.Number
	v   uint64
	p   []byte
}

func (f field) str() string { return string(f.p) }

// entry adds an entry of a map of strings, which is a message of a key and a value.
func (f field) entry(m *map[string]string) error {
	var k, v string
	err := each(f.p, func(f field) error {
		switch f.num {
		case 1:
			k = f.str()
		case 2:
			v = f.str()
		}
		return nil
	})
	if *m == nil {
		*m = make(map[string]string)
	}
	(*m)[k] = v
	return err
}

func each(b []byte, do func(field) error) error {
	return ttrpc.Fields(b, func(n protowire.Number, v uint64, p []byte) error { return do(field{n, v, p}) })
}
