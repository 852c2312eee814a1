// Package upper reads what a command has changed, from the upper directories of the overlays that showed it the host's
// files (package overlay), and puts it onto the host.
//
// The upper directory is what an unknown program wrote. Nothing in it is trusted: no path through it follows a symbolic
// link or leaves its mount, nothing in it is opened before its type is known, and of what the program gave its files only
// permissions, owner, time and user.* attributes reach the host. The host's files are resolved the same way, since others
// may rename there meanwhile.
//
// The program has to have ended: what changes in the upper directory while it is read may be listed wrongly, though it
// harms nothing.
package upper

import (
	"cmp"
	"errors"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/overlay"
)

// Tree is an upper directory and what it lies over.
type Tree struct {
	Upper *os.File // the upper directory of all
	Lower *os.File // the host's directory that was shown as /
	// Entries are what of the host was shown, and so what is in Upper without being the command's.
	Entries []overlay.Entry
	// UserXattr says that the overlays were mounted with the option userxattr.
	UserXattr bool

	loose  []loosened
	mounts []string // see Mounted
}

// loosened is a file that was made readable for its owner.
type loosened struct {
	path string
	mode uint32
}

// Close gives files their modes back that had to be changed to be read. What reads them comes before.
func (t *Tree) Close() error {
	var errs []error
	for _, l := range slices.Backward(t.loose) {
		errs = append(errs, t.chmod(l.path, l.mode))
	}
	t.loose = nil
	return errors.Join(errs...)
}

func (t *Tree) chmod(p string, mode uint32) error {
	f, err := linux.OpenBeneath(t.Upper, relative(p), unix.O_PATH, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer f.Close()
	return chmod(f, mode)
}

// relative makes a path of the container one relative to its root.
func relative(p string) string {
	if p == "/" {
		return "."
	}
	return p[1:]
}

// Changes returns the differences between the host's files and what the command has made of them, in the order of their
// paths, directories before what is in them. A directory that was deleted is one change, whatever was in it. A file that
// only has another time is none.
func (t *Tree) Changes() ([]Change, error) {
	w := walk{tree: t, entries: make(map[string]*overlay.Entry), first: make(map[inode]int)}
	for i := range t.Entries {
		w.entries[t.Entries[i].Path] = &t.Entries[i]
	}
	if err := w.dir("/", place{}); err != nil {
		return nil, err
	}
	if err := w.missing(); err != nil {
		return nil, err
	}
	slices.SortFunc(w.changes, func(a, b Change) int { return comparePaths(a.Path, b.Path) })
	w.findLinks()
	return w.changes, nil
}

// comparePaths sorts a directory and what is in it before its next sibling.
func comparePaths(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	rank := func(s string) int {
		switch {
		case n == len(s):
			return 0
		case s[n] == '/':
			return 1
		}
		return 2 + int(s[n])
	}
	return cmp.Compare(rank(a), rank(b))
}

type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{st.Dev, st.Ino} }

// place is what a directory of the upper tree lies over.
type place struct {
	shown  bool     // it is in an overlay
	opaque bool     // it hides what is below
	top    *os.File // where the overlay's lower layer begins, unless nothing is below
	base   string   // of top, in the container
}

type walk struct {
	tree    *Tree
	entries map[string]*overlay.Entry
	seen    map[string]bool
	changes []Change
	first   map[inode]int
}

// dir adds the changes in a directory of the upper tree. It opens nothing while it looks into those below it, so that
// their depth costs no descriptors.
func (w *walk) dir(p string, in place) error {
	if e := w.entries[p]; e != nil {
		switch e.Kind {
		case overlay.Overlay:
			top, err := linux.OpenBeneath(w.tree.Lower, relative(p), unix.O_PATH|unix.O_DIRECTORY, 0)
			if err != nil && !linux.NotThere(err) {
				return err
			}
			defer top.Close()
			in = place{shown: true, top: top, base: p}
		case overlay.Dir:
			in = place{}
		}
	}
	below, err := w.list(p, in)
	if err != nil {
		return err
	}
	for _, b := range below {
		if err := w.dir(b.path, b.place); err != nil {
			return err
		}
	}
	return nil
}

type subdir struct {
	path string
	place
}

