package boot

import (
	"io"
	"os"
	"os/exec"
	"runtime/pprof"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
)

// What is caught stays so: it is tried in a process of its own.
func TestForwardSignals(t *testing.T) {
	if os.Getenv("HULL_TEST_FORWARD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestForwardSignals$")
		cmd.Env = append(os.Environ(), "HULL_TEST_FORWARD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	got := make(chan linux.Signal, 100)
	if err := forwardSignals(func(s linux.Signal) { got <- s }); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGTSTP, unix.SIGSEGV, unix.SIGUSR1, 34, 64} {
		if err := unix.Kill(unix.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-got:
			if s != linux.Signal(sig) {
				t.Errorf("got %v, want %v", s, sig)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("no %v", sig)
		}
	}
	// A profile is made by signals, too.
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		t.Fatal(err)
	}
	var used unix.Rusage
	for used.Utime.Nano()+used.Stime.Nano() < 200e6 {
		if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
			t.Fatal(err)
		}
	}
	pprof.StopCPUProfile()
	if len(got) > 0 {
		t.Errorf("a profile made it forward %v", <-got)
	}
}
