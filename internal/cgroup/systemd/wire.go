package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Property is a property of a unit. Its value is of a type that signature knows.
type Property struct {
	Name  string
	Value any
}

// ObjectPath is D-Bus's type "o".
type ObjectPath string

// DeviceAllow is an element of the property of that name: a device, as systemd.resource-control(5) writes it, and some
// of "rwm".
type DeviceAllow struct{ Device, Access string }

// signature returns the D-Bus type of v, or "" for one that can't be sent.
func signature(v any) string {
	switch v.(type) {
	case byte:
		return "y"
	case bool:
		return "b"
	case int16:
		return "n"
	case uint16:
		return "q"
	case int32:
		return "i"
	case uint32:
		return "u"
	case int64:
		return "x"
	case uint64:
		return "t"
	case float64:
		return "d"
	case string:
		return "s"
	case ObjectPath:
		return "o"
	case []byte:
		return "ay"
	case []uint32:
		return "au"
	case []uint64:
		return "at"
	case []string:
		return "as"
	case []DeviceAllow:
		return "a(ss)"
	case []Property:
		return "a(sv)"
	case aux:
		return "a(sa(sv))"
	}
	return ""
}

// aux is the units that StartTransientUnit makes along with the one asked for: none.
type aux struct{}

// encoder writes D-Bus's marshalling, little-endian. Values are aligned to their size from the message's start; the
// header's length is a multiple of 8, so that the body can be marshalled apart.
type encoder struct{ buf []byte }

func (e *encoder) align(n int) {
	for len(e.buf)%n != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) uint32(v uint32) {
	e.align(4)
	e.buf = binary.LittleEndian.AppendUint32(e.buf, v)
}

func (e *encoder) uint64(v uint64) {
	e.align(8)
	e.buf = binary.LittleEndian.AppendUint64(e.buf, v)
}

func (e *encoder) uint16(v uint16) {
	e.align(2)
	e.buf = binary.LittleEndian.AppendUint16(e.buf, v)
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.buf = append(append(e.buf, s...), 0)
}

// signature has its length in a byte.
func (e *encoder) signature(s string) {
	e.buf = append(e.buf, byte(len(s)))
	e.buf = append(append(e.buf, s...), 0)
}

// array writes the length of what f writes, in bytes, without the padding before the first element.
func (e *encoder) array(align int, f func()) {
	e.uint32(0)
	at := len(e.buf) - 4
	e.align(align)
	start := len(e.buf)
	f()
	binary.LittleEndian.PutUint32(e.buf[at:], uint32(len(e.buf)-start))
}

// variant writes a value with its type before it.
func (e *encoder) variant(v any) {
	e.signature(signature(v))
	e.value(v)
}

func (e *encoder) value(v any) {
	switch v := v.(type) {
	case byte:
		e.buf = append(e.buf, v)
	case bool:
		n := uint32(0)
		if v {
			n = 1
		}
		e.uint32(n)
	case int16:
		e.uint16(uint16(v))
	case uint16:
		e.uint16(v)
	case int32:
		e.uint32(uint32(v))
	case uint32:
		e.uint32(v)
	case int64:
		e.uint64(uint64(v))
	case uint64:
		e.uint64(v)
	case float64:
		e.uint64(math.Float64bits(v))
	case string:
		e.string(v)
	case ObjectPath:
		e.string(string(v))
	case []byte:
		e.array(1, func() { e.buf = append(e.buf, v...) })
	case []uint32:
		e.array(4, func() { each(e, v) })
	case []uint64:
		e.array(8, func() { each(e, v) })
	case []string:
		e.array(4, func() { each(e, v) })
	case []DeviceAllow:
		e.array(8, func() {
			for _, d := range v {
				e.align(8)
				e.string(d.Device)
				e.string(d.Access)
			}
		})
	case []Property:
		e.array(8, func() {
			for _, p := range v {
				e.align(8)
				e.string(p.Name)
				e.variant(p.Value)
			}
		})
	case aux:
		e.array(8, func() {})
	default:
		panic(fmt.Sprintf("bug: no D-Bus type for %T", v))
	}
}

func each[T any](e *encoder, vs []T) {
	for _, v := range vs {
		e.value(v)
	}
}

var errShort = errors.New("message ends too early")

// decoder reads what an encoder of the other side wrote; it keeps the first error.
type decoder struct {
	buf []byte
	pos int
	err error
}

func (d *decoder) take(align, n int) []byte {
	start := (d.pos + align - 1) / align * align
	if d.err != nil || n < 0 || start+n > len(d.buf) || start+n < start {
		if d.err == nil {
			d.err = errShort
		}
		return nil
	}
	d.pos = start + n
	return d.buf[start:d.pos]
}

func (d *decoder) byte() byte {
	if b := d.take(1, 1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4, 4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8, 8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) string() string {
	n := d.uint32()
	if n > maxMessage {
		d.err = errShort
		return ""
	}
	s := string(d.take(1, int(n)))
	d.take(1, 1)
	return s
}

func (d *decoder) signature() string {
	n := d.byte()
	s := string(d.take(1, int(n)))
	d.take(1, 1)
	return s
}

// variant reads a value of one of the types that the manager is asked for.
func (d *decoder) variant() any {
	switch sig := d.signature(); sig {
	case "s", "o":
		return d.string()
	case "g":
		return d.signature()
	case "u":
		return d.uint32()
	case "i":
		return int32(d.uint32())
	case "t":
		return d.uint64()
	case "x":
		return int64(d.uint64())
	case "b":
		return d.uint32() != 0
	case "y":
		return d.byte()
	default:
		if d.err == nil {
			d.err = fmt.Errorf("value of the type %q", sig)
		}
		return nil
	}
}
