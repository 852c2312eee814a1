// Package user reads what says who a process runs as: the passwd(5) file of a root file system, and the user that exec
// is given.
//
// A root file system belongs to whoever built the image, so its passwd is hostile input. It comes as a reader, opened by
// someone who knows how to open a file below a root; it is read within fixed bounds; and a line with an id that isn't a
// 32-bit number matches nobody. No id is ever rounded, wrapped or taken for 0 (CVE-2024-40635, CVE-2026-30892).
package user

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"hull/internal/fault"
)

// The bounds of a file. Real ones with every user of a large site fit ten times over.
const (
	maxFile = 10 << 20
	maxLine = 64 << 10
)

// The errors of a file that is out of bounds.
var (
	ErrFileTooLong = errors.New("the file is larger than 10 MiB")
	ErrLineTooLong = errors.New("a line is longer than 64 KiB")
)

// Home returns the home directory of the first user in the passwd(5) content with that id. It is false if there is none,
// or if that user's home directory is empty or couldn't be an environment variable's value.
func Home(passwd io.Reader, uid uint32) (string, bool, error) {
	limited := &io.LimitedReader{R: passwd, N: maxFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		id, home, ok := parsePasswd(lines.Bytes())
		if ok && id == uid {
			if limited.N == 0 {
				return "", false, ErrFileTooLong // the line may be cut
			}
			usable := len(home) > 0 && bytes.IndexByte(home, 0) < 0
			return string(home), usable, nil
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return "", false, ErrLineTooLong
	case err != nil:
		return "", false, err
	case limited.N == 0:
		return "", false, ErrFileTooLong
	}
	return "", false, nil
}

// parsePasswd returns the id and the home directory of a line of passwd(5): name:password:uid:gid:comment:home:shell.
// The shell may be missing.
func parsePasswd(line []byte) (uid uint32, home []byte, ok bool) {
	const idField, homeField = 2, 5
	for i := 0; ; i++ {
		field, rest, more := bytes.Cut(line, []byte(":"))
		switch i {
		case idField:
			n, err := parseID(string(field))
			if err != nil {
				return 0, nil, false
			}
			uid = n
		case homeField:
			return uid, field, true
		}
		if !more {
			return 0, nil, false
		}
		line = rest
	}
}

// User is an entry of passwd(5).
type User struct {
	Name, Home, Shell string
	UID, GID          uint32
}

// Users returns the entries of a passwd(5) file. Those whose ids are no numbers are left out.
func Users(passwd io.Reader) (users []User, err error) {
	err = entries(passwd, 4, func(f []string) {
		uid, uerr := parseID(f[2])
		gid, gerr := parseID(f[3])
		if f[0] == "" || uerr != nil || gerr != nil {
			return
		}
		u := User{Name: f[0], UID: uid, GID: gid}
		if len(f) > 5 {
			u.Home = f[5]
		}
		if len(f) > 6 {
			u.Shell = f[6]
		}
		users = append(users, u)
	})
	return users, err
}

// Group is an entry of group(5).
type Group struct {
	Name    string
	GID     uint32
	Members []string
}

// Groups returns the entries of a group(5) file. Those whose id is no number are left out.
func Groups(group io.Reader) (groups []Group, err error) {
	err = entries(group, 3, func(f []string) {
		gid, gerr := parseID(f[2])
		if f[0] == "" || gerr != nil {
			return
		}
		g := Group{Name: f[0], GID: gid}
		if len(f) > 3 && f[3] != "" {
			g.Members = strings.Split(f[3], ",")
		}
		groups = append(groups, g)
	})
	return groups, err
}

// entries calls f with the fields of each line that has at least so many.
func entries(file io.Reader, atLeast int, f func(fields []string)) error {
	limited := &io.LimitedReader{R: file, N: maxFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), ":"); len(fields) >= atLeast {
			f(fields)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return ErrLineTooLong
	case err != nil:
		return err
	case limited.N == 0:
		return ErrFileTooLong
	}
	return nil
}

// parseID reads a user or group id: decimal digits, below the (uid_t)-1 that stands for no id.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n == math.MaxUint32:
		return 0, fmt.Errorf("%s is not in 0 to %d", s, uint32(math.MaxUint32-1))
	case err != nil:
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return uint32(n), nil
}

// ID is what exec's --user names. Without HasGID the group is the caller's to choose.
type ID struct {
	UID, GID uint32
	HasGID   bool
}

// Parse reads "uid" or "uid:gid". Both are numbers: names would have to be looked up in a file of the container.
func Parse(s string) (ID, error) {
	u, g, hasGID := strings.Cut(s, ":")
	uid, err := parseID(u)
	if err != nil {
		return ID{}, badUser(s, "uid", u, "/etc/passwd", err)
	}
	if !hasGID {
		return ID{UID: uid}, nil
	}
	gid, err := parseID(g)
	if err != nil {
		return ID{}, badUser(s, "gid", g, "/etc/group", err)
	}
	return ID{UID: uid, GID: gid, HasGID: true}, nil
}

// badUser is the error of a part of s that is no id. names has the numbers of what may be a name.
func badUser(s, part, value, names string, err error) error {
	e := &fault.Error{Step: fmt.Sprintf("user %q", s), Kind: fault.BadUsage, Err: fmt.Errorf("%s %w", part, err)}
	if first, _ := utf8.DecodeRuneInString(value); unicode.IsLetter(first) || first == '_' {
		e.Hint = "names are not looked up: the number of one is in the container's " + names
	}
	return e
}
