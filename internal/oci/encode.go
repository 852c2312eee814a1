package oci

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Encode returns a configuration as JSON that Parse reads. It is for those who have no time for encoding/json, which is at
// work for the better part of a millisecond before it writes its first configuration; sections for other platforms are left out.
func Encode(s *specs.Spec) []byte {
	return encode(make([]byte, 0, 8<<10), reflect.ValueOf(s).Elem())
}

// EncodeProcess is Encode for a process.
func EncodeProcess(p *specs.Process) []byte {
	return encode(make([]byte, 0, 2<<10), reflect.ValueOf(p))
}

// EncodeString is Encode for a string.
func EncodeString(s string) []byte { return encodeString(nil, s) }

// encode appends v. The kinds are those that a test finds in specs.Spec.
func encode(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.IsNil() {
			return append(b, "null"...)
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		return encode(b, v.Elem())
	case reflect.Struct:
		b = encodeFields(append(b, '{'), v)
		return append(b, '}')
	case reflect.Slice:
		b = append(b, '[')
		for i := range v.Len() {
			b = encode(comma(b), v.Index(i))
		}
		return append(b, ']')
	case reflect.Map:
		b = append(b, '{')
		for it := v.MapRange(); it.Next(); {
			b = encodeString(comma(b), it.Key().String())
			b = encode(append(b, ':'), it.Value())
		}
		return append(b, '}')
	case reflect.String:
		return encodeString(b, v.String())
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(b, v.Uint(), 10)
	}
	panic("bug: a configuration has a field of kind " + v.Kind().String())
}

// encodeFields appends the fields of a struct, of those that are embedded in it, too.
func encodeFields(b []byte, v reflect.Value) []byte {
	t := v.Type()
	for i := range t.NumField() {
		f, value := t.Field(i), v.Field(i)
		if f.Anonymous {
			b = encodeFields(b, value)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if options == "omitempty" && empty(value) || isForeign(value) {
			continue
		}
		b = encodeString(comma(b), name)
		b = encode(append(b, ':'), value)
	}
	return b
}

// empty tells whether a field is one that omitempty leaves out: a struct never is.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// isForeign tells whether a field is a section for another platform, which Check refuses.
func isForeign(v reflect.Value) bool {
	switch v.Interface().(type) {
	case *specs.Solaris, *specs.Windows, *specs.VM, *specs.ZOS, *specs.FreeBSD:
		return true
	}
	return false
}

// comma appends one, unless what comes is the first of a list.
func comma(b []byte) []byte {
	if last := b[len(b)-1]; last == '[' || last == '{' {
		return b
	}
	return append(b, ',')
}

func encodeString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c < ' ':
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&0xf])
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:]) // what is no text becomes U+FFFD, as in encoding/json
			b = utf8.AppendRune(b, r)
			i += n
		}
	}
	return append(b, '"')
}
