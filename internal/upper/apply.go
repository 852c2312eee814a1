package upper

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/overlay"
)

// Refusal says why changes can't be put onto the host. Nothing was changed there.
type Refusal struct{ Reasons []Reason }

// Reason is what stands against one change.
type Reason struct{ Path, Why string }

func (r Reason) String() string { return Escape(r.Path) + " " + r.Why }

func (r *Refusal) Error() string {
	lines := make([]string, len(r.Reasons))
	for i, reason := range r.Reasons {
		lines[i] = reason.String()
	}
	return strings.Join(lines, "; ")
}

// Unfinished says that changes were put onto the host in part: something failed, and so did taking back what was done.
type Unfinished struct {
	Applied []string // paths as the command made them
	Kept    []string // directories of the host's with what was there before
	Err     error
}

func (u *Unfinished) Error() string {
	list := func(paths []string) string {
		escaped := make([]string, len(paths))
		for i, p := range paths {
			escaped[i] = Escape(p)
		}
		return strings.Join(escaped, ", ")
	}
	return fmt.Sprintf("%v; applied and not taken back: %s; what was there before is in %s", u.Err, list(u.Applied), list(u.Kept))
}

func (u *Unfinished) Unwrap() error { return u.Err }

// Apply puts changes, which Changes returned, onto the host; since is when the command was started, or earlier.
//
// All of them or none: it looks at all first, and returns a *Refusal if there is anything that a command must not give to
// the host (devices, set-user-ID bits, file capabilities, …), that was not shown to it, or that has changed on the host
// meanwhile. Then everything new is written beside its place, in directories named .hull-apply-*, and synced. Then each
// file is exchanged with the one it replaces, in one step, and that one is looked at: if it isn't what the command was
// shown everything is exchanged back. What was replaced is deleted last. Only where taking back fails, too, something
// remains, and an *Unfinished says what. If hull is killed meanwhile, each file is as before or as the command made it, and
// the directories remain.
//
// A file of the host has changed if the time of its inode (st_ctime) is after since: by content, mode, owner, or name. For
// that the command must not have been started before AwaitTick(since) returned. What can't be seen that way is a change
// while the clock was set back, and one on a file system whose times come from another machine with a clock that is late.
func (t *Tree) Apply(changes []Change, since time.Time) error {
	a := apply{tree: t, since: since, bases: t.bases(), dirs: make(map[string]*target)}
	defer a.close()
	for i := range changes {
		if err := a.check(&changes[i]); err != nil {
			return err
		}
	}
	if len(a.reasons) > 0 {
		return &Refusal{a.reasons}
	}
	a.plan(changes)
	err := a.stage()
	if err == nil {
		err = a.commit()
	}
	if err == nil {
		err = a.sync()
	}
	var unfinished *Unfinished
	if errors.As(err, &unfinished) {
		return err
	}
	if derr := a.discard(); derr != nil {
		return errors.Join(err, fmt.Errorf("remove what is left over: %w", derr))
	}
	if err == nil {
		err = a.closeDirs()
	}
	return err
}

// AwaitTick waits until the clock that files have their times from is past since, for some milliseconds at most: it only
// goes on with the timer interrupt, so that a change of now can have a time of before. What a command saw is then either
// from before since, or its change is seen; what is changed between the two, the command saw as it is.
func AwaitTick(since time.Time) {
	const longest = 50 // 10 ms are a tick where there are fewest
	for range longest {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil || time.Unix(now.Unix()).After(since) {
			return
		}
		time.Sleep(time.Millisecond / 2)
	}
}

type apply struct {
	tree    *Tree
	since   time.Time
	bases   []string // where overlays begin, the innermost first
	reasons []Reason
	ops     []*op
	dirs    map[string]*target // by path: the directories of the host in which names change
	targets []*target          // the same, in the order of their making
	files   int                // regular files to be written
	links   map[string]staged  // by path: files with several names
	undo    []taking
	closing []*Change // directories that get the mode they are to have last
	last    openDir   // of the host
	source  openDir   // of the upper tree
}

// openDir is the directory that was used last: changes come in order.
type openDir struct {
	path string
	file *os.File
}

func (d *openDir) close() {
	if d.file != nil {
		d.file.Close()
	}
	*d = openDir{}
}

func (a *apply) close() {
	a.last.close()
	a.source.close()
	for _, t := range a.targets {
		t.close()
	}
}

