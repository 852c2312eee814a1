package hull

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/overlay"
	"hull/internal/user"
)

// privatePlaces are those that the caller could look into.
func (v *view) privatePlaces() (places []string) {
	for _, dir := range overlay.Private {
		if v.mayUse(dir) {
			places = append(places, dir)
		}
	}
	return places
}

// mayUse tells whether a file exists and the caller may do anything with it.
func (v *view) mayUse(name string) bool {
	if !v.userNS {
		return unix.Access(name, unix.F_OK) == nil
	}
	for _, mode := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
		switch err := unix.Access(name, mode); err {
		case nil:
			return true
		case unix.ENOENT, unix.ENOTDIR: // so it is for any use
			return false
		}
	}
	return false
}

// firstUserID is the lowest id that systems give to people (UID_MIN, login.defs(5)).
const firstUserID = 1000

// otherHomes are home directories that are not where homes usually are: those of people, and the caller's.
func (v *view) otherHomes() (homes []string) {
	if v.home != "" {
		homes = append(homes, v.home)
	}
	passwd, err := linux.ReadFile("/etc/passwd", make([]byte, 4<<10))
	if err != nil {
		return homes
	}
	users, err := user.Users(bytes.NewReader(passwd))
	if err != nil {
		return homes
	}
	caller := uint32(os.Geteuid())
	for _, u := range users {
		if u.UID < firstUserID && u.UID != caller || !path.IsAbs(u.Home) || path.Clean(u.Home) != u.Home {
			continue
		}
		// A directory of the root that isn't among the programs is empty anyway. Otherwise it is not a home.
		if path.Dir(u.Home) != "/" && !slices.Contains(homes, u.Home) {
			homes = append(homes, u.Home)
		}
	}
	return homes
}

// masks returns what is covered in the container.
func (v *view) masks() []string {
	masks := slices.Clone(v.hidden)
	if v.All {
		return masks
	}
	for _, s := range overlay.Secrets {
		masks = v.mask(masks, s, v.host() && slices.Contains(overlay.Programs, s[:1+strings.IndexByte(s[1:], '/')]))
	}
	if v.home == "" || !v.Home && !slices.ContainsFunc(v.binds, func(b overlay.Bind) bool { return below(v.home, b.Source) || below(b.Source, v.home) }) {
		return masks
	}
	for _, s := range overlay.HomeSecrets {
		masks = v.mask(masks, path.Join(v.home, s), v.Home)
	}
	return masks
}

// mask adds the places where a secret would be seen: its own, if that is shown, and where it is in what is bound.
func (v *view) mask(masks []string, secret string, shown bool) []string {
	dir := prefix(secret)
	near := func(b overlay.Bind) bool { return below(dir, b.Source) || below(b.Source, dir) }
	if !shown && !slices.ContainsFunc(v.binds, near) {
		return masks
	}
	names := []string{secret}
	if strings.ContainsRune(secret, '*') {
		names = v.glob(secret)
	}
	for _, name := range names {
		if !v.mayUse(name) {
			continue
		}
		over := func(b overlay.Bind) bool { return below(name, b.Path) || below(b.Path, name) }
		if shown && !slices.ContainsFunc(v.binds, over) {
			masks = append(masks, name)
		}
		for _, b := range v.binds {
			if name != b.Source && below(name, b.Source) {
				masks = append(masks, path.Join(b.Path, strings.TrimPrefix(name, b.Source)))
			}
		}
	}
	return masks
}

// glob is filepath.Glob that reads a directory once for all patterns of secrets in it.
func (v *view) glob(pattern string) (found []string) {
	dir, last := path.Split(pattern)
	if strings.ContainsRune(dir, '*') || !slices.Contains(overlay.Secrets, pattern) {
		found, _ = filepath.Glob(pattern)
		return found
	}
	names, read := v.listed[dir]
	if !read {
		names = secretsIn(dir)
		if v.listed == nil {
			v.listed = map[string][]string{}
		}
		v.listed[dir] = names
	}
	for _, name := range names {
		if ok, _ := path.Match(last, name); ok {
			found = append(found, dir+name)
		}
	}
	return found
}

// secretsIn returns the names in a directory, which ends in a slash, that begin as a pattern of secrets there does.
func secretsIn(dir string) (names []string) {
	var begins [][]byte
	for _, s := range overlay.Secrets {
		if d, last := path.Split(s); d == dir {
			if plain, _, wild := strings.Cut(last, "*"); wild {
				begins = append(begins, []byte(plain))
			}
		}
	}
	_ = linux.EachName(dir, func(name []byte) {
		if slices.ContainsFunc(begins, func(b []byte) bool { return bytes.HasPrefix(name, b) }) {
			names = append(names, string(name))
		}
	})
	slices.Sort(names)
	return names
}

// prefix returns the directories of a pattern before the first that has a wildcard.
func prefix(pattern string) string {
	plain, _, wild := strings.Cut(pattern, "*")
	if wild {
		plain = path.Dir(plain + "x")
	}
	return plain
}

// homeDir is the caller's home directory without symbolic links, or "".
func homeDir() string {
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return ""
	}
	real, err := overlay.Real(home)
	if err != nil || real == "/" {
		return ""
	}
	if fi, err := os.Stat(real); err != nil || !fi.IsDir() {
		return ""
	}
	return real
}
