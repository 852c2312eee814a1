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
