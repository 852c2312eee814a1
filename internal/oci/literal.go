package oci

import (
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// number reads a number; integer is false if it has a fraction or an exponent.
func (d *decoder) number() (text string, integer bool) {
	s, i := d.src, d.pos
	digits := func() bool {
		from := i
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		return i > from
	}
	integer = true
	if i < len(s) && s[i] == '-' {
		i++
	}
	if i < len(s) && s[i] == '0' {
		i++
	} else if !digits() {
		d.unexpected("a value")
		return "", false
	}
	if i < len(s) && s[i] == '.' {
		integer = false
		i++
		if !digits() {
			d.stop(i, "a digit is missing")
			return "", false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		integer = false
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if !digits() {
			d.stop(i, "a digit is missing")
			return "", false
		}
	}
	text = s[d.pos:i]
	d.pos = i
	return text, integer
}

// quoted reads a string at its opening quote. Without escapes, which is the rule, it is a part of src and not a copy.
func (d *decoder) quoted() (string, bool) {
	from := d.pos + 1
	ascii := true
	for i := from; i < len(d.src); i++ {
		switch c := d.src[i]; {
		case c == '"':
			d.pos = i + 1
			if !ascii && !utf8.ValidString(d.src[from:i]) {
				d.stop(from, "the string is not UTF-8")
				return "", false
			}
			return d.src[from:i], true
		case c == '\\':
			return d.escaped(from, i)
		case c < ' ':
			d.stop(i, fmt.Sprintf("a control character (%#02x) in a string", c))
			return "", false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	d.stop(len(d.src), "the file ends inside a string")
	return "", false
}

// escaped reads the rest of a string whose first backslash is at i.
func (d *decoder) escaped(from, i int) (string, bool) {
	b := []byte(d.src[from:i])
	for i < len(d.src) {
		c := d.src[i]
		switch {
		case c == '"':
			d.pos = i + 1
			if !utf8.Valid(b) {
				d.stop(from, "the string is not UTF-8")
				return "", false
			}
			return string(b), true
		case c < ' ':
			d.stop(i, fmt.Sprintf("a control character (%#02x) in a string", c))
			return "", false
		case c != '\\':
			b = append(b, c)
			i++
			continue
		}
		r, n := unescape(d.src[i:])
		if n == 0 {
			d.stop(i, "not an escape sequence of JSON")
			return "", false
		}
		b = utf8.AppendRune(b, r)
		i += n
	}
	d.stop(len(d.src), "the file ends inside a string")
	return "", false
}

// unescape reads the escape sequence s begins with. Half a surrogate pair is none: U+FFFD in its place would make one
// path out of many.
func unescape(s string) (r rune, n int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch c := s[1]; c {
	case '"', '\\', '/':
		return rune(c), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, ok := hex4(s[2:])
		if !ok {
			return 0, 0
		}
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if len(s) < 8 || s[6] != '\\' || s[7] != 'u' {
			return 0, 0
		}
		low, ok := hex4(s[8:])
		if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
			return 0, 0
		}
		return r, 12
	}
	return 0, 0
}

func hex4(s string) (rune, bool) {
	if len(s) < 4 || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:4], 16, 16)
	return rune(n), err == nil
}
