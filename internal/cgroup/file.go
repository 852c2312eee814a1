package cgroup

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// writeFile writes value to a file of a cgroup in one write, which is how the kernel takes it.
func writeFile(dir, name, value string) error {
	path := dir + "/" + name
	fd, err := openRetry(path, unix.O_WRONLY|unix.O_CLOEXEC)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return writeFD(fd, path, value)
}

func writeFD(fd int, path, value string) error {
	for {
		_, err := unix.Write(fd, []byte(value))
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &fs.PathError{Op: "write " + quote(value) + " to", Path: path, Err: err}
		}
	}
}

func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readFile returns a file of a cgroup. Most are a few bytes, for which one read on the stack's buffer does.
func readFile(dir, name string) (string, error) {
	path := dir + "/" + name
	fd, err := openRetry(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var buf [1024]byte
	var all []byte
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return string(all), nil
		default:
			all = append(all, buf[:n]...)
		}
	}
}

// readValue returns what a file of a cgroup holds that has a single value: the kernel gives it with one read.
func readValue(dir, name string) (string, error) {
	path := dir + "/" + name
	fd, err := openRetry(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var buf [128]byte
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case err == nil:
			return strings.TrimSpace(string(buf[:n])), nil
		case err != unix.EINTR:
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		}
	}
}

// readUint returns a file's number: "max" is the largest, and a negative one, which some kernels show, is 0.
func readUint(dir, name string) (uint64, error) {
	s, err := readValue(dir, name)
	if err != nil {
		return 0, err
	}
	n, err := parseUint(s)
	if err != nil {
		return 0, &fs.PathError{Op: "parse", Path: dir + "/" + name, Err: err}
	}
	return n, nil
}

func parseUint(s string) (uint64, error) {
	if s == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil {
		return n, nil
	}
	if i, ierr := strconv.ParseInt(s, 10, 64); ierr == nil && i < 0 {
		return 0, nil
	}
	return 0, err
}

// readKeyed returns the value of key in a file of "key value" lines, or 0 if it has no such line.
func readKeyed(dir, name, key string) (uint64, error) {
	s, err := readFile(dir, name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(s) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		if k == key {
			return parseUint(v)
		}
	}
	return 0, nil
}

func exists(path string) bool {
	return unix.Access(path, unix.F_OK) == nil
}

// gone tells whether err means that the cgroup was removed: files of a removed cgroup answer ENODEV while open.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// denied tells whether err is the kernel's no to a caller without privileges; a read-only mount is one too.
func denied(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS)
}

func quote(s string) string { return strconv.Quote(s) }
