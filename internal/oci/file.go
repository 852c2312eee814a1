package oci

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// readFile reads a regular file. O_NONBLOCK keeps a FIFO in its place from blocking hull forever.
//
// It uses plain system calls: os.File would cost more than reading the file takes, and every start of a container waits
// for it.
func readFile(file string) ([]byte, error) {
	fail := func(op string, err error) ([]byte, error) {
		return nil, &fs.PathError{Op: op, Path: file, Err: err}
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	})
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail("fstat", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fail("read", fmt.Errorf("%s, want a regular file", kind(st.Mode)))
	case st.Size > maxSize:
		return fail("read", fmt.Errorf("%d bytes, want at most %d", st.Size, maxSize))
	}
	// One byte more than the size, to see the end, or that it has moved: the limit holds for a file that grows, too.
	data := make([]byte, st.Size+1)
	for n := 0; n < len(data); {
		m, err := retry(func() (int, error) { return unix.Read(fd, data[n:]) })
		if err != nil {
			return fail("read", err)
		}
		if m == 0 {
			return data[:n], nil
		}
		n += m
	}
	return fail("read", errors.New("the file grew while it was read"))
}

// retry repeats a call that a signal interrupts: on FUSE and NFS open(2) and read(2) can be.
func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return "a special file"
}
