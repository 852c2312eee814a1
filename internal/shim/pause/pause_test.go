package pause

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPause has the program run here: it ignores what it should, and stays until it is killed.
func TestPause(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	if err := os.WriteFile(path, Program(), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// What this program has been started to ignore, by the race detector's library for one, its children do, too.
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, own, _ := strings.Cut(string(raw), "SigIgn:\t")
	own, _, _ = strings.Cut(own, "\n")
	inherited, err := strconv.ParseUint(own, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%016x", inherited|1<<(unix.SIGCHLD-1))
	var ignored string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
		if err != nil {
			t.Fatal(err)
		}
		_, ignored, _ = strings.Cut(string(raw), "SigIgn:\t")
		if ignored, _, _ = strings.Cut(ignored, "\n"); ignored == want {
			break
		}
	}
	if ignored != want {
		t.Errorf("signals ignored: %s, want %s: SIGCHLD alone", ignored, want)
	}
	// Stopped and going on it waits again.
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if ws := cmd.ProcessState.Sys().(interface{ Signaled() bool }); !ws.Signaled() {
		t.Errorf("%v", cmd.ProcessState)
	}
}
