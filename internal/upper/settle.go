package upper

import (
	"errors"
	"os"
	"path"

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
