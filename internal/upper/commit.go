package upper

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// renameat2 is replaced by tests of file systems that have no flags, and of failure.
var renameat2 = unix.Renameat2

// taking takes one step back.
type taking struct {
	path string
	back func() error
}

// commit shows the host what is staged, or nothing of it. New things come first, so that none that is moved is missing
// meanwhile, and what is adjusted comes last: it may be a directory in which nothing could be changed then.
func (a *apply) commit() error {
	for _, t := range a.targets {
		if err := a.sameTarget(t); err != nil {
			return err
		}
	}
	for _, pass := range [][]verb{{add, swap}, {remove}, {adjust}} {
		ops := slices.Clone(a.ops)
		if pass[0] == adjust {
			slices.Reverse(ops)
		}
		for _, o := range ops {
			if !slices.Contains(pass, o.verb) {
				continue
			}
			if err := a.do(o); err != nil {
				return a.takeBack(wrap(o.change.Path, err))
			}
		}
	}
	return nil
}

// sameTarget checks that a directory is where it was, since others may rename it.
func (a *apply) sameTarget(t *target) error {
	a.last.close()
	_, same, err := a.reopen(t)
	if err == nil && !same {
		err = &Refusal{[]Reason{{t.path, changedMeanwhile}}}
	}
	return err
}

// takeBack undoes all steps done and returns the error.
func (a *apply) takeBack(err error) error {
	u := &Unfinished{Err: err}
	for _, t := range slices.Backward(a.undo) {
		if terr := t.back(); terr != nil {
			u.Applied = append(u.Applied, t.path)
			u.Err = fmt.Errorf("%w (and to take back %s: %v)", u.Err, Escape(t.path), terr)
		}
	}
	a.undo = nil
	if u.Applied == nil {
		return err
	}
	for _, t := range a.targets {
		u.Kept = append(u.Kept, path.Join(t.path, t.stage))
	}
	return u
}

func (a *apply) undone(o *op, back func() error) {
	a.undo = append(a.undo, taking{o.change.Path, back})
}

func (a *apply) do(o *op) error {
	if o.verb == adjust {
		return a.adjust(o)
	}
	name := path.Base(o.change.Path)
	return a.opened(o.target, func(dir, stage *os.File) error {
		switch o.verb {
		case add:
			return a.add(o, dir, stage, name)
		case swap:
			return a.swap(o, dir, stage, name)
		}
		return a.remove(o, dir, stage, name, o.name)
	})
}

// rename calls renameat2 and says whether the file system has the flag.
func rename(from *os.File, old string, to *os.File, name string, flags uint) (supported bool, err error) {
	err = renameat2(int(from.Fd()), old, int(to.Fd()), name, flags)
	if flags != 0 && (err == unix.EINVAL || err == unix.ENOSYS) {
		return false, nil
	}
	return true, os.NewSyscallError("rename", err)
}

// renameNew renames to a name that must not be there. Where the file system can't do that (NFS), a file becomes a link
// first, which fails in the same way; for a directory something may come between looking and renaming, but not be lost:
// only an empty directory is replaced by a directory.
func renameNew(from *os.File, old string, to *os.File, name string, isDir bool) error {
	supported, err := rename(from, old, to, name, unix.RENAME_NOREPLACE)
	if supported {
		return err
	}
	if !isDir {
		if err := unix.Linkat(int(from.Fd()), old, int(to.Fd()), name, 0); err != nil {
			return os.NewSyscallError("link", err)
		}
		return os.NewSyscallError("unlink", unix.Unlinkat(int(from.Fd()), old, 0))
	}
	if st, err := lstatat(to, name); st != nil || err != nil {
		return errors.Join(err, unix.EEXIST)
	}
	_, err = rename(from, old, to, name, 0)
	return err
}

func (a *apply) add(o *op, dir, stage *os.File, name string) error {
	isDir := o.change.Type == unix.S_IFDIR
	err := renameNew(stage, o.name, dir, name, isDir)
	if errors.Is(err, unix.EEXIST) {
		return errors.New("has appeared on the host meanwhile")
	}
	if err != nil {
		return err
	}
	a.undone(o, func() error {
		return a.opened(o.target, func(dir, stage *os.File) error { return renameNew(dir, name, stage, o.name, isDir) })
	})
	return a.setDirMode(o, dir, name)
}

