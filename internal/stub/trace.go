package stub

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Call is a system call that a stub has executed, for a trace.
type Call struct {
	Field string        // where in config.json it comes from; or ""
	Name  string        // of the system call
	Args  string        // decoded
	Value int64         // what it returned
	Errno unix.Errno    // or 0
	Took  time.Duration // since the end of the call before
}

// String returns a line as strace(1) prints, with the field and the time.
func (c Call) String() string {
	result := fmt.Sprint(c.Value)
	if c.Errno != 0 {
		result = fmt.Sprintf("-1 %s (%s)", unix.ErrnoName(c.Errno), c.Errno)
	}
	field := c.Field
	if field != "" {
		field += ": "
	}
	return fmt.Sprintf("%s%s(%s) = %s <%d µs>", field, c.Name, c.Args, result, c.Took.Microseconds())
}

// TraceLines returns a trace that is told each call as a line; or nil without one who is told.
func TraceLines(tell func(line string)) func(Call) {
	if tell == nil {
		return nil
	}
	return func(c Call) { tell(c.String()) }
}

// traceTo reports the calls of a batch, from an entry on, that the stub has executed.
func (b *Batch) traceTo(trace func(Call), from int) {
	var last int64
	for i := from; i < b.entries.n; i++ {
		e := b.entries.at(i)
		if e.took == 0 || e.nr >= opNop {
			continue // jumped over, not reached, or no system call
		}
		c := Call{Field: e.field, Name: callName(e.nr), Args: b.formatArgs(e), Value: e.result}
		if e.result < 0 && e.result > -4096 {
			c.Value, c.Errno = -1, unix.Errno(-e.result)
		}
		if last != 0 {
			c.Took = time.Duration(e.took - last)
		}
		last = e.took
		trace(c)
	}
}

func (b *Batch) formatArgs(e *entry) string {
	args := make([]string, e.nargs)
	for i := range args {
		args[i] = b.formatArg(e.args[i])
	}
	return strings.Join(args, ", ")
}

func (b *Batch) formatArg(a Arg) string {
	switch a.kind {
	case argResult:
		return fmt.Sprint(b.Value(Result(a.n)))
	case argOut:
		return "&"
	case argConst:
		p := b.consts[a.n:][:a.size]
		if s, ok := printable(p); ok {
			return fmt.Sprintf("%q", s)
		}
		return fmt.Sprintf("{%d bytes}", a.size)
	}
	switch n := int64(a.n); {
	case n == unix.AT_FDCWD:
		return "AT_FDCWD"
	case n > 4096:
		return fmt.Sprintf("%#x", n)
	default:
		return fmt.Sprint(n)
	}
}

// printable returns p as a string if that is what it is, rather than a struct.
func printable(p []byte) (string, bool) {
	p = bytes.TrimSuffix(p, []byte{0})
	for _, c := range p {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			return "", false
		}
	}
	return string(p), true
}

// NamespaceNames names the namespaces in flags (CLONE_NEW*) as config.json does.
func NamespaceNames(flags uint64) string {
	var names []string
	for _, n := range linux.Namespaces {
		if flags&n.Flag != 0 {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "with new namespaces " + strings.Join(names, ", ")
}
