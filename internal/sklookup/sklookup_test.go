package sklookup

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

func TestMain(m *testing.M) {
	// Only here is it certain that goroutines come to the process's first thread: later it may be what testing waits with.
	for range 100 {
		apart(func() { onFirst = onFirst || unix.Gettid() == unix.Getpid() })
	}
	os.Exit(hulltest.NoLeaks(m))
}

var onFirst bool

func TestApart(t *testing.T) {
	if onFirst {
		t.Error("the thread that enters a namespace and ends is the process's first one, which doesn't end")
	}
	n := 0
	threads := make(map[int]bool)
	for range 10 {
		apart(func() { n++; threads[unix.Gettid()] = true })
	}
	if n != 10 || len(threads) != n {
		t.Errorf("%d calls on %d threads, want 10 on 10", n, len(threads))
	}
}

// inNamespace runs f on a thread in a network namespace of its own, whose loopback is up.
func inNamespace(t *testing.T, f func(netns *os.File)) {
	t.Helper()
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		netns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		defer netns.Close()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("lo")
		if err == nil {
			request.SetUint16(unix.IFF_UP)
			err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
		}
		if err != nil {
			t.Error(err)
			return
		}
		f(netns)
	}()
	<-done
}

// dial connects in the thread's namespace.
func dial(port int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "dialled")
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: loopback}); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func TestListen(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Kernel(5, 9))
	inNamespace(t, func(netns *os.File) {
		if _, err := dial(80); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("before: %v", err)
		}
		l, err := Listen(netns)
		if err != nil {
			t.Error(err)
			return
		}
		served := make(chan error)
		go func() {
			for {
				conn, port, err := l.Accept()
				if err != nil {
					served <- err
					return
				}
				_, err = io.WriteString(conn, strconv.Itoa(int(port)))
				if err := errors.Join(err, conn.Close()); err != nil {
					t.Error(err)
				}
			}
		}()
		for _, port := range []int{1, 80, 8080, 65535} {
			conn, err := dial(port)
			if err != nil {
				t.Errorf("port %d: %v", port, err)
				continue
			}
			if got, err := io.ReadAll(conn); err != nil || string(got) != strconv.Itoa(port) {
				t.Errorf("port %d: %q, %v", port, got, err)
			}
			conn.Close()
		}
		// It is this namespace alone, and the loopback's first address.
		elsewhere := make(chan error)
		go func() {
			c, err := net.Dial("tcp4", "127.0.0.1:1")
			if err == nil {
				c.Close()
			}
			elsewhere <- err
		}()
		if err := <-elsewhere; !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("in another namespace: %v", err)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 11}}); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("another address: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Accept of a listener that is closed: %v", err)
		}
		if _, err := dial(80); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("afterwards: %v", err)
		}
	})
}
