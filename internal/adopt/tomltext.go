package adopt

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// table is a table of a TOML text (toml.io, version 1.0): of its values some are tables, []any, string, int64, bool, and bare for
// numbers and times that nobody here looks at. The modules that read TOML do work before main, for each command of hull.
type table struct {
	values  map[string]any
	inline  bool // in braces: nothing is added to it
	defined bool // it has had its header
	dotted  bool // made by a dotted key: it gets no header
}

// bare is a number or a time as it is written.
type bare string

// list is an array of tables, each of which has a header.
type list []*table

func newTable() *table { return &table{values: map[string]any{}} }

// walk returns what is below a table by those names, or nil.
func (t *table) walk(names ...string) any {
	var v any = t
	for _, name := range names {
		t, ok := v.(*table)
		if !ok || t == nil {
			return nil
		}
		v = t.values[name]
	}
	return v
}

// open returns why no table can be added below t by those names, or nil.
func (t *table) open(names ...string) error {
	for i := range names {
		path := dotted(names[:i+1])
		switch v := t.values[names[i]].(type) {
		case nil:
			return nil
		case *table:
			if v.inline {
				return fmt.Errorf("%s is in braces, where nothing can be added: write it as [%s]", path, path)
			}
			t = v
		default:
			return fmt.Errorf("%s is no table", path)
		}
	}
	return nil
}

// dotted returns names as a key.
func dotted(names []string) string {
	var parts []string
	for _, name := range names {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r > 0x7f || !isBareKey(byte(r)) }) {
			name = tomlString(name)
		}
		parts = append(parts, name)
	}
	return strings.Join(parts, ".")
}

// parser reads a TOML text.
type parser struct {
	text string
	at   int
}

// parseTOML reads a text.
func parseTOML(text string) (root *table, err error) {
	p := &parser{text: text}
	if !utf8.ValidString(text) {
		return nil, errors.New("no TOML: no UTF-8")
	}
	root = newTable()
	current := root
	for err == nil {
		if p.blank(true); p.at == len(text) {
			return root, nil
		}
		if p.text[p.at] == '[' {
			current, err = p.header(root)
		} else {
			err = p.pair(current)
		}
		if err == nil {
			err = p.endOfLine()
		}
	}
	return nil, fmt.Errorf("no TOML: line %d: %w", 1+strings.Count(text[:min(p.at, len(text))], "\n"), err)
}

// blank skips white space, and with lines also comments and line breaks.
func (p *parser) blank(lines bool) {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r' && strings.HasPrefix(p.text[p.at:], "\r\n")):
			p.at++
		case c == '#' && lines:
			p.comment()
		default:
			return
		}
	}
}

func (p *parser) comment() {
	if n := strings.IndexByte(p.text[p.at:], '\n'); n >= 0 {
		p.at += n
	} else {
		p.at = len(p.text)
	}
}

func (p *parser) take(s string) bool {
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *parser) endOfLine() error {
	p.blank(false)
	if p.at < len(p.text) && p.text[p.at] == '#' {
		p.comment()
	}
	if p.at == len(p.text) || p.take("\n") || p.take("\r\n") {
		return nil
	}
	return fmt.Errorf("%.10q where the line should end", p.text[p.at:])
}

// header reads [a.b] or [[a.b]] and returns the table that the lines after it are of.
func (p *parser) header(root *table) (*table, error) {
	array := p.take("[[")
	if !array {
		p.at++
	}
	if p.blank(false); strings.HasPrefix(p.text[p.at:], "]") {
		return nil, errors.New("a table without a name")
	}
	keys, err := p.keys()
	if err != nil {
		return nil, err
	}
	if array && !p.take("]]") || !array && !p.take("]") {
		return nil, errors.New("a header without its end")
	}
	t := root
	for _, key := range keys[:len(keys)-1] {
		if t, err = t.step(key); err != nil {
			return nil, err
		}
	}
	last := keys[len(keys)-1]
	if array {
		tables, isList := t.values[last].(list)
		if t.values[last] != nil && !isList {
			return nil, fmt.Errorf("%q is there twice", last)
		}
		fresh := newTable()
		t.values[last] = append(tables, fresh)
		return fresh, nil
	}
	if _, isList := t.values[last].(list); isList {
		return nil, fmt.Errorf("%q is an array of tables", last)
	}
	if t, err = t.step(last); err != nil {
		return nil, err
	}
	if t.defined || t.dotted {
		return nil, fmt.Errorf("%q is there twice", last)
	}
	t.defined = true
	return t, nil
}

// step returns the table of that name in t, made if there is none.
func (t *table) step(name string) (*table, error) {
	switch v := t.values[name].(type) {
	case nil:
		next := newTable()
		t.values[name] = next
		return next, nil
	case *table:
		if v.inline {
			return nil, fmt.Errorf("tables can't be added to %q, which is in braces; write it as [table]", name)
		}
		return v, nil
	case list:
		return v[len(v)-1], nil
	}
	return nil, fmt.Errorf("%q is no table", name)
}

