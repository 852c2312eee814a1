package upper

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Overlayfs keeps its notes in attributes of these names (Documentation/filesystems/overlayfs.rst): the second in a user
// namespace. A name of its own that a program gives a file of the overlay is stored with "overlay." twice.
const (
	trustedNotes = "trusted.overlay."
	userNotes    = "user.overlay."
)

// self names an open file for the calls that take paths only.
func self(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// at names what is in a directory for the calls that take paths only. It isn't followed if it is a symbolic link.
func at(dir *os.File, name string) string {
	return self(dir) + "/" + name
}

// attr returns an extended attribute, or nil if there is none.
func attr(path, name string) ([]byte, error) {
	b := make([]byte, 128)
	for {
		n, err := unix.Lgetxattr(path, name, b)
		switch err {
		case nil:
			return b[:n:n], nil
		case unix.ENODATA, unix.EOPNOTSUPP, unix.EPERM: // EPERM: user.* of what can't have any
			return nil, nil
		case unix.ERANGE:
			if len(b) > 64<<10 {
				return nil, &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
			}
			b = make([]byte, 65<<10) // XATTR_SIZE_MAX is 64 KiB
		case unix.EINTR:
		default:
			return nil, &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
	}
}

// attrNames returns the names of a file's extended attributes.
func attrNames(path string) ([]string, error) {
	b := make([]byte, 1024)
	for {
		n, err := unix.Llistxattr(path, b)
		switch err {
		case nil:
			return parseNames(b[:n]), nil
		case unix.EOPNOTSUPP:
			return nil, nil
		case unix.ERANGE:
			if len(b) > 64<<10 {
				return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
			}
			b = make([]byte, 65<<10)
		case unix.EINTR:
		default:
			return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
		}
	}
}

// parseNames parses what listxattr(2) writes: names, each with a NUL at its end.
func parseNames(b []byte) (names []string) {
	for _, name := range bytes.Split(b, []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names
}

// note returns a note of overlayfs about a file.
func (t *Tree) note(path, name string) ([]byte, error) { return attr(path, t.notes()+name) }

func (t *Tree) notes() string {
	if t.UserXattr {
		return userNotes
	}
	return trustedNotes
}

// class says what to do with an extended attribute.
type class int

const (
	content   class = iota // the command's: it belongs to the file
	private                // overlayfs' note, or a label that the host's policy gives
	forbidden              // can't be put onto the host
)

// classify is about an attribute of a file in the upper directory.
func (t *Tree) classify(name string) (class, string) {
	if note, ok := strings.CutPrefix(name, t.notes()); ok {
		switch {
		case note == "origin" || note == "impure" || note == "opaque" || note == "nlink" || note == "uuid" || note == "upper" || note == "whiteout":
			return private, ""
		case note == "protattr":
			return forbidden, "is immutable or can only be appended to"
		}
		return forbidden, "has the attribute " + Escape(name) + " of overlayfs"
	}
	switch {
	case strings.HasPrefix(name, trustedNotes), strings.HasPrefix(name, userNotes):
		return forbidden, "has the attribute " + Escape(name) + " of overlayfs"
	case strings.HasPrefix(name, "user."), name == "system.posix_acl_access", name == "system.posix_acl_default":
		return content, ""
	case name == "security.selinux", strings.HasPrefix(name, "security.SMACK64"):
		return private, ""
	case name == "security.capability":
		return forbidden, "has file capabilities"
	}
	return forbidden, "has the attribute " + Escape(name)
}

// attrs returns the attributes of a file that belong to its content.
func (t *Tree) attrs(path string) (map[string]string, error) {
	names, err := attrNames(path)
	if err != nil {
		return nil, err
	}
	var all map[string]string
	for _, name := range names {
		if c, _ := t.classify(name); c == private {
			continue
		}
		value, err := attr(path, name)
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = string(value)
	}
	return all, nil
}

// isWhiteout tells whether a file stands for one that was deleted: a character device 0:0, or an empty file with a note
// (Linux 6.7).
func (t *Tree) isWhiteout(dir *os.File, name string, st *unix.Stat_t) (bool, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return st.Rdev == 0, nil
	case unix.S_IFREG:
		if st.Size == 0 {
			v, err := t.note(at(dir, name), "whiteout")
			return v != nil, err
		}
	}
	return false, nil
}

// isOpaque tells whether a directory hides what the lower layers have in it. (The value x says that there are whiteouts
// of the second sort in it.)
func (t *Tree) isOpaque(dir *os.File, name string) (bool, error) {
	v, err := t.note(at(dir, name), "opaque")
	return len(v) == 1 && v[0] == 'y', err
}
