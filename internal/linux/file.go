package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadProc is os.ReadFile for files of procfs of which the kernel gives a page at a time, as of mountinfo.
func ReadProc(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 8<<10)
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return b, nil
		}
		b = b[:len(b)+n]
	}
}

// EachName calls f with the names of what is in a directory, but for "." and "..", in no order. They are f's for as long as
// it is called. os.ReadDir makes several objects for each, which for some hundred files takes longer than to ask for them.
func EachName(dir string, f func(name []byte)) error {
	fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var buf [8 << 10]byte
	for {
		n, err := unix.Getdents(fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return &os.PathError{Op: "getdents64", Path: dir, Err: err}
		case n == 0:
			return nil
		}
		const sizeAt, nameAt = 16, 19 // in struct linux_dirent64 (getdents(2))
		for b := buf[:n]; len(b) > nameAt; {
			size := int(binary.NativeEndian.Uint16(b[sizeAt:]))
			if size <= nameAt || size > len(b) {
				break
			}
			name, _, _ := bytes.Cut(b[nameAt:size], []byte{0})
			if s := string(name); s != "." && s != ".." {
				f(name)
			}
			b = b[size:]
		}
	}
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// ReadFile is os.ReadFile for small files: of a record, or in procfs those that the kernel gives in one piece, so that
// less than was asked for is all there is. os.File finds out first whether a file can be polled, which takes more calls
// than reading it. What is read is put into buf, which may be on the caller's stack, as far as it goes.
func ReadFile(path string, buf []byte) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := buf[:0]
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if b = b[:len(b)+n]; len(b) < cap(b) {
			return b, nil
		}
		b = append(b, 0)[:len(b)]
	}
}

// Pollable returns a file that Go's poller waits for, so that it has deadlines and can be closed while it is used, in place of one
// that is open already, and that the poller may not: os.File.Fd has made it block, or another process.
func Pollable(f *os.File, name string) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl F_SETFL", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// InUserNamespace tells whether this program is in a user namespace that isn't the initial one: its root may then be one of an
// ordinary user's.
func InUserNamespace() bool {
	var buf [64]byte
	b, err := ReadFile("/proc/self/uid_map", buf[:])
	return err == nil && !slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

// OrdinaryRoot tells whether this program is root of a user namespace on behalf of an ordinary user, as Podman's runtimes are, and
// not of a container or machine that has it as its root: it has that user's environment. Other runtimes go by the same.
func OrdinaryRoot() bool {
	return os.Geteuid() == 0 && os.Getenv("XDG_RUNTIME_DIR") != "" && os.Getenv("USER") != "root" && InUserNamespace()
}

// MissingDirs returns the directories of path that don't exist, the innermost first: what os.MkdirAll will make.
func MissingDirs(path string) (dirs []string) {
	for ; ; path = filepath.Dir(path) {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return dirs
		}
		dirs = append(dirs, path)
	}
}
