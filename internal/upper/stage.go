package upper

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/overlay"
)

// target is a directory of the host in which names change, with the directory in it where what is new is written, and
// where what is replaced goes to. Nobody but this user and root gets into that one.
type target struct {
	path  string
	id    inode
	stage string // name
	// Kept open, while there are not too many: what is renamed meanwhile is found again for taking changes back.
	dir, in *os.File
}

const (
	stagePrefix = ".hull-apply-"
	maxOpen     = 256 // targets kept open
	maxSync     = 16  // files and directories that are synced one by one rather than the whole file system
)

func (t *target) close() {
	for _, f := range []**os.File{&t.dir, &t.in} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// op is one step that the host sees at once.
type op struct {
	verb   verb
	change *Change
	below  []*Change // what is in the new directory
	target *target
	name   string // in the target's stage
}

type verb int

const (
	add    verb = iota // nothing was there
	swap               // it takes the place of what was there
	remove             // nothing will be there
	adjust             // a directory that stays gets another mode, owner or attributes
)

// fsync is replaced by tests that sync nothing.
var fsync = unix.Fsync

// staged is where a new file is.
type staged struct {
	target *target
	name   string
}

// plan makes steps of changes. What is in a new directory comes with it.
func (a *apply) plan(changes []Change) {
	var tree *op
	for i := range changes {
		c := &changes[i]
		if c.Type == unix.S_IFREG && c.Kind != Deleted {
			a.files++
		}
		if tree != nil && overlay.Below(c.Path, tree.change.Path) {
			tree.below = append(tree.below, c)
			continue
		}
		o := &op{change: c, name: strconv.Itoa(i)}
		switch {
		case c.Kind == Deleted:
			o.verb = remove
		case c.Kind == Added:
			o.verb = add
		case c.Type == unix.S_IFDIR && c.Was == 0:
			o.verb = adjust
		default:
			o.verb = swap
		}
		if c.Type == unix.S_IFDIR && (o.verb == add || o.verb == swap) {
			tree = o
		}
		a.ops = append(a.ops, o)
	}
}

// stage writes everything new beside its place.
func (a *apply) stage() error {
	a.links = make(map[string]staged)
	for _, o := range a.ops {
		if o.verb == adjust {
			continue
		}
		t, err := a.newTarget(path.Dir(o.change.Path))
		if err != nil {
			return wrap(o.change.Path, err)
		}
		o.target = t
		if o.verb == remove {
			continue
		}
		if err := a.write(o); err != nil {
			return err
		}
	}
	if a.files <= maxSync {
		return nil
	}
	return a.syncAll()
}

func wrap(p string, err error) error { return fmt.Errorf("%s: %w", Escape(p), err) }

// newTarget makes the stage in a directory of the host.
func (a *apply) newTarget(p string) (*target, error) {
	if t := a.dirs[p]; t != nil {
		return t, nil
	}
	dir, err := a.openHost(p)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	var random [8]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return nil, os.NewSyscallError("getrandom", err)
	}
	t := &target{path: p, id: inodeOf(&st), stage: stagePrefix + hex.EncodeToString(random[:])}
	if err := unix.Mkdirat(int(dir.Fd()), t.stage, 0o700); err != nil {
		return nil, &os.PathError{Op: "write to", Path: p, Err: err}
	}
	a.dirs[p] = t
	a.targets = append(a.targets, t)
	in, err := linux.OpenBeneath(dir, t.stage, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return nil, err
	}
	if len(a.targets) <= maxOpen {
		fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			in.Close()
			return nil, os.NewSyscallError("fcntl", err)
		}
		t.dir, t.in = os.NewFile(uintptr(fd), p), in
	} else {
		defer in.Close()
	}
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if int(st.Uid) != os.Geteuid() {
		return nil, &os.PathError{Op: "mkdir", Path: path.Join(p, t.stage), Err: errors.New("another took its place")}
	}
	// The host's directory may hand down an ACL, which what is made here would get.
	for _, acl := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		if err := unix.Fremovexattr(int(in.Fd()), acl); err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return nil, os.NewSyscallError("fremovexattr", err)
		}
	}
	if err := unix.Fchmod(int(in.Fd()), 0o700); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	return t, nil
}