// list adds the changes of one directory and returns the directories in it.
func (w *walk) list(p string, in place) ([]subdir, error) {
	if len(p) >= unix.PathMax {
		return nil, &os.PathError{Op: "list", Path: p[:100] + "…", Err: unix.ENAMETOOLONG}
	}
	upper, err := w.tree.openUpperDir(p)
	if err != nil {
		return nil, err
	}
	defer upper.Close()
	names, err := upper.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var lower *os.File
	if in.top != nil {
		if lower, err = openLowerDir(in.top, in.base, p); err != nil {
			return nil, err
		}
		defer lower.Close()
	}
	var below []subdir
	have := make(map[string]bool, len(names))
	for _, name := range names {
		have[name] = true
		sub, err := w.entry(path.Join(p, name), in, upper, lower, name)
		if err != nil {
			return nil, err
		}
		if sub != nil {
			below = append(below, *sub)
		}
	}
	if in.opaque && lower != nil {
		return below, w.hidden(p, in, lower, have)
	}
	return below, nil
}

// hidden adds what an opaque directory doesn't have of the one it lies over.
func (w *walk) hidden(p string, in place, lower *os.File, have map[string]bool) error {
	list, err := reopenDir(lower)
	if err != nil {
		return err
	}
	defer list.Close()
	names, err := list.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if have[name] {
			continue
		}
		st, err := lstatat(lower, name)
		if err != nil {
			return err
		}
		if st != nil {
			w.deleted(path.Join(p, name), st, in.shown)
		}
	}
	return nil
}

