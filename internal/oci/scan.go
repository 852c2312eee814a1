package oci

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"hull/internal/fault"
)

// Limits of a configuration. A file beyond them is refused before anything is done with it.
const (
	maxSize     = 16 << 20 // bytes
	maxDepth    = 100      // objects and arrays inside each other
	maxMistakes = 50       // reported one by one; the rest is counted
	maxQuote    = 80       // bytes of a value that a message shows
	maxUnknown  = 3        // properties that hull doesn't know, of which an error tells
	manyKeys    = 32       // an object with more has its keys in a map, to keep hostile files linear
)

// A decoder reads one JSON document in a single pass, straight into the structs of specs-go.
//
// It is not encoding/json for three reasons. encoding/json stops at the first value of a wrong type, where hull reports
// all of them; it takes the last of two equal keys, so that two readers of one file may see two configurations; and it
// builds tables by reflection for every struct type it meets, which a program that reads one file pays in full. Keys in
// another case are read as encoding/json reads them, with a warning: the authors of such files rely on it.
//
// A mistake in a value is noted and reading goes on behind it. A mistake in the syntax ends reading: pos moves to the
// end, where every loop stops.
type decoder struct {
	src   string
	pos   int
	depth int
	path  []step
	keys  []string // of all objects around pos, the innermost object's last

	mistakes []*fault.Error
	more     int // mistakes beyond maxMistakes
	warnings []string
	unknown  unknown      // properties among the warnings
	stopped  *fault.Error // the mistake that ended reading
}

// A step of a path is a property's name, an entry's key in a map, or an index.
type step struct {
	name  string
	kind  stepKind
	index int
}

type stepKind uint8

const (
	property stepKind = iota
	entry
	element
)

// field writes the path of the value at hand as hull's errors do: process.user.additionalGids[2], linux.sysctl "net.x".
func (d *decoder) field() string {
	const head, tail = 12, 4 // of a path that is longer: hostile files have one of a hundred steps
	var b strings.Builder
	for i, s := range d.path {
		if len(d.path) > head+tail && i >= head && i < len(d.path)-tail {
			if i == head {
				b.WriteString("…")
			}
			continue
		}
		switch s.kind {
		case element:
			fmt.Fprintf(&b, "[%d]", s.index)
		case entry:
			b.WriteString(" " + quote(s.name))
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(plain(s.name))
		}
	}
	return b.String()
}

func (d *decoder) mistake(problem string) {
	if len(d.mistakes) == maxMistakes {
		d.more++
		return
	}
	d.mistakes = append(d.mistakes, fault.Spec(d.field(), problem))
}

// stop ends reading with a mistake at byte offset at.
func (d *decoder) stop(at int, problem string) {
	if d.stopped != nil {
		return
	}
	line := 1 + strings.Count(d.src[:at], "\n")
	column := at - strings.LastIndexByte(d.src[:at], '\n')
	d.stopped = &fault.Error{
		Field: d.field(),
		Step:  fmt.Sprintf("line %d, column %d", line, column),
		Kind:  fault.BadSpec,
		Err:   problemError(problem),
	}
	d.pos = len(d.src)
}

type problemError string

func (p problemError) Error() string { return string(p) }

// peek skips white space and returns the byte at pos, 0 at the end.
func (d *decoder) peek() byte {
	for d.pos < len(d.src) {
		switch c := d.src[d.pos]; c {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return c
		}
	}
	return 0
}

// unexpected stops at pos, saying what was found there and what JSON wants.
func (d *decoder) unexpected(want string) {
	if d.pos >= len(d.src) {
		d.stop(d.pos, "the file ends here, "+want+" is missing")
		return
	}
	r, _ := utf8.DecodeRuneInString(d.src[d.pos:])
	d.stop(d.pos, fmt.Sprintf("got %q, want %s", r, want))
}

// null takes a null, which means the same as leaving the property out (specs-go has always been read that way).
func (d *decoder) null() bool {
	if d.peek() != 'n' {
		return false
	}
	d.literal("null")
	return true
}

func (d *decoder) literal(word string) bool {
	if !strings.HasPrefix(d.src[d.pos:], word) {
		d.unexpected("a value")
		return false
	}
	d.pos += len(word)
	return true
}

// enter begins an object or an array; leave ends it. enter returns false, with the value taken, if there is none.
func (d *decoder) enter(open byte, want string) bool {
	if d.null() {
		return false
	}
	if d.peek() != open {
		d.wrongType(want)
		return false
	}
	if d.depth == maxDepth {
		d.stop(d.pos, fmt.Sprintf("nested deeper than %d", maxDepth))
		return false
	}
	d.depth++
	d.pos++
	return true
}

func (d *decoder) leave() { d.depth-- }

// next steps to the next member of an object or array, or behind its end.
func (d *decoder) next(end byte, first bool) bool {
	c := d.peek()
	switch {
	case d.stopped != nil:
		return false
	case c == end:
		d.pos++
		return false
	case first:
		return true
	case c != ',':
		d.unexpected(fmt.Sprintf("%q or %q", ',', end))
		return false
	}
	d.pos++
	if d.peek() == end {
		d.unexpected("another value behind the comma")
		return false
	}
	return true
}

