package oci

import (
	"fmt"
	"strconv"
	"strings"
)

// The readers of values. Each reads the value at d.pos into *p, leaves *p alone for null, and notes a mistake otherwise.

// text reads a string which may hold any character: annotations and metadata that hull only passes on.
func text(d *decoder, p *string) {
	if d.null() {
		return
	}
	if d.peek() != '"' {
		d.wrongType("a string")
		return
	}
	if s, ok := d.quoted(); ok {
		*p = s
	}
}

// str reads a string for the kernel. A NUL would cut it short there: what was checked would not be what is used.
func str[T ~string](d *decoder, p *T) {
	var s string
	text(d, &s)
	if strings.IndexByte(s, 0) >= 0 {
		d.mistake("has a NUL character: " + quote(s))
		return
	}
	*p = T(s)
}

func boolean(d *decoder, p *bool) {
	if d.null() {
		return
	}
	switch d.peek() {
	case 't':
		*p = d.literal("true")
	case 'f':
		d.literal("false")
		*p = false
	default:
		d.wrongType("true or false")
	}
}

type (
	signed   interface{ int | int32 | int64 }
	unsigned interface {
		uint | uint16 | ~uint32 | uint64
	}
)

// integer reads the text of an integer.
func (d *decoder) integer() (string, bool) {
	if d.null() {
		return "", false
	}
	if c := d.peek(); c != '-' && (c < '0' || c > '9') {
		d.wrongType("an integer")
		return "", false
	}
	s, isInteger := d.number()
	if d.stopped != nil {
		return "", false
	}
	if !isInteger {
		d.mistake("got number " + clip(s) + ", want an integer")
		return "", false
	}
	return s, true
}

// uinteger reads an integer from 0 up. Out of range is a mistake: were 4294967296 taken as a uid of 32 bits, it would be
// root (CVE-2024-40635).
func uinteger[T unsigned](d *decoder, p *T) {
	s, ok := d.integer()
	if !ok {
		return
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || uint64(T(v)) != v {
		d.mistake(fmt.Sprintf("%s is out of range, want 0 to %d", clip(s), ^T(0)))
		return
	}
	*p = T(v)
}

func integer[T signed](d *decoder, p *T) {
	s, ok := d.integer()
	if !ok {
		return
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || int64(T(v)) != v {
		lowest := T(1)
		for lowest > 0 {
			lowest <<= 1
		}
		d.mistake(fmt.Sprintf("%s is out of range, want %d to %d", clip(s), lowest, ^lowest))
		return
	}
	*p = T(v)
}

// optional reads a value that specs-go keeps as a pointer, nil if absent. It is there already if the property came in two
// cases, see object.
func optional[T any](d *decoder, p **T, read func(*decoder, *T)) {
	if d.null() {
		return
	}
	if *p == nil {
		*p = new(T)
	}
	read(d, *p)
}

// list reads an array. Most have a handful of elements; starting with room for four saves the first copies.
func list[T any](d *decoder, p *[]T, read func(*decoder, *T)) {
	if d.null() {
		return
	}
	*p = make([]T, 0, 4)
	d.elements("an array", func(i int) {
		var zero T
		*p = append(*p, zero)
		read(d, &(*p)[i])
	})
}

func dict[T any](d *decoder, p *map[string]T, read func(*decoder, *T)) {
	if d.null() {
		return
	}
	m := *p
	if m == nil {
		m = map[string]T{}
	}
	d.members(entry, func(key string) {
		var v T
		read(d, &v)
		m[key] = v
	})
	*p = m
}
