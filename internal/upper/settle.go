package upper

import (
	"errors"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/overlay"
)

// Settle makes the upper directory one that overlayfs can mount over the whole of the host: what hull has put into it
// besides directories is removed, and what is deleted of the host outside of the overlays gets a whiteout. Changes are
// those that Changes returned.
func (t *Tree) Settle(changes []Change) error {
	var errs []error
	for i := range t.Entries {
		e := &t.Entries[i]
		if e.Path != "/" {
			errs = append(errs, t.settle(e))
		}
	}
	for i := range changes {
		c := &changes[i]
		if c.Kind != Deleted || c.Shown {
			continue
		}
		errs = append(errs, t.inDir(c.Path, func(dir *os.File, name string) error {
			return os.NewSyscallError("mknod", unix.Mknodat(int(dir.Fd()), name, unix.S_IFCHR, 0))
		}))
	}
	return errors.Join(errs...)
}

// settle removes an entry that is as hull has made it, and is no directory.
func (t *Tree) settle(e *overlay.Entry) error {
	if e.Kind != overlay.Link && e.Kind != overlay.File {
		return nil
	}
	return t.inDir(e.Path, func(dir *os.File, name string) error {
		st, err := lstatat(dir, name)
		if st == nil {
			return err
		}
		ours, err := made(e, st, dir, name)
		if !ours || err != nil {
			return err
		}
		return os.NewSyscallError("unlink", unix.Unlinkat(int(dir.Fd()), name, 0))
	})
}

// Mounted says that something else is mounted at a path, over what the entries show. Where there was nothing, what it is
// mounted on was made for it, and is no change.
func (t *Tree) Mounted(p string, isFile bool) {
	has := func(p string) bool {
		return slices.ContainsFunc(t.Entries, func(e overlay.Entry) bool { return e.Path == p })
	}
	for _, m := range t.mounts {
		if overlay.Below(p, m) {
			return // it is in that one
		}
	}
	t.mounts = append(t.mounts, p)
	for i := 1; i < len(p); i++ {
		if dir := p[:i]; p[i] == '/' && !has(dir) && (!t.shown(dir) || !t.onHost(dir)) {
			t.Entries = append(t.Entries, overlay.Entry{Kind: overlay.Way, Path: dir})
		}
	}
	if has(p) {
		return
	}
	e := overlay.Entry{Kind: overlay.Dir, Path: p}
	if isFile {
		e.Kind = overlay.File
	}
	t.Entries = append(t.Entries, e)
}

func (t *Tree) onHost(p string) bool {
	f, err := linux.OpenBeneath(t.Lower, relative(p), unix.O_PATH, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// RemoveWork removes the directory in which overlayfs worked, beside an upper directory in dir.
func RemoveWork(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return removeTree(f, "work")
}

// inDir calls f with the directory of a path, if there is one.
func (t *Tree) inDir(p string, f func(dir *os.File, name string) error) error {
	dir, err := t.openUpperDir(path.Dir(p))
	if linux.NotThere(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(dir, path.Base(p))
}