// setDirMode gives a new directory the mode with which it couldn't have been renamed.
func (a *apply) setDirMode(o *op, dir *os.File, name string) error {
	c := o.change
	if c.Type != unix.S_IFDIR || c.Mode&0o700 == 0o700 {
		return nil
	}
	f, err := linux.OpenBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fchmod(int(f.Fd()), c.Mode); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	// To be renamed back it must be writable again.
	a.undone(o, func() error {
		return a.opened(o.target, func(dir, _ *os.File) error {
			f, err := linux.OpenBeneath(dir, name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
			if err != nil {
				return err
			}
			defer f.Close()
			return chmod(f, c.Mode|0o700)
		})
	})
	return nil
}

// swap exchanges a new file with the one on the host, and then looks at that one: nobody else can change its name now.
func (a *apply) swap(o *op, dir, stage *os.File, name string) error {
	if typeOf(o.change.lower) == unix.S_IFDIR {
		if err := a.loosenHost(o, dir, name); err != nil {
			return err
		}
	}
	supported, err := rename(stage, o.name, dir, name, unix.RENAME_EXCHANGE)
	if err != nil {
		return err
	}
	if !supported {
		return a.swapSlowly(o, dir, stage, name)
	}
	a.undone(o, func() error {
		return a.opened(o.target, func(dir, stage *os.File) error {
			_, err := rename(stage, o.name, dir, name, unix.RENAME_EXCHANGE)
			return err
		})
	})
	if err := a.asShown(o, stage, o.name); err != nil {
		return err
	}
	return a.setDirMode(o, dir, name)
}

// swapSlowly is swap for file systems that can't exchange. A file is still replaced in one step: the old one is kept by a
// second name. Where one of the two is a directory, the name isn't there for a moment.
func (a *apply) swapSlowly(o *op, dir, stage *os.File, name string) error {
	old := o.name + "-old"
	if o.change.Type == unix.S_IFDIR || typeOf(o.change.lower) == unix.S_IFDIR {
		if err := a.remove(o, dir, stage, name, old); err != nil {
			return err
		}
		return a.add(o, dir, stage, name)
	}
	if err := unix.Linkat(int(dir.Fd()), name, int(stage.Fd()), old, 0); err != nil {
		return os.NewSyscallError("link", err)
	}
	if err := a.asShown(o, stage, old); err != nil {
		return err
	}
	if _, err := rename(stage, o.name, dir, name, 0); err != nil {
		return err
	}
	a.undone(o, func() error {
		return a.opened(o.target, func(dir, stage *os.File) error {
			_, err := rename(stage, old, dir, name, 0)
			return err
		})
	})
	return nil
}

// remove moves what is on the host into the stage.
func (a *apply) remove(o *op, dir, stage *os.File, name, to string) error {
	isDir := typeOf(o.change.lower) == unix.S_IFDIR
	if isDir {
		if err := a.loosenHost(o, dir, name); err != nil {
			return err
		}
	}
	if err := renameNew(dir, name, stage, to, isDir); err != nil {
		return err
	}
	a.undone(o, func() error {
		return a.opened(o.target, func(dir, stage *os.File) error { return renameNew(stage, to, dir, name, isDir) })
	})
	return a.asShown(o, stage, to)
}

// loosenHost lets an owner without privileges rename a directory that it may not write to.
func (a *apply) loosenHost(o *op, dir *os.File, name string) error {
	l := o.change.lower
	if os.Geteuid() == 0 || int(l.Uid) != os.Geteuid() || l.Mode&0o700 == 0o700 {
		return nil
	}
	set := func(dir *os.File, mode uint32) error {
		f, err := linux.OpenBeneath(dir, name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
		if err != nil {
			return err
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if inodeOf(&st) != inodeOf(l) {
			return errors.New(changedMeanwhile)
		}
		return chmod(f, mode)
	}
	if err := set(dir, l.Mode&0o7777|0o700); err != nil {
		return err
	}
	a.undone(o, func() error {
		return a.opened(o.target, func(dir, _ *os.File) error { return set(dir, l.Mode&0o7777) })
	})
	return nil
}

// asShown checks that what came from the host is what was looked at. The renaming itself has changed the inode's time.
func (a *apply) asShown(o *op, stage *os.File, name string) error {
	l := o.change.lower
	st, err := lstatat(stage, name)
	if err != nil {
		return err
	}
	const bits = unix.S_IFMT | 0o7077 // loosenHost may have changed the owner's
	if st == nil || inodeOf(st) != inodeOf(l) || st.Mode&bits != l.Mode&bits || st.Uid != l.Uid || st.Gid != l.Gid || st.Mtim != l.Mtim || st.Size != l.Size {
		return errors.New(changedMeanwhile)
	}
	if typeOf(st) != unix.S_IFDIR {
		return nil
	}
	why, err := a.untouched(stage, name, st.Dev)
	if why != "" {
		err = errors.New(why)
	}
	return err
}

// adjust gives a directory that stays what the command gave it.
func (a *apply) adjust(o *op) error {
	c := o.change
	from, err := a.openSource(path.Dir(c.Path))
	if err != nil {
		return err
	}
	want, err := a.tree.checkedAttrs(at(from, path.Base(c.Path)))
	if err != nil {
		return err
	}
	f, err := a.openAdjusted(c)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode != c.lower.Mode || st.Uid != c.lower.Uid || st.Gid != c.lower.Gid {
		return errors.New(changedMeanwhile)
	}
	have, err := a.tree.contentAttrs(at(f, "."))
	if err != nil && !errors.Is(err, unix.EACCES) {
		return err
	}
	// Undone also where it fails halfway.
	a.undone(o, func() error {
		f, err := a.openAdjusted(c)
		if err != nil {
			return err
		}
		defer f.Close()
		return adjustTo(f, int(st.Uid), int(st.Gid), st.Mode&0o7777, want, have)
	})
	mode := c.Mode
	if os.Geteuid() != 0 && mode&0o700 != 0o700 {
		// What was replaced could not be removed from it any more.
		mode |= 0o700
		a.closing = append(a.closing, c)
	}
	return adjustTo(f, int(c.UID), int(c.GID), mode, have, want)
}

// closeDirs takes the last rights from directories that nothing is to be done in any more.
func (a *apply) closeDirs() error {
	var errs []error
	for _, c := range a.closing { // what lies in others comes first
		f, err := a.openAdjusted(c)
		if err == nil {
			err = chmod(f, c.Mode)
			f.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// openAdjusted opens a directory of the host that has to be the one that was looked at.
func (a *apply) openAdjusted(c *Change) (*os.File, error) {
	dir, err := a.openHost(path.Dir(c.Path))
	if err != nil {
		return nil, err
	}
	f, err := linux.OpenBeneath(dir, path.Base(c.Path), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && inodeOf(&st) != inodeOf(c.lower) {
		err = errors.New(changedMeanwhile)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func adjustTo(f *os.File, uid, gid int, mode uint32, have, want map[string]string) error {
	name := at(f, ".")
	if err := unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return os.NewSyscallError("chown", err)
	}
	if len(have)+len(want) > 0 {
		if err := chmod(f, mode|0o700); err != nil {
			return err
		}
	}
	for attr, value := range want {
		if old, ok := have[attr]; ok && old == value {
			continue
		}
		if err := unix.Lsetxattr(name, attr, []byte(value), 0); err != nil {
			return fmt.Errorf("set the attribute %s: %w", Escape(attr), err)
		}
	}
	for attr := range have {
		if _, ok := want[attr]; ok {
			continue
		}
		if err := unix.Lremovexattr(name, attr); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove the attribute %s: %w", Escape(attr), err)
		}
	}
	return chmod(f, mode)
}

// contentAttrs returns the attributes of a file of the host that a command may change.
func (t *Tree) contentAttrs(path string) (map[string]string, error) {
	all, err := t.attrs(path)
	for name := range all {
		if class, _ := t.classify(name); class != content {
			delete(all, name)
		}
	}
	return all, err
}

// discard removes the stages, with what was replaced.
func (a *apply) discard() error {
	var errs []error
	for _, t := range a.targets {
		errs = append(errs, a.opened(t, func(dir, _ *os.File) error { return removeTree(dir, t.stage) }))
	}
	return errors.Join(errs...)
}

// removeTree removes a file or directory. Its owner can remove what its mode protects.
func removeTree(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return &os.PathError{Op: "unlink", Path: path.Join(dir.Name(), name), Err: err}
	}
	place, perr := linux.OpenBeneath(dir, name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if perr != nil {
		return errors.Join(&os.PathError{Op: "unlink", Path: path.Join(dir.Name(), name), Err: err}, perr)
	}
	defer place.Close()
	if os.Geteuid() != 0 {
		if err := chmod(place, 0o700); err != nil {
			return err
		}
	}
	list, err := reopenDir(place)
	if err != nil {
		return err
	}
	names, err := list.Readdirnames(-1)
	list.Close()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeTree(place, n); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "rmdir", Path: path.Join(dir.Name(), name), Err: err}
	}
	return nil
}
