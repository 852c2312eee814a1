package upper

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Kind says what happened to a file.
type Kind byte

// What happens to files.
const (
	Added    Kind = 'A'
	Modified Kind = 'M'
	Deleted  Kind = 'D'
)

func (k Kind) String() string { return string(rune(k)) }

// Type is the type of a file, as in st_mode (inode(7)).
type Type uint32

func (t Type) String() string {
	switch t {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	}
	return fmt.Sprintf("type %#o", uint32(t))
}

// Change is one difference between the host's files and what a command has made of them.
type Change struct {
	Kind Kind
	Path string // in the container: absolute, clean, and otherwise any bytes
	Type Type   // now; of something deleted, before
	Was  Type   // before, of something modified that was of another type; or 0
	Size int64  // of a file, in bytes
	Mode uint32 // permissions, with S_ISUID, S_ISGID and S_ISVTX
	UID  uint32
	GID  uint32
	// Target is that of a symbolic link.
	Target string
	// Link is the path of an earlier change that is the same file (a hard link), or "".
	Link string
	// Shown says that it is in a directory that shows the host's. What is not has nothing of the host's to be put onto.
	Shown bool

	upper  unix.Stat_t  // of what is there now, unless it is deleted
	lower  *unix.Stat_t // of the host's file, or nil
	origin bool         // the file has come from a lower layer, under this name or another one
}

// String returns the change in one line, whatever the path has in it.
func (c Change) String() string {
	var s strings.Builder
	s.WriteString(c.Kind.String() + " " + Escape(c.Path) + " (")
	switch {
	case c.Link != "":
		s.WriteString("hard link to " + Escape(c.Link))
	case c.Type == unix.S_IFLNK && c.Kind != Deleted:
		s.WriteString("symlink to " + Escape(c.Target))
	case c.Type == unix.S_IFREG:
		s.WriteString("file, " + size(c.Size))
	default:
		s.WriteString(c.Type.String())
	}
	if c.Was != 0 {
		s.WriteString(", was " + c.Was.String())
	}
	return s.String() + ")"
}

func size(n int64) string {
	if n < 10000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if f /= 1000; f < 1000 {
			return strconv.FormatFloat(f, 'f', 1, 64) + " " + unit
		}
	}
	return strconv.FormatFloat(f/1000, 'f', 1, 64) + " EB"
}

// Escape returns a path with everything in it that doesn't print, and the backslash, as in a Go string: it can't end a
// line, move a terminal's cursor or turn the direction of the text. Different paths stay different.
func Escape(path string) string {
	var s strings.Builder
	for i := 0; i < len(path); {
		r, n := utf8.DecodeRuneInString(path[i:])
		switch {
		case r == '\\':
			s.WriteString(`\\`)
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&s, `\x%02x`, path[i])
		case !strconv.IsPrint(r):
			q := strconv.QuoteRune(r)
			s.WriteString(q[1 : len(q)-1])
		default:
			s.WriteString(path[i : i+n])
		}
		i += n
	}
	return s.String()
}

// MarshalJSON gives a path that is no UTF-8 a second time, as its bytes in base64.
func (c Change) MarshalJSON() ([]byte, error) {
	v := struct {
		Kind        string `json:"kind"`
		Path        string `json:"path"`
		PathBytes   []byte `json:"pathBytes,omitempty"`
		Type        string `json:"type"`
		Was         string `json:"was,omitempty"`
		Size        int64  `json:"size"`
		Mode        string `json:"mode"`
		UID         uint32 `json:"uid"`
		GID         uint32 `json:"gid"`
		Target      string `json:"target,omitempty"`
		TargetBytes []byte `json:"targetBytes,omitempty"`
		Link        string `json:"link,omitempty"`
		LinkBytes   []byte `json:"linkBytes,omitempty"`
	}{
		Kind: c.Kind.String(), Path: c.Path, Type: c.Type.String(), Size: c.Size, Mode: fmt.Sprintf("%04o", c.Mode),
		UID: c.UID, GID: c.GID, Target: c.Target, Link: c.Link,
		PathBytes: bytesOf(c.Path), TargetBytes: bytesOf(c.Target), LinkBytes: bytesOf(c.Link),
	}
	if c.Was != 0 {
		v.Was = c.Was.String()
	}
	return json.Marshal(v)
}

func bytesOf(s string) []byte {
	if utf8.ValidString(s) {
		return nil
	}
	return []byte(s)
}

// Print writes a line for each change.
func Print(w io.Writer, changes []Change) error {
	var s strings.Builder
	for _, c := range changes {
		s.WriteString(c.String() + "\n")
	}
	_, err := io.WriteString(w, s.String())
	return err
}
