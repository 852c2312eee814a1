package fileserver

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// What has to do with a socket by its name leaves no trace of where that is: the working directory would keep the mount.
func TestSocketsKeepNoDirectory(t *testing.T) {
	t.Chdir("/") // which it is in the jail, an empty one
	s := New(Sockets{Connect: true, Bind: true})
	dir := openPath(t, t.TempDir())
	listening, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listening)
	if err := s.at(dir, "@s", func(a unix.Sockaddr) error { return unix.Bind(listening, a) }); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listening, 1); err != nil {
		t.Fatal(err)
	}
	f := &file{server: s, socket: &socket{dir, "@s"}}
	fd, err := f.Connect(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if wd, err := os.Readlink("/proc/self/cwd"); wd != "/" || err != nil {
		t.Errorf("the working directory is %q, %v", wd, err)
	}
	f.socket.name = "none"
	if fd, err := f.Connect(unix.SOCK_STREAM); err != unix.ENOENT {
		t.Errorf("got %d, %v", fd, err)
	}
	if wd, err := os.Readlink("/proc/self/cwd"); wd != "/" || err != nil {
		t.Errorf("the working directory is %q, %v", wd, err)
	}
}

// What others have put in the place of a socket that was just made doesn't become its owner's.
func TestGiveSocket(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	at := t.TempDir()
	dir := openPath(t, at)
	if err := os.WriteFile(filepath.Join(at, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(at, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(at, "socket"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		err error
		uid uint32
	}{"file": {unix.EEXIST, 0}, "link": {unix.EEXIST, 0}, "socket": {nil, 1000}} {
		if err := giveSocket(dir, name, 1000, 1000); err != want.err {
			t.Errorf("%s: %v, want %v", name, err, want.err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(at, name), &st); err != nil || st.Uid != want.uid {
			t.Errorf("%s is %d's, %v", name, st.Uid, err)
		}
	}
}

func openPath(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}
