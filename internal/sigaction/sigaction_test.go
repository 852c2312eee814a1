package sigaction

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// expect fails unless the signal that comes next is sig. That children of other tests have ended doesn't count.
func expect(t *testing.T, f *os.File, sig unix.Signal) {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		var b [1]byte
		if _, err := f.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		got := unix.Signal(b[0])
		if got == sig {
			return
		}
		if got != unix.SIGCHLD {
			t.Fatalf("got %v, want %v", got, sig)
		}
	}
}

func opened(t *testing.T) *os.File {
	t.Helper()
	f, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAllSignalsAreCaught(t *testing.T) {
	f := opened(t)
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if sig == unix.SIGKILL || sig == unix.SIGSTOP || sig == unix.SIGURG {
			continue // SIGURG is Go's
		}
		if err := Catch(sig); err != nil {
			t.Fatalf("%v: %v", sig, err)
		}
		if err := unix.Kill(unix.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		expect(t, f, sig)
	}
}

// TestCaughtOnEveryThread: a signal comes to whatever thread runs, deep in its stack or not.
func TestCaughtOnEveryThread(t *testing.T) {
	f := opened(t)
	if err := Catch(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	for range 2 * runtime.GOMAXPROCS(0) {
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					deep(n % 1000)
				}
			}
		}()
	}
	defer close(stop)
	for range 500 {
		if err := unix.Kill(unix.Getpid(), unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		expect(t, f, unix.SIGUSR1)
	}
}

//go:noinline
func deep(n int) int {
	var pad [256]byte
	if n == 0 {
		return 0
	}
	pad[n%256] = 1
	return deep(n-1) + int(pad[(n+1)%256])
}

// TestFaultsAreGos: a fault is still a panic, though its signal is caught.
func TestFaultsAreGos(t *testing.T) {
	f := opened(t)
	if err := Catch(unix.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a nil pointer was followed")
			}
		}()
		var p *int
		*p = 1
	}()
	if err := unix.Kill(unix.Getpid(), unix.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	expect(t, f, unix.SIGSEGV)
}

// TestClosedPipeIsAnError: a write to standard error that nobody reads is no end of the program.
func TestClosedPipeIsAnError(t *testing.T) {
	if os.Getenv("SIGACTION_TEST") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestClosedPipeIsAnError$")
		cmd.Env = append(os.Environ(), "SIGACTION_TEST=1")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd.Stderr = w
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
		w.Close()
		return
	}
	f := opened(t)
	if err := Catch(unix.SIGPIPE); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stderr.WriteString("x"); err == nil {
		t.Error("no error")
	}
	expect(t, f, unix.SIGPIPE)
}

// TestIgnoredStaysIgnored: as nohup(1) wants it.
func TestIgnoredStaysIgnored(t *testing.T) {
	if os.Getenv("SIGACTION_TEST") == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `trap "" HUP; exec "$0" -test.run='^TestIgnoredStaysIgnored$'`, self)
		cmd.Env = append(os.Environ(), "SIGACTION_TEST=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	f := opened(t)
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGTERM} {
		if err := Catch(sig); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(unix.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, f, unix.SIGTERM)
}

// TestChildrenHaveDefaults: programs that are started do what they always do on a signal.
func TestChildrenHaveDefaults(t *testing.T) {
	opened(t)
	if err := Catch(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "kill -TERM $$; exit 3")
	if err := cmd.Run(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("got %v, want the end by SIGTERM", err)
	}
}