// openLowerDir opens a directory of the host's, or returns nil where there is none or something is mounted on it: that
// is not what the overlay shows.
func openLowerDir(top *os.File, base, p string) (*os.File, error) {
	f, err := linux.OpenBeneath(top, inside(base, p), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if linux.NotThere(err) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	return f, err
}

// openUpperDir opens a directory of the upper tree for reading.
func (t *Tree) openUpperDir(p string) (*os.File, error) {
	return linux.OpenBeneath(t.Upper, relative(p), unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
}

// loosen lets the owner read what it has forbidden itself, until Close: there is no root to read it.
func (t *Tree) loosen(dir *os.File, name, p string, st *unix.Stat_t) error {
	need := uint32(0o400)
	switch typeOf(st) {
	case unix.S_IFDIR:
		need = 0o700
	case unix.S_IFREG:
	default:
		return nil
	}
	euid := os.Geteuid()
	if euid == 0 || st.Mode&need == need || int(st.Uid) != euid {
		return nil
	}
	f, err := linux.OpenBeneath(dir, name, unix.O_PATH, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := chmod(f, st.Mode&0o7777|need); err != nil {
		return err
	}
	t.loose = append(t.loose, loosened{p, st.Mode & 0o7777})
	return nil
}

// chmod changes the mode of a file that was opened as a place.
func chmod(f *os.File, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if typeOf(&st) == unix.S_IFLNK { // chmod would follow it
		return &os.PathError{Op: "chmod", Path: f.Name(), Err: unix.ELOOP}
	}
	if err := unix.Chmod(self(f), mode); err != nil {
		return &os.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	return nil
}

// reopenDir opens a directory for reading that was opened as a place only.
func reopenDir(dir *os.File) (*os.File, error) {
	return linux.OpenBeneath(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// lstatat returns nil if there is nothing of that name.
func lstatat(dir *os.File, name string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
		switch err {
		case nil:
			return &st, nil
		case unix.ENOENT:
			return nil, nil
		case unix.EINTR:
		default:
			return nil, &os.PathError{Op: "stat", Path: path.Join(dir.Name(), name), Err: err}
		}
	}
}

func typeOf(st *unix.Stat_t) Type { return Type(st.Mode & unix.S_IFMT) }

// entry adds the change of one name, if there is one, and returns the directory it is, if it is one.
func (w *walk) entry(p string, in place, upper, lower *os.File, name string) (*subdir, error) {
	u, err := lstatat(upper, name)
	if u == nil {
		return nil, err // it has gone meanwhile
	}
	if err := w.tree.loosen(upper, name, p, u); err != nil {
		return nil, err
	}
	var l *unix.Stat_t
	if lower != nil {
		if l, err = lstatat(lower, name); err != nil {
			return nil, err
		}
	}
	if e := w.entries[p]; e != nil {
		if w.seen == nil {
			w.seen = make(map[string]bool)
		}
		w.seen[p] = true
		switch ours, err := made(e, u, upper, name); {
		case err != nil:
			return nil, err
		case ours && typeOf(u) == unix.S_IFDIR:
			return &subdir{p, place{shown: in.shown, top: in.top, base: in.base}}, nil
		case ours:
			return nil, nil
		}
		if l == nil {
			if l, err = w.lstat(p); err != nil {
				return nil, err
			}
		}
	}
	if in.shown {
		white, err := w.tree.isWhiteout(upper, name, u)
		if err != nil {
			return nil, err
		}
		if white {
			if l != nil {
				w.deleted(p, l, true)
			}
			return nil, nil
		}
	}
	return w.present(p, in, upper, lower, name, u, l)
}

// made tells whether what is in the upper tree is what hull has put there.
func made(e *overlay.Entry, u *unix.Stat_t, dir *os.File, name string) (bool, error) {
	switch e.Kind {
	case overlay.Link:
		if typeOf(u) != unix.S_IFLNK {
			return false, nil
		}
		target, err := readlink(dir, name)
		return target == e.Source, err
	case overlay.File:
		return typeOf(u) == unix.S_IFREG && u.Size == 0, nil
	}
	return typeOf(u) == unix.S_IFDIR, nil
}

// present adds what is in the upper tree: u over l.
func (w *walk) present(p string, in place, upper, lower *os.File, name string, u, l *unix.Stat_t) (*subdir, error) {
	c := Change{Kind: Added, Path: p, Shown: in.shown, upper: *u, lower: l,
		Type: typeOf(u), Mode: u.Mode & 0o7777, UID: u.Uid, GID: u.Gid}
	isDir := c.Type == unix.S_IFDIR
	sub := &subdir{p, place{shown: in.shown}}
	if !isDir {
		sub = nil
	}
	var err error
	if c.Type == unix.S_IFREG {
		c.Size = u.Size
	}
	if c.Type == unix.S_IFLNK {
		if c.Target, err = readlink(upper, name); err != nil {
			return nil, err
		}
	}
	switch {
	case l == nil:
		if in.shown {
			v, err := w.tree.note(at(upper, name), "origin")
			if err != nil {
				return nil, err
			}
			c.origin = v != nil
		}
	case typeOf(l) != c.Type:
		c.Kind, c.Was = Modified, typeOf(l)
	default:
		c.Kind = Modified
		same := false // lower is nil for what took the place of what hull had made
		if lower != nil {
			if same, err = w.tree.same(upper, lower, name, u, l); err != nil {
				return nil, err
			}
		}
		if isDir {
			sub.top, sub.base = in.top, in.base
			// What lies in an opaque directory has nothing below it either, without a mark of its own.
			if sub.opaque = in.opaque; !in.opaque {
				if sub.opaque, err = w.tree.isOpaque(upper, name); err != nil {
					return nil, err
				}
			}
		}
		if same {
			return sub, nil
		}
	}
	w.changes = append(w.changes, c)
	return sub, nil
}

func (w *walk) deleted(p string, l *unix.Stat_t, shown bool) {
	c := Change{Kind: Deleted, Path: p, Shown: shown, lower: l, Type: typeOf(l), Mode: l.Mode & 0o7777, UID: l.Uid, GID: l.Gid}
	if c.Type == unix.S_IFREG {
		c.Size = l.Size
	}
	w.changes = append(w.changes, c)
}

// missing adds what hull had put into the upper tree outside of the overlays and isn't there any more.
func (w *walk) missing() error {
	for _, e := range w.tree.Entries {
		dir := path.Dir(e.Path)
		if e.Path == "/" || w.seen[e.Path] || dir != "/" && !w.seen[dir] || w.tree.shown(dir) {
			continue
		}
		st, err := w.lstat(e.Path)
		if err != nil {
			return err
		}
		if st != nil && !slices.ContainsFunc(w.changes, func(c Change) bool { return c.Path == e.Path }) {
			w.deleted(e.Path, st, false)
		}
	}
	return nil
}

// shown tells whether a directory is in an overlay.
func (t *Tree) shown(dir string) bool {
	longest, shown := -1, false
	for _, e := range t.Entries {
		if len(e.Path) > longest && overlay.Below(dir, e.Path) && (e.Kind == overlay.Overlay || e.Kind == overlay.Dir) {
			longest, shown = len(e.Path), e.Kind == overlay.Overlay
		}
	}
	return shown
}

// lstat looks at a file of the host, wherever it is.
func (w *walk) lstat(p string) (*unix.Stat_t, error) {
	dir, err := linux.OpenBeneath(w.tree.Lower, relative(path.Dir(p)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if linux.NotThere(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return lstatat(dir, path.Base(p))
}

// findLinks marks the second and further names of a file. It may have more that aren't changes.
func (w *walk) findLinks() {
	for i := range w.changes {
		c := &w.changes[i]
		if c.Kind == Deleted || c.Type == unix.S_IFDIR || c.upper.Nlink < 2 {
			continue
		}
		id := inodeOf(&c.upper)
		if first, ok := w.first[id]; ok {
			c.Link = w.changes[first].Path
		} else {
			w.first[id] = i
		}
	}
}
