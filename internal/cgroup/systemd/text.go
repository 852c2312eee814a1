package systemd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ParseProperty parses a property as annotations give it: a name of letters, and a value as text in GVariant's format,
// "uint64 5000000", "'text'", "true" or "['a.service', 'b.service']".
//
// A name like TimeoutStopSec, which unit files have, stands for what the bus has, TimeoutStopUSec in microseconds.
func ParseProperty(name, text string) (Property, error) {
	if len(name) < 3 || strings.Trim(name, letters) != "" {
		return Property{}, fmt.Errorf("%q is not the name of a property", name)
	}
	v, err := parseValue(text)
	if err != nil {
		return Property{}, err
	}
	if base, ok := strings.CutSuffix(name, "Sec"); ok && base != "" && base[len(base)-1] >= 'a' {
		usec, err := microseconds(v)
		return Property{base + "USec", usec}, err
	}
	return Property{name, v}, nil
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// microseconds returns a number of seconds in microseconds.
func microseconds(v any) (uint64, error) {
	const second = 1_000_000
	var n int64
	switch v := v.(type) {
	case byte:
		n = int64(v)
	case int16:
		n = int64(v)
	case uint16:
		n = int64(v)
	case int32:
		n = int64(v)
	case uint32:
		n = int64(v)
	case int64:
		n = v
	case uint64:
		if v > 1<<62/second {
			return 0, errors.New("too many seconds")
		}
		return v * second, nil
	case float64:
		if v < 0 || v > 1<<62/second {
			return 0, errors.New("no time in seconds")
		}
		return uint64(v * second), nil
	default:
		return 0, errors.New("want a number of seconds")
	}
	if n < 0 || n > 1<<62/second {
		return 0, errors.New("no time in seconds")
	}
	return uint64(n) * second, nil
}

// textTypes are GVariant's words for types and the signatures they stand for.
func textType(word string) string {
	switch word {
	case "boolean":
		return "b"
	case "byte":
		return "y"
	case "int16":
		return "n"
	case "uint16":
		return "q"
	case "int32":
		return "i"
	case "uint32":
		return "u"
	case "int64":
		return "x"
	case "uint64":
		return "t"
	case "double":
		return "d"
	case "string":
		return "s"
	case "objectpath":
		return "o"
	}
	return ""
}

// parseValue parses a value, with its type before it or, as GVariant infers it, without: 1 is an int32, 1.0 a double.
func parseValue(text string) (any, error) {
	text = strings.TrimSpace(text)
	sig := ""
	if word, rest, ok := strings.Cut(text, " "); ok {
		if s, typed := strings.CutPrefix(word, "@"); typed {
			sig, text = s, strings.TrimSpace(rest)
		} else if s := textType(word); s != "" {
			sig, text = s, strings.TrimSpace(rest)
		}
	}
	if strings.HasPrefix(text, "[") {
		return parseArray(sig, text)
	}
	return parseBasic(sig, text)
}

func parseBasic(sig, text string) (any, error) {
	switch {
	case sig == "" && (text == "true" || text == "false"):
		sig = "b"
	case sig == "" && text != "" && (text[0] == '\'' || text[0] == '"'):
		sig = "s"
	case sig == "" && strings.ContainsAny(text, ".eE") && !strings.HasPrefix(text, "0x"):
		sig = "d"
	case sig == "":
		sig = "i"
	}
	switch sig {
	case "b":
		return parseBool(text)
	case "d":
		return parseNumber(text, func(s string) (float64, error) { return strconv.ParseFloat(s, 64) })
	case "s":
		return parseString(text)
	case "o":
		s, err := parseString(text)
		return ObjectPath(s), err
	case "y":
		return unsigned[byte](text, 8)
	case "q":
		return unsigned[uint16](text, 16)
	case "u":
		return unsigned[uint32](text, 32)
	case "t":
		return unsigned[uint64](text, 64)
	case "n":
		return signed[int16](text, 16)
	case "i":
		return signed[int32](text, 32)
	case "x":
		return signed[int64](text, 64)
	}
	return nil, fmt.Errorf("values of the type %q are not supported", sig)
}

func unsigned[T byte | uint16 | uint32 | uint64](text string, bits int) (T, error) {
	return parseNumber(text, func(s string) (T, error) {
		n, err := strconv.ParseUint(s, 0, bits)
		return T(n), err
	})
}

func signed[T int16 | int32 | int64](text string, bits int) (T, error) {
	return parseNumber(text, func(s string) (T, error) {
		n, err := strconv.ParseInt(s, 0, bits)
		return T(n), err
	})
}

func parseNumber[T any](text string, parse func(string) (T, error)) (T, error) {
	n, err := parse(text)
	if err != nil {
		return n, fmt.Errorf("%q is not a value: %w", text, errors.Unwrap(err))
	}
	return n, nil
}

func parseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is not a boolean", text)
}

// parseString parses a string in single or double quotes, with backslashes before what they keep as it is.
func parseString(text string) (string, error) {
	s, rest, err := cutString(text)
	if err == nil && rest != "" {
		err = fmt.Errorf("%q goes on after the string", text)
	}
	return s, err
}

// cutString takes a string off the beginning of text.
func cutString(text string) (s, rest string, err error) {
	if text == "" || text[0] != '\'' && text[0] != '"' {
		return "", "", fmt.Errorf("%q is not a string in quotes", text)
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == text[0]:
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(unescaped(text[i]))
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", fmt.Errorf("%q has no closing quote", text)
}

func unescaped(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 't':
		return '\t'
	case 'r':
		return '\r'
	}
	return c
}

// parseArray parses an array of strings or of numbers.
func parseArray(sig, text string) (any, error) {
	inner, ok := strings.CutSuffix(strings.TrimPrefix(text, "["), "]")
	if !ok {
		return nil, fmt.Errorf("%q has no closing bracket", text)
	}
	inner = strings.TrimSpace(inner)
	if sig == "" && inner != "" && (inner[0] == '\'' || inner[0] == '"') {
		sig = "as"
	}
	switch sig {
	case "as":
		return parseStrings(inner)
	case "ay":
		return parseNumbers(inner, unsigned[byte], 8)
	case "au":
		return parseNumbers(inner, unsigned[uint32], 32)
	case "at":
		return parseNumbers(inner, unsigned[uint64], 64)
	case "":
		return nil, fmt.Errorf("%q: say which type, as in @au [1, 2]", text)
	}
	return nil, fmt.Errorf("values of the type %q are not supported", sig)
}

func parseStrings(text string) ([]string, error) {
	list := []string{}
	for text != "" {
		s, rest, err := cutString(text)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
		rest = strings.TrimSpace(rest)
		if rest == "" {
			break
		}
		if rest[0] != ',' {
			return nil, fmt.Errorf("%q: want a comma", rest)
		}
		text = strings.TrimSpace(rest[1:])
	}
	return list, nil
}

func parseNumbers[T any](text string, parse func(string, int) (T, error), bits int) ([]T, error) {
	list := []T{}
	if text == "" {
		return list, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		n, err := parse(strings.TrimSpace(item), bits)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}
