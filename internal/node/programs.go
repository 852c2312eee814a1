package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// programDirs are the directories of hull's that hold programs, and nothing of others.
var programDirs = []string{"bin", "libexec/hull"}

// temporary begins the names of files that are not whole yet.
const temporary = ".hull-node-"

// running begins the other names of programs that run, whose own another release's have.
const running = ".hull-node-running-"

// copyPrograms has to be as from is, and returns how many files it has changed. What runs goes on with the file that it was
// started from.
func copyPrograms(from, to string) (changed int, err error) {
	for _, dir := range programDirs {
		entries, err := os.ReadDir(filepath.Join(from, dir))
		if err != nil {
			return changed, err
		}
		if err := os.MkdirAll(filepath.Join(to, dir), 0o755); err != nil {
			return changed, err
		}
		names := make(map[string]bool)
		for _, e := range entries {
			names[e.Name()] = true
			new, err := copyFile(filepath.Join(from, dir, e.Name()), filepath.Join(to, dir, e.Name()))
			if err != nil {
				return changed, err
			}
			if new {
				changed++
			}
		}
		old, err := os.ReadDir(filepath.Join(to, dir))
		if err != nil {
			return changed, err
		}
		for _, e := range old {
			if path := filepath.Join(to, dir, e.Name()); !names[e.Name()] && !runs(path) {
				if err := os.Remove(path); err != nil {
					return changed, err
				}
			}
		}
	}
	return changed, nil
}

// copyFile copies a regular file or a symbolic link, unless it is there as it should be.
func copyFile(from, to string) (changed bool, err error) {
	fi, err := os.Lstat(from)
	if err != nil {
		return false, err
	}
	next := filepath.Join(filepath.Dir(to), temporary+filepath.Base(to))
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return false, err
		}
		if have, err := os.Readlink(to); err == nil && have == target {
			return false, nil
		}
		if err := os.Symlink(target, next); err != nil {
			return false, err
		}
	case fi.Mode().IsRegular():
		src, err := os.Open(from)
		if err != nil {
			return false, err
		}
		defer src.Close()
		if have, err := os.Lstat(to); err == nil && have.Mode() == fi.Mode() && have.Size() == fi.Size() {
			// What can't be read is replaced.
			if same, err := hasContent(to, src); err == nil && same {
				return false, nil
			}
			if _, err := src.Seek(0, io.SeekStart); err != nil {
				return false, err
			}
		}
		if err := writeFile(next, src, fi.Mode().Perm()); err != nil {
			return false, errors.Join(err, os.Remove(next))
		}
	default:
		return false, &os.PathError{Op: "copy", Path: from, Err: errors.New("it is neither a file nor a link")}
	}
	if err := keepRunning(to); err != nil {
		return false, err
	}
	return true, os.Rename(next, to)
}

// keepRunning gives a program that runs another name, by which removePrograms finds that it does so still.
func keepRunning(path string) error {
	if !runs(path) {
		return nil
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	inode := fi.Sys().(*syscall.Stat_t).Ino
	err = os.Link(path, filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%d-%s", running, inode, filepath.Base(path))))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// hasContent tells whether a file has the content that is read. It takes them in pieces: a program may be as large as the memory that
// the container is given.
func hasContent(path string, content io.Reader) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	want, have := make([]byte, piece), make([]byte, piece)
	for {
		n, err := io.ReadFull(content, want)
		m, errHave := io.ReadFull(f, have)
		switch {
		case !atEnd(err):
			return false, err
		case !atEnd(errHave):
			return false, errHave
		case !bytes.Equal(want[:n], have[:m]):
			return false, nil
		case err != nil:
			return true, nil // both are shorter than a piece, by as much
		}
	}
}

const piece = 128 << 10

// atEnd tells whether io.ReadFull has read all that there is, or all that was asked for.
func atEnd(err error) bool { return err == nil || err == io.EOF || err == io.ErrUnexpectedEOF }

func writeFile(path string, content io.Reader, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	// The page cache has what is written at once in one piece, and the processor a piece of 2 MB in one page, unlike what is read from
	// the disk later, or copied by the kernel: until the cache lets go of it a sandbox starts in 0.92 of the time.
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{content}, make([]byte, 2<<20))
	// The mask of the caller is no reason to be another mode.
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// removePrograms removes what copyPrograms has made, unless one of the programs runs: which one it returns then.
func removePrograms(to string) (busy string, err error) {
	for _, dir := range programDirs {
		entries, err := os.ReadDir(filepath.Join(to, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, e := range entries {
			if path := filepath.Join(to, dir, e.Name()); runs(path) {
				return path, nil
			}
		}
	}
	for _, dir := range programDirs {
		if err := os.RemoveAll(filepath.Join(to, dir)); err != nil {
			return "", err
		}
		if parent, _, nested := strings.Cut(dir, "/"); nested {
			_ = os.Remove(filepath.Join(to, parent)) // if nothing else is in it
		}
	}
	// The directory may be a mount here, and not ours alone.
	_ = os.Remove(to)
	return "", nil
}

// runs tells whether a program runs, in whatever namespaces, of which none but our own can be looked into.
func runs(path string) bool {
	// The kernel lets nobody write to it then; but Linux 6.11 does, which wanted to be rid of that.
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, unix.ETXTBSY) || isOpen(path)
}

// isOpen tells whether anybody has a file open, as the kernel has what runs: it gives a lease for writing only to who is alone with
// it (check_conflicting_open in fs/locks.c). A file system without leases doesn't know.
func isOpen(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if _, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err == nil {
		// Who opens it meanwhile waits for this; the signal that says so is one that Go ignores.
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}
