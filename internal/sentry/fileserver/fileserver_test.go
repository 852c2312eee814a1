package fileserver

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
)

// All mounts of a server end with the container, and none takes what the others need: the kernel would end in a panic, and
// with it the status of the container's program be lost.
func TestMountsEnd(t *testing.T) {
	s := New(Sockets{})
	for range 5 {
		root, err := unix.Open(t.TempDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := s.Serve(root, false)
		if err != nil {
			t.Fatal(err)
		}
		socket, err := unet.NewSocket(fd)
		if err != nil {
			t.Fatal(err)
		}
		client, _, host, err := lisafs.NewClient(socket)
		if err != nil {
			t.Fatal(err)
		}
		if fi, err := os.NewFile(uintptr(host), "root").Stat(); err != nil || !fi.IsDir() {
			t.Errorf("the mount's directory: %v, %v", fi, err)
		}
		client.Close()
	}
	time.Sleep(50 * time.Millisecond) // connections end by themselves
}

// A kernel that was taken over mounts again and again: the root is closed once, and not what has its number then.
func TestMountOnce(t *testing.T) {
	at := t.TempDir()
	root, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &mount{server: New(Sockets{})}
	m.root.Store(int32(root))
	s := lisafs.NewServer()
	ours, theirs, err := unet.SocketPair(false)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	conn, err := s.CreateConnection(ours, "/", lisafs.ConnectionOpts{}, m)
	if err != nil {
		t.Fatal(err)
	}
	s.StartConnection(conn)
	ask := func() lisafs.MID {
		if _, err := theirs.Write([]byte{0, 0, 0, 0, byte(lisafs.Mount), 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 1<<12)
		n, err := theirs.Read(answer)
		if err != nil || n < 8 {
			t.Fatalf("%d bytes, %v", n, err)
		}
		return lisafs.MID(answer[4])
	}
	if got := ask(); got != lisafs.Mount {
		t.Errorf("the first answer is %d", got)
	}
	if got := ask(); got != lisafs.Error {
		t.Errorf("the second answer is %d", got)
	}
}
