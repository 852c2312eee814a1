package hull

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// A scratch directory is on a disk, for what a command writes where a tmpfs can't hold it: in a user namespace overlayfs
// keeps notes in user.* attributes, of directories that replace others, and those a tmpfs has since Linux 6.6.
//
// It is locked (flock(2)) as long as the hull lives that has made it, however that ends: one that isn't is removed by the
// next hull of the same user that needs one.
type scratch struct {
	dir  string
	lock *os.File
}

const scratchPrefix = "do-"

// tmpfsHasUserXattr tells whether files of a tmpfs can have user.* attributes, of which a memfd is one.
var tmpfsHasUserXattr = func() bool {
	fd, err := unix.MemfdCreate("hull", unix.MFD_CLOEXEC)
	if err != nil {
		return true // overlayfs will say
	}
	defer unix.Close(fd)
	return !errors.Is(unix.Fsetxattr(fd, "user.hull", []byte("y"), 0), unix.EOPNOTSUPP)
}

// newScratch makes a scratch directory in the user's cache, or in /var/tmp, where that can't have one.
func newScratch() (*scratch, error) {
	var errs []error
	for _, parent := range scratchPlaces() {
		s, err := newScratchIn(parent)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, &fault.Error{Step: "make a directory for what is written", Err: errors.Join(errs...),
		Hint: "this kernel's tmpfs has no user.* attributes (Linux 6.6), so that a directory on a disk is needed: in $XDG_CACHE_HOME, ~/.cache or /var/tmp"}
}

func scratchPlaces() (places []string) {
	if cache := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(cache) {
		places = append(places, filepath.Join(cache, "hull"))
	}
	if home := homeDir(); home != "" {
		places = append(places, filepath.Join(home, ".cache", "hull"))
	}
	return append(places, "/var/tmp/hull-"+strconv.Itoa(os.Geteuid()))
}

func newScratchIn(parent string) (*scratch, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	// /var/tmp is everyone's: someone else may have made it first, or a link.
	var st unix.Stat_t
	if err := unix.Lstat(parent, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: parent, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return nil, &os.PathError{Op: "use", Path: parent, Err: errors.New("not a directory of this user's alone")}
	}
	sweep(parent)
	for {
		dir, err := os.MkdirTemp(parent, scratchPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
			continue // another hull took it for one that was left
		}
		if err == nil {
			err = unix.Fsetxattr(int(lock.Fd()), "user.hull", []byte("y"), 0)
			if err == nil {
				return &scratch{dir, lock}, nil
			}
			err = &os.PathError{Op: "setxattr user.hull", Path: dir, Err: err}
			lock.Close()
		}
		_ = os.Remove(dir)
		return nil, err
	}
}

// lockDir opens and locks a directory, if it is still the one of that name.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	var opened, named unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &opened)
	}
	if err == nil {
		err = unix.Lstat(dir, &named)
	}
	if err == nil && (opened.Ino != named.Ino || opened.Dev != named.Dev) {
		err = unix.ENOENT
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// sweep removes the directories whose hull is gone.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if !strings.HasPrefix(e.Name(), scratchPrefix) {
			continue
		}
		if lock, err := lockDir(dir); err == nil {
			_ = (&scratch{dir, lock}).remove()
		}
	}
}

// remove takes the directory away with all that was written.
func (s *scratch) remove() error {
	if s == nil {
		return nil
	}
	defer s.lock.Close()
	open(s.lock)
	return os.RemoveAll(s.dir)
}

// open gives the owner back the way into the directories below dir: the command may have taken it, and overlayfs has
// directories that nobody may enter. A name isn't trusted to be what it was: the command may still be ending.
func open(dir *os.File) {
	entries, _ := dir.ReadDir(-1)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		fd, err := unix.Openat(int(dir.Fd()), e.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		self := "/proc/self/fd/" + strconv.Itoa(fd)
		_ = unix.Chmod(self, 0o700)
		if sub, err := os.Open(self); err == nil {
			open(sub)
			sub.Close()
		}
		unix.Close(fd)
	}
}