// reopen opens a target's directory by its path, and tells whether that is still the same one.
func (a *apply) reopen(t *target) (dir *os.File, same bool, err error) {
	dir, err = a.openHost(t.path)
	if err != nil {
		return nil, false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, false, os.NewSyscallError("fstat", err)
	}
	return dir, inodeOf(&st) == t.id, nil
}

// opened calls f with a target's directory and its stage.
func (a *apply) opened(t *target, f func(dir, stage *os.File) error) error {
	if t.dir != nil {
		return f(t.dir, t.in)
	}
	dir, same, err := a.reopen(t)
	if err != nil {
		return err
	}
	if !same {
		return &os.PathError{Op: "open", Path: t.path, Err: errors.New(changedMeanwhile)}
	}
	stage, err := linux.OpenBeneath(dir, t.stage, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer stage.Close()
	return f(dir, stage)
}

// write writes what is new in a step.
func (a *apply) write(o *op) error {
	return a.opened(o.target, func(_, stage *os.File) error {
		all := append([]*Change{o.change}, o.below...)
		nameOf := func(c *Change) string { return o.name + c.Path[len(o.change.Path):] }
		for _, c := range all {
			if err := a.writeOne(c, o.target, stage, nameOf(c)); err != nil {
				return wrap(c.Path, err)
			}
		}
		// A directory gets its mode and time when all is in it.
		for i := len(all) - 1; i >= 0; i-- {
			c := all[i]
			if c.Type != unix.S_IFDIR {
				continue
			}
			mode := c.Mode
			if i == 0 {
				mode |= 0o700 // else its owner couldn't rename it
			}
			if err := a.finishDir(c, stage, nameOf(c), mode); err != nil {
				return wrap(c.Path, err)
			}
		}
		return nil
	})
}

func (a *apply) finishDir(c *Change, stage *os.File, name string, mode uint32) error {
	f, err := linux.OpenBeneath(stage, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.finish(f, c, mode)
}

// writeOne makes one new file of the name in the stage.
func (a *apply) writeOne(c *Change, t *target, stage *os.File, name string) error {
	dir, err := linux.OpenBeneath(stage, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer dir.Close()
	last := path.Base(name)
	if c.Type == unix.S_IFDIR {
		if err := unix.Mkdirat(int(dir.Fd()), last, 0o700); err != nil {
			return os.NewSyscallError("mkdir", err)
		}
		return nil
	}
	if c.Link != "" {
		linked, err := a.link(a.links[c.Link], dir, last)
		if linked || err != nil {
			return err
		}
	}
	if c.upper.Nlink > 1 {
		a.links[c.Path] = staged{t, name}
	}
	if c.Type == unix.S_IFLNK {
		return makeSymlink(c, dir, last)
	}
	return a.copyFile(c, dir, last)
}

// link makes another name of a new file, if that can be: the file may be on another file system of the host.
func (a *apply) link(first staged, dir *os.File, name string) (linked bool, err error) {
	if first.target == nil {
		return false, nil
	}
	err = a.opened(first.target, func(_, stage *os.File) error {
		from, err := linux.OpenBeneath(stage, path.Dir(first.name), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV)
		if err != nil {
			return err
		}
		defer from.Close()
		return os.NewSyscallError("link", unix.Linkat(int(from.Fd()), path.Base(first.name), int(dir.Fd()), name, 0))
	})
	for _, errno := range []error{unix.EXDEV, unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP} {
		if errors.Is(err, errno) {
			return false, nil
		}
	}
	return err == nil, err
}

func makeSymlink(c *Change, dir *os.File, name string) error {
	fd := int(dir.Fd())
	if err := unix.Symlinkat(c.Target, fd, name); err != nil {
		return os.NewSyscallError("symlink", err)
	}
	if err := unix.Fchownat(fd, name, int(c.UID), int(c.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("chown", err)
	}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, name, times(c), unix.AT_SYMLINK_NOFOLLOW))
}

// times leaves the time of access as it is.
func times(c *Change) []unix.Timespec {
	return []unix.Timespec{{Nsec: unix.UTIME_OMIT}, c.upper.Mtim}
}

// copyFile copies a file of the upper tree, which has to be the one that was looked at.
func (a *apply) copyFile(c *Change, dir *os.File, name string) error {
	from, err := a.openSource(path.Dir(c.Path))
	if err != nil {
		return err
	}
	src, err := openFile(from, path.Base(c.Path))
	if err != nil {
		return err
	}
	defer src.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if inodeOf(&st) != inodeOf(&c.upper) || st.Size != c.upper.Size {
		return errors.New("changed while it was applied")
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	dst := os.NewFile(uintptr(fd), name)
	err = copyData(dst, src, st.Size)
	if err == nil {
		err = a.finish(dst, c, c.Mode)
	}
	if err == nil && a.files <= maxSync {
		err = os.NewSyscallError("fsync", fsync(fd))
	}
	return errors.Join(err, dst.Close())
}

// copyData copies what is data, and leaves holes where holes are.
func copyData(dst, src *os.File, size int64) error {
	for pos := int64(0); pos < size; {
		from, err := nextData(src, pos)
		if err != nil {
			return err
		}
		if from < 0 || from >= size {
			break
		}
		to, err := unix.Seek(int(src.Fd()), from, unix.SEEK_HOLE)
		if err != nil || to > size || to <= from {
			to = size
		}
		for _, f := range []*os.File{src, dst} {
			if _, err := f.Seek(from, io.SeekStart); err != nil {
				return err
			}
		}
		if n, err := io.Copy(dst, io.LimitReader(src, to-from)); err != nil {
			return unwrapCopy(err)
		} else if n != to-from {
			return errors.New("changed while it was applied")
		}
		pos = to
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(int(dst.Fd()), size))
}

// unwrapCopy takes the stage's names out of an error.
func unwrapCopy(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Op, pe.Err)
	}
	return err
}

// finish gives a new file or directory owner, attributes, mode and time. Whoever changes the owner takes the bits of the
// mode away that come with it, so the mode comes after; and the time last.
func (a *apply) finish(f *os.File, c *Change, mode uint32) error {
	fd := int(f.Fd())
	if err := unix.Fchown(fd, int(c.UID), int(c.GID)); err != nil {
		return os.NewSyscallError("chown", err)
	}
	from, err := a.openSource(path.Dir(c.Path))
	if err != nil {
		return err
	}
	attrs, err := a.tree.checkedAttrs(at(from, path.Base(c.Path)))
	if err != nil {
		return err
	}
	for name, value := range attrs {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil {
			return fmt.Errorf("set the attribute %s: %w", Escape(name), err)
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	return os.NewSyscallError("utimensat", futimens(f, c))
}

func futimens(f *os.File, c *Change) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, self(f), times(c), 0)
}

// checkedAttrs returns the attributes that the host's file is given.
func (t *Tree) checkedAttrs(path string) (map[string]string, error) {
	all, err := t.attrs(path)
	for name := range all {
		if class, why := t.classify(name); class != content {
			return nil, errors.New(why)
		}
	}
	return all, err
}

// syncAll syncs the file systems that have a stage.
func (a *apply) syncAll() error {
	synced := make(map[uint64]bool)
	for _, t := range a.targets {
		if synced[t.id.dev] {
			continue
		}
		synced[t.id.dev] = true
		if err := a.opened(t, func(dir, _ *os.File) error {
			return os.NewSyscallError("syncfs", unix.Syncfs(int(dir.Fd())))
		}); err != nil {
			return err
		}
	}
	return nil
}

// sync has names reach the disk.
func (a *apply) sync() error {
	if len(a.targets) > maxSync {
		return a.syncAll()
	}
	for _, t := range a.targets {
		if err := a.opened(t, func(dir, _ *os.File) error {
			return os.NewSyscallError("fsync", fsync(int(dir.Fd())))
		}); err != nil {
			return err
		}
	}
	return nil
}