// keys reads a dotted key.
func (p *parser) keys() (keys []string, err error) {
	for {
		p.blank(false)
		var key string
		switch rest := p.text[p.at:]; {
		case strings.HasPrefix(rest, `"`), strings.HasPrefix(rest, `'`):
			if key, err = p.quoted(false); err != nil {
				return nil, err
			}
		default:
			n := 0
			for n < len(rest) && isBareKey(rest[n]) {
				n++
			}
			if n == 0 {
				return nil, fmt.Errorf("%.10q where a name should be", rest)
			}
			key = rest[:n]
			p.at += n
		}
		keys = append(keys, key)
		if p.blank(false); !p.take(".") {
			return keys, nil
		}
	}
}

func isBareKey(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// pair reads a name and its value into t.
func (p *parser) pair(t *table) error {
	keys, err := p.keys()
	if err != nil {
		return err
	}
	if !p.take("=") {
		return fmt.Errorf("no = after %q", keys[len(keys)-1])
	}
	for _, key := range keys[:len(keys)-1] {
		if t, err = t.step(key); err != nil {
			return err
		}
		if t.defined {
			return fmt.Errorf("%q is there twice", key)
		}
		t.dotted = true
	}
	last := keys[len(keys)-1]
	if t.values[last] != nil {
		return fmt.Errorf("%q is there twice", last)
	}
	p.blank(false)
	t.values[last], err = p.value(0)
	return err
}

// maxDepth bounds arrays in arrays.
const maxDepth = 100

func (p *parser) value(depth int) (any, error) {
	rest := p.text[p.at:]
	switch {
	case depth > maxDepth:
		return nil, errors.New("too many levels")
	case rest == "":
		return nil, errors.New("a value is missing")
	case rest[0] == '"' || rest[0] == '\'':
		return p.quoted(true)
	case rest[0] == '[':
		return p.array(depth)
	case rest[0] == '{':
		return p.braces(depth)
	}
	n := strings.IndexAny(rest, ",]}#\r\n")
	if n < 0 {
		n = len(rest)
	}
	word := strings.TrimRight(rest[:n], " \t")
	p.at += len(word)
	if word == "true" || word == "false" {
		return word == "true", nil
	}
	if i, err := strconv.ParseInt(word, 10, 64); err == nil {
		return i, nil
	}
	if word == "inf" || word == "nan" || word != "" && strings.IndexByte("+-0123456789", word[0]) >= 0 && strings.Trim(word, "+-_.:0123456789abcdefABCDEFTZtzoxin ") == "" {
		return bare(word), nil
	}
	return nil, fmt.Errorf("%.20q is no value", word)
}

func (p *parser) array(depth int) (any, error) {
	p.at++
	values := []any{}
	for {
		if p.blank(true); p.take("]") {
			return values, nil
		}
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
		if p.blank(true); !p.take(",") {
			if p.take("]") {
				return values, nil
			}
			return nil, errors.New("an array without its end")
		}
	}
}

func (p *parser) braces(depth int) (any, error) {
	p.at++
	t := newTable()
	t.inline = true
	if p.blank(false); p.take("}") {
		return t, nil
	}
	if depth > maxDepth {
		return nil, errors.New("too many levels")
	}
	for {
		// What is in braces may have dotted keys, whose tables are open only there.
		inner := newTable()
		inner.values = t.values
		if err := p.pair(inner); err != nil {
			return nil, err
		}
		p.blank(false)
		switch {
		case p.take(","):
		case p.take("}"):
			return t, nil
		default:
			return nil, errors.New("a table in braces without its end")
		}
	}
}

// quoted reads a string: of one line, or with long perhaps of several.
func (p *parser) quoted(long bool) (string, error) {
	quote := p.text[p.at : p.at+1]
	end := strings.Repeat(quote, 3)
	if !long || !p.take(end) {
		p.at++
		end = quote
		long = false
	}
	var b strings.Builder
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case strings.HasPrefix(p.text[p.at:], end):
			p.at += len(end)
			for long && b.Len() >= 0 && p.at < len(p.text) && p.text[p.at] == quote[0] { // up to two more are the string's
				b.WriteByte(quote[0])
				p.at++
			}
			return b.String(), nil
		case c == '\n' && !long:
			return "", errors.New("a string without its end")
		case c == '\\' && quote == `"`:
			if err := p.escape(&b, long); err != nil {
				return "", err
			}
		default:
			b.WriteByte(c)
			p.at++
		}
	}
	return "", errors.New("a string without its end")
}

// escape reads what a backslash begins.
func (p *parser) escape(b *strings.Builder, long bool) error {
	p.at++
	if p.at == len(p.text) {
		return errors.New("a string without its end")
	}
	c := p.text[p.at]
	if long && strings.IndexByte(" \t\r\n", c) >= 0 {
		p.at += len(p.text[p.at:]) - len(strings.TrimLeft(p.text[p.at:], " \t\r\n"))
		return nil
	}
	if i := strings.IndexByte(`btnfr"\`, c); i >= 0 {
		b.WriteByte("\b\t\n\f\r\"\\"[i])
		p.at++
		return nil
	}
	n := map[byte]int{'u': 4, 'U': 8}[c]
	if n == 0 || p.at+1+n > len(p.text) {
		return fmt.Errorf(`\%c is no escape`, c)
	}
	code, err := strconv.ParseUint(p.text[p.at+1:p.at+1+n], 16, 32)
	if err != nil || !utf8.ValidRune(rune(code)) {
		return fmt.Errorf(`\%s is no character`, p.text[p.at:p.at+1+n])
	}
	b.WriteRune(rune(code))
	p.at += 1 + n
	return nil
}
