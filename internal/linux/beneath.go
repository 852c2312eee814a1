package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenBeneath opens path, which is relative to dir and "." for dir itself, with no symbolic link on the way and none
// followed at its end: a path that someone else may change meanwhile leads to a file in dir or nowhere. With
// unix.RESOLVE_NO_XDEV in resolve it doesn't lead into another mount either.
//
// Before openat2 (Linux 5.6) it goes from directory to directory, and tells mounts apart by their devices.
func OpenBeneath(dir *os.File, path string, flags int, resolve uint64) (*os.File, error) {
	fd, err := openBeneath(int(dir.Fd()), path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, resolve)
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: filepath.Join(dir.Name(), path), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), path)), nil
}

func openBeneath(dir int, path string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: resolve | unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	// EAGAIN: the kernel couldn't tell while something was renamed or mounted.
	for range 100 {
		fd, err := retry(func() (int, error) { return unix.Openat2(dir, path, &how) })
		if err == unix.ENOSYS || err == unix.EPERM && !HaveOpenat2() {
			return walkBeneath(dir, path, flags, resolve)
		}
		if err != unix.EAGAIN {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

func walkBeneath(dir int, path string, flags int, resolve uint64) (int, error) {
	var top unix.Stat_t
	if err := unix.Fstat(dir, &top); err != nil {
		return -1, err
	}
	parts := strings.Split(path, "/")
	at := dir
	for i, part := range parts {
		if part == ".." || part == "" {
			return -1, unix.EXDEV
		}
		open := unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		if i == len(parts)-1 {
			open = flags
		}
		fd, err := retry(func() (int, error) { return unix.Openat(at, part, open, 0) })
		if at != dir {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		switch {
		case err != nil:
		case resolve&unix.RESOLVE_NO_XDEV != 0 && st.Dev != top.Dev:
			err = unix.EXDEV
		}
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		at = fd
	}
	return at, nil
}

// NotThere tells whether err says that a path leads nowhere, or through something that is no directory.
func NotThere(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// retry repeats a call that a signal has interrupted.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
