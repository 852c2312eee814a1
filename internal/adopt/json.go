package adopt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// object is a JSON object in a text, which is known to be valid.
type object struct {
	open, close int // of its braces
	members     []member
}

// member is a name and a value of an object.
type member struct {
	name       string
	start      int // of the name
	value, end int
}

func (o *object) find(name string) int {
	return slices.IndexFunc(o.members, func(m member) bool { return m.name == name })
}

// parseObject returns the object whose brace is at open.
func parseObject(b []byte, open int) (o object, err error) {
	o.open = open
	for i := skipSpace(b, open+1); ; i = skipSpace(b, i) {
		switch b[i] {
		case '}':
			o.close = i
			return o, nil
		case ',':
			i++
			continue
		}
		m := member{start: i}
		end := skipValue(b, i)
		if err := json.Unmarshal(b[i:end], &m.name); err != nil {
			return o, err
		}
		if o.find(m.name) >= 0 {
			return o, fmt.Errorf("%q is there twice", m.name)
		}
		m.value = skipSpace(b, skipSpace(b, end)+1) // behind the colon
		m.end = skipValue(b, m.value)
		o.members = append(o.members, m)
		i = m.end
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && strings.IndexByte(" \t\r\n", b[i]) >= 0 {
		i++
	}
	return i
}

// skipValue returns where the value that begins at i ends.
func skipValue(b []byte, i int) int {
	depth, quoted := 0, false
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			if quoted = !quoted; !quoted && depth == 0 {
				return i + 1
			}
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case depth == 0 && strings.IndexByte(",: \t\r\n", c) >= 0:
			return i
		}
	}
	return i
}

// indentAt returns the white space that the line of i begins with, and whether nothing else stands before i.
func indentAt(b []byte, i int) (indent string, first bool) {
	line := b[bytes.LastIndexByte(b[:i], '\n')+1 : i]
	n := len(line) - len(bytes.TrimLeft(line, " \t"))
	return string(line[:n]), n == len(line)
}

// add puts a member at the object's end.
func (o *object) add(b []byte, text string) []byte {
	if len(o.members) == 0 {
		outer, _ := indentAt(b, o.open)
		inner := outer + unitOf(b)
		return splice(b, o.open+1, o.close, "\n"+inner+indented(text, inner)+"\n"+outer)
	}
	last := o.members[len(o.members)-1]
	if indent, first := indentAt(b, last.start); first {
		return splice(b, last.end, last.end, ",\n"+indent+indented(text, indent))
	}
	return splice(b, last.end, last.end, ", "+text)
}

// indented returns text with indent before each line but the first, whose lines are indented by a tab a level.
func indented(text, indent string) string { return strings.ReplaceAll(text, "\n", "\n"+indent) }

// unitOf is what the text indents a level by.
func unitOf(b []byte) string {
	for line := range bytes.Lines(b) {
		if n := len(line) - len(bytes.TrimLeft(line, " \t")); n > 0 && n < len(line) && line[n] == '"' {
			return string(line[:n])
		}
	}
	return "    "
}

// remove takes a member away, with the comma that parts it from its neighbour.
func (o *object) remove(b []byte, i int) []byte {
	switch {
	case len(o.members) == 1:
		return splice(b, o.open+1, o.close, "")
	case i > 0:
		return splice(b, o.members[i-1].end, o.members[i].end, "")
	}
	return splice(b, o.members[0].start, o.members[1].start, "")
}

func splice(b []byte, from, to int, text string) []byte {
	return slices.Concat(b[:from], []byte(text), b[to:])
}

// kindOf says what a JSON value is.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case float64:
		return "a number"
	case string:
		return "a string"
	}
	return "an array"
}