// bases returns where the overlays begin.
func (t *Tree) bases() (bases []string) {
	for _, e := range t.Entries {
		if e.Kind == overlay.Overlay {
			bases = append(bases, e.Path)
		}
	}
	slices.SortFunc(bases, func(a, b string) int { return len(b) - len(a) })
	return bases
}

func (a *apply) refuse(c *Change, format string, args ...any) {
	a.reasons = append(a.reasons, Reason{c.Path, fmt.Sprintf(format, args...)})
}

// check adds to the reasons what stands against a change.
func (a *apply) check(c *Change) error {
	if !c.Shown || !a.allowed(c.Path) {
		a.refuse(c, "is not in a directory of the host that the command was shown")
		return nil
	}
	if len(c.Path) > unix.PathMax-100 {
		a.refuse(c, "has too long a path")
		return nil
	}
	if c.Kind != Deleted {
		if err := a.checkMade(c); err != nil {
			return err
		}
	}
	return a.checkHost(c)
}

// allowed tells whether a path is below the beginning of an overlay. (That itself can't be replaced.)
func (a *apply) allowed(p string) bool {
	if path.Clean(p) != p || !path.IsAbs(p) || strings.ContainsRune(p, 0) {
		return false
	}
	if slices.ContainsFunc(a.bases, func(base string) bool { return overlay.Below(base, p) }) {
		return false // it would take the place of what others are mounted on
	}
	return slices.ContainsFunc(a.bases, func(base string) bool { return overlay.Below(p, base) })
}

// checkMade is about what the command made.
func (a *apply) checkMade(c *Change) error {
	switch c.Type {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
	default:
		a.refuse(c, "is a %v", c.Type)
		return nil
	}
	if c.Type != unix.S_IFLNK {
		if c.Mode&unix.S_ISUID != 0 {
			a.refuse(c, "has the set-user-ID bit")
		}
		if c.Mode&unix.S_ISGID != 0 {
			given, err := a.setgidGiven(c)
			if err != nil {
				return err
			}
			if !given {
				a.refuse(c, "has the set-group-ID bit")
			}
		}
	}
	if euid := os.Geteuid(); euid != 0 && int(c.UID) != euid {
		a.refuse(c, "belongs to user %d", c.UID)
	}
	dir, err := a.openSource(path.Dir(c.Path))
	if err != nil {
		return err
	}
	why, err := a.tree.forbiddenAttr(at(dir, path.Base(c.Path)), c.Type)
	if why != "" {
		a.refuse(c, "%s", why)
	}
	return err
}

// setgidGiven tells whether a directory has the set-group-ID bit because the one it lies in has it on the host: mkdir(2)
// gives it to every directory there.
func (a *apply) setgidGiven(c *Change) (bool, error) {
	if c.Type != unix.S_IFDIR {
		return false, nil
	}
	if l := c.lower; l != nil && typeOf(l) == unix.S_IFDIR && l.Mode&unix.S_ISGID != 0 && l.Gid == c.GID {
		return true, nil
	}
	for p := path.Dir(c.Path); p != "/"; p = path.Dir(p) {
		st, err := a.lstat(p)
		if err != nil {
			return false, err
		}
		if st != nil {
			return typeOf(st) == unix.S_IFDIR && st.Mode&unix.S_ISGID != 0 && st.Gid == c.GID, nil
		}
	}
	return false, nil
}

// forbiddenAttr says why a file's attributes can't be put onto the host, or "".
func (t *Tree) forbiddenAttr(path string, typ Type) (string, error) {
	names, err := attrNames(path)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		switch class, why := t.classify(name); {
		case class == forbidden:
			return why, nil
		case class == content && typ == unix.S_IFLNK:
			return "is a symlink with the attribute " + Escape(name), nil
		}
	}
	return "", nil
}

// openSource opens a directory of the upper tree.
func (a *apply) openSource(p string) (*os.File, error) {
	if a.source.file != nil && a.source.path == p {
		return a.source.file, nil
	}
	f, err := a.tree.openUpperDir(p)
	if err != nil {
		return nil, err
	}
	a.source.close()
	a.source = openDir{p, f}
	return f, nil
}

