package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
)

// StreamsFile is the file of an image that says what the container's standard streams were. It is runc's, and has an array of
// three strings: "pipe:[1234]" or "file[1b:5f3]" name, as CRIU does, what is outside of the container and which the streams of
// the restored one replace. Anything else is a path, and CRIU's business.
const StreamsFile = "descriptors.json"

// Streams are what a container's standard streams were.
type Streams [3]string

// External tells whether that stream is replaced by another at the restoration.
func External(stream string) bool {
	switch {
	case bracketed(stream, "pipe:", "0123456789"):
		return true
	default:
		mount, inode, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(stream, "file["), "]"), ":")
		return ok && stream == "file["+mount+":"+inode+"]" && only(mount, hexDigits) && only(inode, hexDigits)
	}
}

const hexDigits = "0123456789abcdef"

func bracketed(s, prefix, digits string) bool {
	n, ok := strings.CutPrefix(s, prefix+"[")
	n, end := strings.CutSuffix(n, "]")
	return ok && end && only(n, digits)
}

func only(s, digits string) bool {
	return s != "" && len(s) <= 20 && strings.Trim(s, digits) == ""
}

// Write puts the streams into an image.
func (s Streams) Write(image *os.File) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := createBeneath(image, StreamsFile)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// createBeneath makes a file in a directory, in the place of one that is there.
func createBeneath(dir *os.File, name string) (*os.File, error) {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && err != unix.ENOENT {
		return nil, &os.PathError{Op: "unlink", Path: dir.Name() + "/" + name, Err: err}
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir.Name() + "/" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// maxStreams bounds StreamsFile, in bytes: three paths.
const maxStreams = 64 << 10

// ReadStreams reads the streams of an image, which may be anybody's.
func ReadStreams(image *os.File) (Streams, error) {
	f, err := linux.OpenBeneath(image, StreamsFile, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return Streams{}, &fault.Error{Step: "read the image " + image.Name(), Err: fmt.Errorf("it has no %s: %w", StreamsFile, unix.ENOENT),
			Hint: "hull checkpoint makes it, as runc's does; one of --pre-dump has none, and can't be restored"}
	}
	if err != nil {
		return Streams{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStreams+1))
	if err == nil {
		var s Streams
		if s, err = parseStreams(b); err == nil {
			return s, nil
		}
	}
	return Streams{}, &fault.Error{Step: "read the image " + image.Name(), Err: fmt.Errorf("%s: %w", StreamsFile, err)}
}

func parseStreams(b []byte) (s Streams, err error) {
	if len(b) > maxStreams {
		return s, unix.EFBIG
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return s, errors.New("not an array of strings")
	}
	if len(list) > len(s) {
		return s, fmt.Errorf("%d streams, not %d", len(list), len(s))
	}
	copy(s[:], list)
	return s, nil
}
