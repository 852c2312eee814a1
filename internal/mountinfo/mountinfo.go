// Package mountinfo reads /proc/PID/mountinfo (proc_pid_mountinfo(5)): what is mounted where for a process.
//
// Where the file is read from is the reader's matter: of itself a process has more than one, if its threads have mount namespaces
// of their own. What is asked for of a line is taken apart when it is asked for, since most readers want one thing of many lines.
package mountinfo

import (
	"bytes"
	"iter"
	"strconv"
)

// Mount is a line of the file.
type Mount struct {
	id, root, point, rest []byte
}

// Parse returns the mounts of a text in its order. What is no line of such a file is left out.
func Parse(text []byte) iter.Seq[Mount] {
	return func(yield func(Mount) bool) {
		for line := range bytes.Lines(text) {
			// 36 35 98:0 /root /point rw,noatime master:1 - type source options
			m := Mount{rest: bytes.TrimSuffix(line, []byte{'\n'})}
			complete := true
			for _, field := range []*[]byte{&m.id, nil, nil, &m.root, &m.point} {
				before, after, found := bytes.Cut(m.rest, []byte{' '})
				if field != nil {
					*field = before
				}
				m.rest, complete = after, complete && found
			}
			if complete && !yield(m) {
				return
			}
		}
	}
}

// ID is the number of the mount, which no other has while it is there.
func (m Mount) ID() string { return string(m.id) }

// Root is the path in its file system of what is mounted.
func (m Mount) Root() string { return unescape(m.root) }

// Point is where it is mounted, as seen from the root of the process.
func (m Mount) Point() string { return unescape(m.point) }

// Type is that of the file system, or "".
func (m Mount) Type() string { return m.field(0) }

// Super is the options of the file system, or "".
func (m Mount) Super() string { return m.field(2) }

// field returns one of the fields behind the separator, of which there may be any number before.
func (m Mount) field(n int) string {
	_, rest, _ := bytes.Cut(m.rest, []byte(" - "))
	for range n {
		_, rest, _ = bytes.Cut(rest, []byte{' '})
	}
	field, _, _ := bytes.Cut(rest, []byte{' '})
	return unescape(field)
}

// unescape takes back what the kernel does to spaces, tabs, line feeds and backslashes: a backslash and three octal digits.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	var s []byte
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if n, err := strconv.ParseUint(string(b[i+1:i+4]), 8, 8); err == nil {
				s = append(s, byte(n))
				i += 3
				continue
			}
		}
		s = append(s, b[i])
	}
	return string(s)
}
