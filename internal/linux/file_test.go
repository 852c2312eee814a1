package linux

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestReadFile(t *testing.T) {
	var buf [2048]byte
	for _, size := range []int{0, 1, 2047, 2048, 2049, 100000} {
		path := filepath.Join(t.TempDir(), "f")
		want := bytes.Repeat([]byte("x"), size)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFile(path, buf[:]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
	}
	if _, err := ReadFile("/does/not/exist", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
}

// The kernel gives a page at a time, less than the buffer holds.
func TestReadProc(t *testing.T) {
	for _, path := range []string{"/proc/self/mountinfo", "/proc/self/maps", "/proc/filesystems"} {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadProc(path)
		if err != nil || path != "/proc/self/maps" && !bytes.Equal(got, want) || bytes.Count(got, []byte("\n")) == 0 {
			t.Errorf("%s: read %d bytes of %d, %v", path, len(got), len(want), err)
		}
	}
	if _, err := ReadProc("/proc/self/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
}

func TestEachName(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 1000 { // more than come at once
		name := strings.Repeat("x", 1+i%200) + strconv.Itoa(i)
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	if err := EachName(dir, func(name []byte) { got = append(got, string(name)) }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d names, want %d", len(got), len(want))
	}
	if err := EachName(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
}

// A pipe that blocks, as another process has made it, gets deadlines.
func TestPollable(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	defer r.Close()
	defer w.Close()
	if err := r.SetReadDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
		t.Fatalf("a file that blocks has deadlines: %v", err)
	}
	f, err := Pollable(r, "reader")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}
