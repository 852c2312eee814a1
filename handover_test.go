package hull_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func TestPidFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := create(t, newRuntime(t), hull.CreateOptions{PidFile: file})
	expect(t, strconv.Itoa(c.Init().Pid), readFile(t, file))
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 1 {
		t.Errorf("files %v", left)
	}
}

// Neither what a creation has left that was killed, nor a place where no file can be, is in the way for good.
func TestPidFileAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pid")
	write(t, filepath.Join(dir, ".pid"), "1")
	c := create(t, newRuntime(t), hull.CreateOptions{PidFile: file})
	expect(t, strconv.Itoa(c.Init().Pid), readFile(t, file))
	mkdir(t, filepath.Join(dir, "taken"), 0o755)
	_, err := newRuntime(t).Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t), PidFile: filepath.Join(dir, "taken")})
	refused(t, err, unix.EEXIST, "pid file")
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

func TestPidFileThatCannotBe(t *testing.T) {
	r := newRuntime(t)
	_, err := tryRunWith(t, r, hull.CreateOptions{Bundle: hulltest.Bundle(t), PidFile: "/nonexistent/pid"})
	refused(t, err, os.ErrNotExist, "run box", "pid file", "/nonexistent")
}

func TestPidfdSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	received := make(chan int, 1)
	go func() {
		defer close(received)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		if f := receiveFile(conn); f != nil {
			defer f.Close()
			received <- pidOf(f)
		}
	}()
	c := create(t, newRuntime(t), hull.CreateOptions{PidfdSocket: path})
	expect(t, c.Init().Pid, <-received)
}

// receiveFile receives a descriptor.
func receiveFile(conn *net.UnixConn) *os.File {
	_, f := receiveMessage(conn)
	return f
}

// receiveMessage receives a message with a descriptor.
func receiveMessage(conn *net.UnixConn) (string, *os.File) {
	p, oob := make([]byte, 4096), make([]byte, 64)
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, oobn, _, _, err := conn.ReadMsgUnix(p, oob)
	if err != nil {
		return "", nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return string(p[:n]), nil
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return string(p[:n]), nil
	}
	unix.CloseOnExec(fds[0])
	return string(p[:n]), os.NewFile(uintptr(fds[0]), "received")
}

// pidOf returns the process that a pidfd names.
func pidOf(f *os.File) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, _ := strconv.Atoi(strings.TrimSpace(v))
			return pid
		}
	}
	return 0
}

// A parked init has its standard streams and the fifo that it waits at; no socket to a hull that has long gone.
func TestParkedDescriptors(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{})
	var fds []string
	for range 100 { // until it has come to rest
		fds = nil
		entries, err := os.ReadDir(procPath(c.Init().Pid, "fd"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			fds = append(fds, e.Name())
		}
		if len(fds) == 4 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	expect(t, "0 1 2 5", strings.Join(fds, " "))
}
