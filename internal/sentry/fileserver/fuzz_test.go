package fileserver

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/lisafs"
)

// The client of the server is a kernel that its container may have taken over. Whatever it sends, the process goes on: a panic
// would take the status of the container's program with it. And it gets no descriptor of what is not in the mount.
func FuzzServer(f *testing.F) {
	host := f.TempDir()
	root := filepath.Join(host, "root")
	if err := os.MkdirAll(filepath.Join(root, "dir"), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("secret"), 0o644); err != nil {
		f.Fatal(err)
	}
	var secret unix.Stat_t
	if err := unix.Stat(filepath.Join(host, "secret"), &secret); err != nil {
		f.Fatal(err)
	}
	// A message: its number, the length of what follows, and that. The first is to mount, which takes the root over.
	mount := []byte{byte(lisafs.Mount), 0}
	f.Add([]byte{})
	f.Add([]byte{byte(lisafs.OpenAt), 12, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{byte(lisafs.Walk), 14, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, '.', '.', 0, 0})
	f.Add(slices.Concat(mount, mount))
	f.Add(slices.Concat(bindMessage("s"), bindMessage("s"), bindMessage("..")))
	f.Add(slices.Concat(bindMessage("s"), []byte{byte(lisafs.Listen), 16, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, byte(lisafs.Accept), 8, 3, 0, 0, 0, 0, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, data []byte) {
		fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		client, err := New(Sockets{Connect: true, Bind: true}).Serve(fd, false)
		if err != nil {
			t.Fatal(err)
		}
		defer removeSockets(t, root)
		defer unix.Close(client)
		if err := unix.SetNonblock(client, false); err != nil {
			t.Fatal(err)
		}
		soon := unix.Timeval{Usec: 20000}
		if err := unix.SetsockoptTimeval(client, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &soon); err != nil {
			t.Fatal(err)
		}
		for data = slices.Concat(mount, data); len(data) >= 2; {
			number, n := data[0], min(int(data[1]), len(data)-2)
			message := binary.LittleEndian.AppendUint32(nil, uint32(n))
			message = binary.LittleEndian.AppendUint32(message, uint32(number)) // of which half is padding
			message = append(message, data[2:2+n]...)
			data = data[2+n:]
			if unix.Sendto(client, message, unix.MSG_NOSIGNAL, nil) != nil {
				return
			}
			answer, rights := make([]byte, 1<<16), make([]byte, 256)
			got, oob, _, _, err := unix.Recvmsg(client, answer, rights, unix.MSG_CMSG_CLOEXEC)
			if err != nil || got == 0 {
				return
			}
			control, _ := unix.ParseSocketControlMessage(rights[:oob])
			for i := range control {
				fds, _ := unix.ParseUnixRights(&control[i])
				for _, fd := range fds {
					var st unix.Stat_t
					if unix.Fstat(fd, &st) == nil && st.Ino == secret.Ino && st.Dev == secret.Dev {
						t.Error("what is above the mount was handed over")
					}
					unix.Close(fd)
				}
			}
		}
	})
}

// bindMessage asks for a socket of the host's in the root.
func bindMessage(name string) []byte {
	var r lisafs.BindAtReq
	r.DirFD, r.SockType, r.Mode, r.Name = 1, unix.SOCK_STREAM, 0o600, lisafs.SizedString(name)
	b := make([]byte, r.SizeBytes())
	r.MarshalBytes(b)
	return append([]byte{byte(lisafs.BindAt), byte(len(b))}, b...)
}

func removeSockets(t *testing.T, root string) {
	t.Helper()
	made, err := os.ReadDir(root)
	if err != nil {
		t.Error(err)
	}
	for _, e := range made {
		if e.Type() == os.ModeSocket {
			_ = os.Remove(filepath.Join(root, e.Name()))
		}
	}
}
