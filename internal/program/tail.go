package program

import (
	"strings"
	"unicode"
)

// outputMax is how many bytes of a program's output an error quotes.
const outputMax = 4 << 10

// tail is a writer that keeps the last max bytes.
type tail struct {
	max int
	buf []byte
	cut bool // something was dropped
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > t.max {
		p, t.cut = p[len(p)-t.max:], true
	}
	if over := len(t.buf) + len(p) - t.max; over > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[over:])]
		t.cut = true
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// line returns what was kept as one line: lines are joined by "; ", and what could move a terminal's cursor is dropped.
func (t *tail) line() string {
	var lines []string
	for line := range strings.Lines(strings.ToValidUTF8(string(t.buf), "")) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if line != "" {
			lines = append(lines, line)
		}
	}
	s := strings.Join(lines, "; ")
	if t.cut && s != "" {
		s = "…" + s
	}
	return s
}

func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case unicode.IsPrint(r):
		return r
	}
	return -1
}
