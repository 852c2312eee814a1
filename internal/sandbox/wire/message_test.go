package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

func pair(t testing.TB) (ours, theirs int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

// An environment, or a list of processes, is longer than the buffer of a socket.
func TestMessages(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	const quotes = 2
	for _, size := range []int{0, 1, packet - quotes - 1, packet - quotes, packet - quotes + 1, 2*packet - quotes, 500000, MaxMessage - quotes} {
		ours, theirs := pair(t)
		text := strings.Repeat("x", size)
		sent := make(chan error, 1)
		go func() { sent <- Send(theirs, text, int(null.Fd()), int(null.Fd())) }()
		var got string
		fds, err := Receive(ours, &got, 2)
		if err != nil || got != text || len(fds) != 2 {
			t.Errorf("%d bytes: got %d and %d descriptors, %v", size, len(got), len(fds), err)
		}
		closeAll(fds)
		if err := <-sent; err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	_, theirs := pair(t)
	if err := Send(theirs, strings.Repeat("x", MaxMessage)); err == nil {
		t.Error("a message that is too long is sent")
	}
}

// packets returns a socket to which full packets come, as of one message, until the test ends.
func packets(t *testing.T, pause time.Duration) int {
	t.Helper()
	ours, theirs := pair(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for unix.Sendmsg(theirs, bytes.Repeat([]byte(" "), packet), nil, nil, unix.MSG_NOSIGNAL) == nil {
			time.Sleep(pause)
		}
	}()
	t.Cleanup(func() { // before the sockets are closed
		unix.Shutdown(ours, unix.SHUT_RDWR)
		<-ended
	})
	return ours
}

// One that never ends is not waited for.
func TestEndlessMessage(t *testing.T) {
	ours := packets(t, 0)
	var v any
	_, err := Receive(ours, &v, 0)
	if err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}

// One that comes slowly is waited for as long as the socket's timeout says, not so long for each packet.
func TestSlowMessage(t *testing.T) {
	ours := packets(t, 100*time.Millisecond)
	wait := unix.NsecToTimeval(int64(300 * time.Millisecond))
	if err := unix.SetsockoptTimeval(ours, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var v any
	if _, err := Receive(ours, &v, 0); err != unix.EAGAIN {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it takes %v", took)
	}
}

// Whatever comes, in packets of whatever size, with descriptors or without: it is a message or an error, and nothing stays open.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"Op":"exec","Process":{"args":["x"]}}`), uint16(packet-1), uint8(3))
	f.Add([]byte(`{"Failure":{"Message":"\u001b[2J"}}`), uint16(5), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, size uint16, files uint8) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p[0])
		// It has an end that is like no other file, so that those that are left open can be told.
		var rights []byte
		for range files % 8 {
			rights = append(rights, unix.UnixRights(p[1])...)
		}
		for rest := data; ; {
			n := min(len(rest), int(size)+1)
			if err := unix.Sendmsg(p[1], rest[:n], rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT); err != nil {
				break
			}
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
		self := link(t, p[1])
		unix.Close(p[1])
		var r Request
		fds, err := Receive(p[0], &r, 3)
		if err != nil && len(fds) > 0 || len(fds) > 3 {
			t.Errorf("%d descriptors, %v", len(fds), err)
		}
		closeAll(fds)
		if n := open(t, self); n > 0 {
			t.Errorf("%d descriptors are left", n)
		}
	})
}

func link(t *testing.T, fd int) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	for _, name := range fdLinks(t) {
		var other unix.Stat_t
		if unix.Stat(name, &other) == nil && other.Ino == st.Ino && other.Dev == st.Dev {
			to, err := os.Readlink(name)
			if err == nil {
				return to
			}
		}
	}
	t.Fatal("an open file that is not in /proc/self/fd")
	return ""
}

func open(t *testing.T, what string) (n int) {
	t.Helper()
	for _, name := range fdLinks(t) {
		if to, err := os.Readlink(name); err == nil && to == what {
			n++
		}
	}
	return n
}

func fdLinks(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// What a sandbox says about a failure is for a terminal, a log and a program: one line that does nothing to any of them.
func FuzzFailure(f *testing.F) {
	f.Add([]byte(`{"Field":"process.cwd","Step":"chdir \"/x\"","Message":"no such file or directory","Errno":2}`))
	f.Add([]byte(`{"Message":"\u001b]0;x\u0007\r\nhull: all is well\u202e","Errno":-1,"Hint":"\u009b2J"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var failure Failure
		if json.Unmarshal(data, &failure) != nil {
			return
		}
		err := failure.Err()
		text := err.Error()
		if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || len(text) > 8*maxWords {
			t.Errorf("%q of %d bytes", text, len(text))
		}
		_ = errors.Is(err, unix.ENOENT)
		var errno unix.Errno
		_ = errors.As(err, &errno)
		_ = errno.Error()
	})
}
