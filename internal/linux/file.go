package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// ReadFile is os.ReadFile for small files: of a record, or in procfs those that the kernel gives in one piece, so that
// less than was asked for is all there is. os.File finds out first whether a file can be polled, which takes more calls
// than reading it. What is read is put into buf, which may be on the caller's stack, as far as it goes.
func ReadFile(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
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