// members reads an object, calling member with pos before each value and path at it. A key that is there twice is a
// mistake: which of the two counts differs between JSON readers, and one of them may be the one that checked the file.
func (d *decoder) members(kind stepKind, member func(key string)) {
	if !d.enter('{', "an object") {
		return
	}
	defer d.leave()
	base := len(d.keys)
	var set map[string]struct{}
	for first := true; d.next('}', first); first = false {
		if d.peek() != '"' {
			d.unexpected("a property's name")
			break
		}
		key, _ := d.quoted()
		if d.peek() != ':' {
			d.unexpected("':'")
			break
		}
		d.pos++
		d.path = append(d.path, step{name: key, kind: kind})
		if d.twice(base, &set, key) {
			d.mistake("is in the object twice")
			d.skip()
		} else {
			member(key)
		}
		d.path = d.path[:len(d.path)-1]
	}
	d.keys = d.keys[:base]
}

// twice records a key of the object whose keys begin at base.
func (d *decoder) twice(base int, set *map[string]struct{}, key string) bool {
	if *set != nil {
		_, seen := (*set)[key]
		(*set)[key] = struct{}{}
		return seen
	}
	for _, k := range d.keys[base:] {
		if k == key {
			return true
		}
	}
	d.keys = append(d.keys, key)
	if len(d.keys)-base > manyKeys {
		*set = make(map[string]struct{}, 2*manyKeys)
		for _, k := range d.keys[base:] {
			(*set)[k] = struct{}{}
		}
	}
	return false
}

// object reads an object of known properties. field reads the value of one, or returns false if it doesn't know it: the
// runtime-spec's extensibility rule asks runtimes to take unknown properties without an error.
func (d *decoder) object(field func(key string) bool) {
	d.members(property, func(key string) {
		if field(key) {
			return
		}
		right := otherCase(d.path)
		if right == "" {
			d.strange()
			d.skip()
			return
		}
		// encoding/json, and so most runtimes, read it: also beside the one in the right case, to which it adds.
		d.warn(func() string { return "taken for " + right + ", as the specification writes it" })
		d.path[len(d.path)-1].name = right
		field(right)
	})
}

// strange tells of a property that hull doesn't know, and which one may be meant. It may also be one of a newer specification, or of
// another runtime: the extensibility rule is for these.
func (d *decoder) strange() {
	right := ""
	if len(d.warnings) < maxMistakes || len(d.unknown) < maxUnknown { // a file of such names alone takes no time then
		right = meant(d.path)
		d.unknown.add(d.field(), right)
	}
	d.warn(func() string {
		if right == "" {
			return "unknown property, not read"
		}
		return "unknown property, not read: did you mean " + right + "?"
	})
}

// warn adds what is to be said of the property at hand to the warnings, until there are too many.
func (d *decoder) warn(what func() string) {
	if len(d.warnings) < maxMistakes {
		d.warnings = append(d.warnings, d.field()+": "+what())
	}
}

// elements reads an array.
func (d *decoder) elements(want string, item func(i int)) {
	if !d.enter('[', want) {
		return
	}
	defer d.leave()
	for i := 0; d.next(']', i == 0); i++ {
		d.path = append(d.path, step{kind: element, index: i})
		item(i)
		d.path = d.path[:len(d.path)-1]
	}
}

// skip reads over a value of any type.
func (d *decoder) skip() {
	switch c := d.peek(); c {
	case '{':
		d.members(property, func(string) { d.skip() })
	case '[':
		d.elements("an array", func(int) { d.skip() })
	case '"':
		d.quoted()
	case 't':
		d.literal("true")
	case 'f':
		d.literal("false")
	case 'n':
		d.literal("null")
	default:
		d.number()
	}
}

// wrongType notes that the value at pos is not what it should be, and skips it.
func (d *decoder) wrongType(want string) {
	var got string
	switch c := d.peek(); {
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == 't' || c == 'f':
		got = "a boolean"
	case c == '"':
		at := d.pos
		s, _ := d.quoted()
		d.pos = min(at, d.pos)
		got = "string " + quote(s)
	case c == '-' || '0' <= c && c <= '9':
		at := d.pos
		n, _ := d.number()
		d.pos = min(at, d.pos)
		got = "number " + clip(n)
	}
	if d.stopped != nil {
		return
	}
	if got != "" {
		d.mistake("got " + got + ", want " + want)
	}
	d.skip()
}

// quote writes a value from the file into a message: in quotes, control characters escaped, not too long.
func quote(s string) string { return strconv.Quote(clip(s)) }

// plain writes a property's name into a message: as it is, unless it could be taken for something else there.
func plain(name string) string {
	odd := func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if name == "" || strings.ContainsFunc(name, odd) {
		return quote(name)
	}
	return clip(name)
}

func clip(s string) string {
	if len(s) <= maxQuote {
		return s
	}
	cut := maxQuote
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