// editDocker edits daemon.json: its object runtimes has an object for each.
func editDocker(before []byte, runtimes []Runtime) (after []byte, says []string, err error) {
	b := before
	if len(bytes.TrimSpace(b)) == 0 {
		if runtimes == nil {
			return before, nil, nil
		}
		b = []byte("{}\n")
	}
	var text any
	if err := json.Unmarshal(b, &text); err != nil {
		return nil, nil, fmt.Errorf("no JSON object: %w", located(b, err))
	}
	values, ok := text.(map[string]any)
	if !ok {
		return nil, nil, errors.New("no JSON object, but " + kindOf(text))
	}
	if name := values["default-runtime"]; runtimes == nil && (name == Hull || name == Sandbox) {
		return nil, nil, stillDefault("default-runtime", name)
	}
	for _, name := range []string{Hull, Sandbox} {
		var line string
		i := slices.IndexFunc(runtimes, func(r Runtime) bool { return r.Name == name })
		if i < 0 {
			b, line, err = removeRuntime(b, name)
		} else {
			b, line, err = setRuntime(b, runtimes[i])
		}
		if err != nil {
			return nil, nil, err
		}
		if line != "" {
			says = append(says, line)
		}
	}
	if err := onlyRuntimesDiffer(values, b); err != nil {
		return nil, nil, err
	}
	if runtimes == nil && string(bytes.TrimSpace(b)) == "{}" && says != nil {
		return nil, append(says, "the file is removed: nothing else is in it"), nil
	}
	return b, says, nil
}

// stillDefault is the error of a runtime that can't be forgotten: the engine would not start.
func stillDefault(key string, name any) error {
	return fmt.Errorf("%q is %q: the engine would look for a runtime that it doesn't know any more; give it another first", key, name)
}

// located adds to an error of package json the line.
func located(b []byte, err error) error {
	if e := (*json.SyntaxError)(nil); errors.As(err, &e) {
		return fmt.Errorf("line %d: %w", 1+bytes.Count(b[:min(int(e.Offset), len(b))], []byte("\n")), err)
	}
	return err
}

// objects returns the whole object and, if there is one, that of the runtimes.
func objects(b []byte) (top object, runtimes *object, err error) {
	if top, err = parseObject(b, skipSpace(b, 0)); err != nil {
		return top, nil, err
	}
	i := top.find("runtimes")
	if i < 0 {
		return top, nil, nil
	}
	if b[top.members[i].value] != '{' {
		return top, nil, errors.New(`"runtimes" is no object`)
	}
	o, err := parseObject(b, top.members[i].value)
	return top, &o, err
}

func setRuntime(b []byte, r Runtime) (after []byte, says string, err error) {
	path, err := json.Marshal(r.Path)
	if err != nil {
		return nil, "", err
	}
	text := fmt.Sprintf(`%q: {"path": %s}`, r.Name, path)
	top, runtimes, err := objects(b)
	if err != nil {
		return nil, "", err
	}
	if runtimes == nil {
		return top.add(b, "\"runtimes\": {\n"+unitOf(b)+text+"\n}"), "runtime " + r.Name + " is added: " + r.Path, nil
	}
	i := runtimes.find(r.Name)
	if i < 0 {
		return runtimes.add(b, text), "runtime " + r.Name + " is added: " + r.Path, nil
	}
	m := runtimes.members[i]
	var now map[string]any
	if json.Unmarshal(b[m.value:m.end], &now) == nil && reflect.DeepEqual(now, map[string]any{"path": r.Path}) {
		return b, "", nil
	}
	_, value, _ := strings.Cut(text, ": ")
	return splice(b, m.value, m.end, value), "runtime " + r.Name + " is replaced: " + r.Path, nil
}

func removeRuntime(b []byte, name string) (after []byte, says string, err error) {
	top, runtimes, err := objects(b)
	if err != nil || runtimes == nil {
		return b, "", err
	}
	i := runtimes.find(name)
	if i < 0 {
		return b, "", nil
	}
	if len(runtimes.members) == 1 {
		return top.remove(b, top.find("runtimes")), "runtime " + name + " is removed", nil
	}
	return runtimes.remove(b, i), "runtime " + name + " is removed", nil
}

// onlyRuntimesDiffer makes sure that the text says what was said before, but for hull's runtimes.
func onlyRuntimesDiffer(before map[string]any, text []byte) error {
	var after map[string]any
	if err := json.Unmarshal(text, &after); err != nil {
		return fmt.Errorf("it can't be edited: %w", err)
	}
	for _, values := range []map[string]any{before, after} {
		if r, ok := values["runtimes"].(map[string]any); ok {
			delete(r, Hull)
			delete(r, Sandbox)
			if len(r) == 0 {
				delete(values, "runtimes")
			}
		}
	}
	if !reflect.DeepEqual(before, after) {
		return errors.New("it can't be edited without changing something else")
	}
	return nil
}
