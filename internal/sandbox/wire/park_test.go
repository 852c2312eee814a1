package wire

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A container may have more mounts than there are descriptors in a message, with long names.
func TestContainers(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, size := range []struct{ words, length, files int }{
		{1, 0, 0}, {1, 1, 3}, {3, 5, MaxFiles}, {2, 9, MaxFiles + 1}, {20, packet / 4, 3}, {2, packet - 30, 7}, {9, 100, 5*MaxFiles + 3}, {1, MaxMessage, 1},
	} {
		ours, theirs := pair(t)
		words := slices.Repeat([]string{strings.Repeat(".", size.length)}, size.words)
		fds := slices.Repeat([]int{int(null.Fd())}, size.files)
		sent := make(chan error, 1)
		go func() { sent <- SendContainer(theirs, words, fds) }()
		got, files, err := ReceiveContainer(ours)
		if err != nil || !slices.Equal(got, words) || len(files) != size.files {
			t.Errorf("%+v: %d words and %d descriptors, %v", size, len(got), len(files), err)
		}
		closeAll(files)
		if err := <-sent; err != nil {
			t.Errorf("%+v: %v", size, err)
		}
	}
	_, theirs := pair(t)
	if err := SendContainer(theirs, []string{strings.Repeat("x", MaxMessage+1)}, nil); err == nil {
		t.Error("one that is too long is sent")
	}
}

// Whatever comes: a container or an error, and no descriptor stays open.
func FuzzReceiveContainer(f *testing.F) {
	f.Add([]byte("3\x001\x00abc."), []byte("."), uint8(1))
	f.Add([]byte("9\x002\x00abc"), []byte("defghi."), uint8(1))
	f.Add([]byte("-1\x00-1\x00"), []byte(""), uint8(0))
	f.Fuzz(func(t *testing.T, first, second []byte, files uint8) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p[0])
		for _, m := range [][]byte{first, second} {
			var rights []byte
			for range files % 4 {
				rights = append(rights, unix.UnixRights(p[1])...)
			}
			_ = unix.Sendmsg(p[1], m, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		}
		self := link(t, p[1])
		unix.Close(p[1])
		_, fds, err := ReceiveContainer(p[0])
		if err != nil && len(fds) > 0 {
			t.Errorf("%d descriptors, %v", len(fds), err)
		}
		closeAll(fds)
		if n := open(t, self); n > 0 {
			t.Errorf("%d descriptors are left", n)
		}
	})
}
