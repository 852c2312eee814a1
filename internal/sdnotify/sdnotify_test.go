package sdnotify

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

func TestAllowed(t *testing.T) {
	tests := []struct {
		in, want string
		ready    bool
	}{
		{"READY=1", "READY=1\n", true},
		{"READY=1\nSTATUS=up\n", "READY=1\nSTATUS=up\n", true},
		{"STATUS=a=b", "STATUS=a=b\n", false},
		{"READY=0", "READY=0\n", false},
		{"MAINPID=1\nREADY=1", "READY=1\n", true},
		{"MAINPID=1", "", false},
		{"FDSTORE=1\nFDNAME=x", "", false},
		{"BARRIER=1", "", false},
		{"NOTIFYACCESS=all", "", false},
		{"READY", "", false},
		{"ready=1", "", false},
		{"STATUS=a\x00b", "", false},
		{"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=5", "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=5\n", false},
		{"", "", false},
	}
	for _, test := range tests {
		got, ready := allowed([]byte(test.in))
		if string(got) != test.want || ready != test.ready {
			t.Errorf("%q: got %q, %v, want %q, %v", test.in, got, ready, test.want, test.ready)
		}
	}
}

// FuzzAllowed: what a container sends can't become an assignment about another process, or descriptors.
func FuzzAllowed(f *testing.F) {
	f.Add([]byte("READY=1\nMAINPID=1"))
	f.Add([]byte("STATUS=x\rMAINPID=1\n\nFDSTORE=1"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, _ := allowed(in)
		for line := range strings.SplitSeq(string(out), "\n") {
			name, _, _ := strings.Cut(line, "=")
			switch name {
			case "MAINPID", "MAINPIDFDID", "FDSTORE", "FDSTOREREMOVE", "FDNAME", "FDPOLL", "NOTIFYACCESS", "BARRIER", "WATCHDOG_USEC":
				t.Errorf("%q lets %q through", in, line)
			}
		}
	})
}

func TestSetup(t *testing.T) {
	dir := t.TempDir()
	mount, env, err := Setup(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := specs.Mount{
		Destination: "/run/notify", Type: "bind", Source: filepath.Join(dir, "notify"),
		Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	}
	if diff := cmp.Diff(want, mount); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if env != "NOTIFY_SOCKET=/run/notify/notify.sock" {
		t.Errorf("got %q", env)
	}
	if fi, err := os.Stat(mount.Source); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("directory: %v, %v", fi, err)
	}
}

func TestListenWithoutSetup(t *testing.T) {
	if s, err := Listen(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, %v", s, err)
	}
}

// manager is a service manager's end.
func newManager(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manager")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, path
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	// The descriptors of a barrier are not taken, and so closed: which is the answer it waits for.
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// program returns a container's socket, and the program's end of it.
func newProgram(t *testing.T, dir string) (*Socket, *net.UnixConn) {
	t.Helper()
	mount, _, err := Setup(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	t.Chdir(mount.Source) // the path of a deep directory is too long for an address
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: "notify.sock", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return s, c
}

func send(t *testing.T, c *net.UnixConn, message string) {
	t.Helper()
	if _, err := c.Write([]byte(message)); err != nil {
		t.Fatal(err)
	}
}

func TestHandOver(t *testing.T) {
	manager, host := newManager(t)
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	s, c := newProgram(t, deep)
	sleep := exec.Command("sleep", "100")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	done := make(chan error, 1)
	go func() { done <- s.HandOver(t.Context(), host, sleep.Process.Pid) }()

	send(t, c, "STATUS=loading\nMAINPID=1")
	if got := receive(t, manager); got != "STATUS=loading\n" {
		t.Errorf("got %q", got)
	}
	send(t, c, "MAINPID=1")
	send(t, c, "READY=1\nMAINPID=1")
	if got, want := receive(t, manager), "READY=1\nMAINPID="+strconv.Itoa(sleep.Process.Pid)+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := receive(t, manager); got != "BARRIER=1" {
		t.Errorf("got %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHandOverOfAProcessThatEnds(t *testing.T) {
	_, host := newManager(t)
	s, _ := newProgram(t, t.TempDir())
	sleep := exec.Command("sleep", "0.2")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.HandOver(t.Context(), host, sleep.Process.Pid); err != nil {
		t.Error(err)
	}
	if err := sleep.Wait(); err != nil {
		t.Error(err)
	}
}

func TestForwardUntilDone(t *testing.T) {
	manager, host := newManager(t)
	s, c := newProgram(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Forward(ctx, host) }()
	for _, message := range []string{"READY=1\n", "STATUS=a\n", "READY=1\n", "STOPPING=1\n"} {
		send(t, c, message)
		if got := receive(t, manager); got != message {
			t.Errorf("got %q, want %q", got, message)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadManager(t *testing.T) {
	s, _ := newProgram(t, t.TempDir())
	for _, host := range []string{"", "relative", "vsock:2:3", "/no/such/socket"} {
		if err := s.Forward(t.Context(), host); err == nil {
			t.Errorf("%q: no error", host)
		}
	}
}