// openHost opens a directory of the host.
func (a *apply) openHost(p string) (*os.File, error) {
	if a.last.file != nil && a.last.path == p {
		return a.last.file, nil
	}
	i := slices.IndexFunc(a.bases, func(base string) bool { return overlay.Below(p, base) })
	if i < 0 {
		return nil, &os.PathError{Op: "open", Path: p, Err: unix.EXDEV}
	}
	base := a.bases[i]
	top, err := linux.OpenBeneath(a.tree.Lower, relative(base), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	// What is mounted below wasn't shown by this overlay.
	f, err := linux.OpenBeneath(top, inside(base, p), unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return nil, err
	}
	a.last.close()
	a.last = openDir{p, f}
	return f, nil
}

// lstat looks at a file of the host, and returns nil if there is none.
func (a *apply) lstat(p string) (*unix.Stat_t, error) {
	name := path.Base(p)
	if slices.Contains(a.bases, p) { // what is above it wasn't shown
		name = "."
	} else {
		p = path.Dir(p)
	}
	dir, err := a.openHost(p)
	if linux.NotThere(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return lstatat(dir, name)
}

// after tells whether a time is after the command's start.
func (a *apply) after(ts unix.Timespec) bool { return time.Unix(ts.Unix()).After(a.since) }

const changedMeanwhile = "has changed on the host meanwhile"

// checkHost is about what is on the host.
func (a *apply) checkHost(c *Change) error {
	now, err := a.lstat(c.Path)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EACCES) {
		a.refuse(c, "can't be reached on the host: %v", errors.Unwrap(err))
		return nil
	}
	if err != nil {
		return err
	}
	if moved, err := a.parentMoved(c); err != nil || moved {
		return err
	}
	switch l := c.lower; {
	case l == nil && now != nil:
		a.refuse(c, "has appeared on the host meanwhile")
	case l == nil:
		return a.checkOrigin(c)
	case now == nil:
		a.refuse(c, "has been deleted on the host meanwhile")
	case inodeOf(l) != inodeOf(now) || a.after(now.Ctim) && (typeOf(now) != unix.S_IFDIR || c.Was != 0 || c.Kind == Deleted):
		a.refuse(c, changedMeanwhile)
	case typeOf(now) == unix.S_IFDIR && c.Kind == Modified && c.Was == 0:
		// Names in it may change. Its mode may not, and that can't be told from its times if they do.
		if now.Mode != l.Mode || now.Uid != l.Uid || now.Gid != l.Gid || a.after(now.Ctim) && !a.after(now.Mtim) {
			a.refuse(c, changedMeanwhile)
		}
	case typeOf(now) == unix.S_IFDIR:
		dir, err := a.openHost(path.Dir(c.Path))
		if err != nil {
			return err
		}
		why, err := a.untouched(dir, path.Base(c.Path), now.Dev)
		if err != nil {
			return err
		}
		if why != "" {
			a.refuse(c, "%s", why)
		}
	}
	return nil
}

// checkOrigin finds a file that the command was shown and that is not on the host any more: it looks like a new one. So
// does one that the command has renamed, but then its directory need not have changed on the host.
func (a *apply) checkOrigin(c *Change) error {
	if !c.origin {
		return nil
	}
	st, err := a.lstat(path.Dir(c.Path))
	if err != nil || st == nil {
		return err
	}
	if a.after(st.Mtim) {
		a.refuse(c, "may have been deleted on the host meanwhile")
	}
	return nil
}

// parentMoved refuses what lies in a directory that was renamed meanwhile, as far as can be told: its inode has changed
// and its names haven't. Once a directory is enough.
func (a *apply) parentMoved(c *Change) (bool, error) {
	for p := path.Dir(c.Path); !slices.Contains(a.bases, p) && p != "/"; p = path.Dir(p) {
		st, err := a.lstat(p)
		if err != nil {
			return false, err
		}
		if st != nil && typeOf(st) == unix.S_IFDIR && a.after(st.Ctim) && !a.after(st.Mtim) {
			a.refuse(c, "is in %s, which %s", Escape(p), changedMeanwhile)
			return true, nil
		}
	}
	return false, nil
}

// untouched says what has changed meanwhile in a directory of the host that is to go, or "".
func (a *apply) untouched(parent *os.File, name string, dev uint64) (string, error) {
	f, err := linux.OpenBeneath(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.EACCES) {
		return "can't be looked into", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		st, err := lstatat(f, n)
		switch {
		case err != nil:
			return "", err
		case st == nil || a.after(st.Ctim):
			return "has something in it that " + changedMeanwhile + ": " + Escape(n), nil
		case st.Dev != dev:
			return "has something mounted in it: " + Escape(n), nil
		case typeOf(st) == unix.S_IFDIR:
			if why, err := a.untouched(f, n, dev); why != "" || err != nil {
				return why, err
			}
		}
	}
	return "", nil
}

// inside returns a path relative to base, which it is below.
func inside(base, p string) string {
	if p == base {
		return "."
	}
	return strings.TrimPrefix(strings.TrimPrefix(p, base), "/")
}
