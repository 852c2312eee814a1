package upper

import (
	"bytes"
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// same tells whether two files of the same type differ in nothing but their times.
func (t *Tree) same(upper, lower *os.File, name string, u, l *unix.Stat_t) (bool, error) {
	if u.Mode != l.Mode || u.Uid != l.Uid || u.Gid != l.Gid {
		return false, nil
	}
	switch typeOf(u) {
	case unix.S_IFLNK:
		a, err := readlink(upper, name)
		if err != nil {
			return false, err
		}
		b, err := readlink(lower, name)
		return a == b, err
	case unix.S_IFCHR, unix.S_IFBLK:
		return u.Rdev == l.Rdev, nil
	case unix.S_IFREG:
		if u.Size != l.Size {
			return false, nil
		}
		if same, err := sameAttrs(t, upper, lower, name); !same || err != nil {
			return false, err
		}
		return sameContent(upper, lower, name)
	case unix.S_IFDIR:
		return sameAttrs(t, upper, lower, name)
	}
	return true, nil
}

func sameAttrs(t *Tree, upper, lower *os.File, name string) (bool, error) {
	a, err := t.attrs(at(upper, name))
	if err != nil {
		return cannotRead(err)
	}
	b, err := t.attrs(at(lower, name))
	if err != nil {
		return cannotRead(err)
	}
	if len(a) != len(b) {
		return false, nil
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false, nil
		}
	}
	return true, nil
}

// cannotRead takes what may not be read for changed: the other answer would hide something.
func cannotRead(err error) (bool, error) {
	if errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return false, err
}

// readlink returns the target of a symbolic link, of any length.
func readlink(dir *os.File, name string) (string, error) {
	b := make([]byte, unix.PathMax+1)
	n, err := unix.Readlinkat(int(dir.Fd()), name, b)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: path.Join(dir.Name(), name), Err: err}
	}
	return string(b[:n]), nil
}

// openFile opens a regular file for reading: first as a place, and then that, so that it is the file whose type was
// looked at. Opening a device or a pipe may have effects, or take forever.
func openFile(dir *os.File, name string) (*os.File, error) {
	place, err := linux.OpenBeneath(dir, name, unix.O_PATH, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(place.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if typeOf(&st) != unix.S_IFREG {
		return nil, &os.PathError{Op: "open", Path: path.Join(dir.Name(), name), Err: errors.New("became a " + typeOf(&st).String())}
	}
	fd, err := unix.Open(self(place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path.Join(dir.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(dir.Name(), name)), nil
}

// sameContent compares two files of the same size. What is a hole in both isn't read: a file may be larger than can be
// read in a lifetime.
func sameContent(upper, lower *os.File, name string) (bool, error) {
	a, err := openFile(upper, name)
	if err != nil {
		return cannotRead(err)
	}
	defer a.Close()
	fd, err := unix.Openat(int(lower.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.EACCES || err == unix.ELOOP || err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path.Join(lower.Name(), name), Err: err}
	}
	b := os.NewFile(uintptr(fd), path.Join(lower.Name(), name))
	defer b.Close()
	bufA, bufB := make([]byte, 128<<10), make([]byte, 128<<10)
	for pos := int64(0); ; {
		da, err := nextData(a, pos)
		if err != nil {
			return false, err
		}
		db, err := nextData(b, pos)
		if err != nil {
			return false, err
		}
		switch {
		case da < 0 && db < 0:
			return true, nil
		case da < 0:
			pos = db
		case db < 0:
			pos = da
		default:
			pos = min(da, db)
		}
		na, err := readAt(a, bufA, pos)
		if err != nil {
			return false, err
		}
		nb, err := readAt(b, bufB, pos)
		if err != nil {
			return false, err
		}
		if na != nb || !bytes.Equal(bufA[:na], bufB[:nb]) {
			return false, nil
		}
		if na < len(bufA) {
			return true, nil
		}
		pos += int64(na)
	}
}

// nextData returns where data begins in a file, at pos or behind, or -1.
func nextData(f *os.File, pos int64) (int64, error) {
	n, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	switch err {
	case nil:
		return n, nil
	case unix.ENXIO:
		return -1, nil
	case unix.EINVAL, unix.EOPNOTSUPP: // a file system that knows no holes
		return pos, nil
	}
	return 0, &os.PathError{Op: "lseek", Path: f.Name(), Err: err}
}

// readAt fills b, unless the file ends before.
func readAt(f *os.File, b []byte, pos int64) (int, error) {
	got := 0
	for got < len(b) {
		n, err := unix.Pread(int(f.Fd()), b[got:], pos+int64(got))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return got, &os.PathError{Op: "read", Path: f.Name(), Err: err}
		}
		if n == 0 {
			break
		}
		got += n
	}
	return got, nil
}
