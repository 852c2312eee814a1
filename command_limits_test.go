package hull_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// limited is a command over the host's files, with limits.
func limited(t *testing.T, l hull.Limits, script string) *hull.Cmd {
	hulltest.Require(t, hulltest.Root, hulltest.Command("sh"))
	cmd := hull.Command("sh", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Limits = l
	cmd.Runtime = &hull.Runtime{Warn: func(line string) { t.Error("warning:", line) }}
	return cmd
}

func TestResultOfACommand(t *testing.T) {
	cmd := limited(t, hull.Limits{Memory: 256 << 20}, `i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1`)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	r := cmd.Result
	if r.Wall < 100*time.Millisecond || r.User+r.System <= 0 || r.MaxRSS < 100<<10 || r.PeakMemory < 100<<10 {
		t.Errorf("%+v", r)
	}
	if r.TimedOut || r.OOMKilled > 0 || r.OverLimit {
		t.Errorf("%+v", r)
	}
}

func TestMemoryLimitOfACommand(t *testing.T) {
	cmd := limited(t, hull.Limits{Memory: 16 << 20}, `exec tail /dev/zero`)
	err := cmd.Run()
	var ended *hull.ExitError
	if !errors.As(err, &ended) || ended.WaitStatus.Signal() != unix.SIGKILL {
		t.Errorf("got %v", err)
	}
	if r := cmd.Result; r.OOMKilled != 1 || !r.OverLimit || r.PeakMemory < 15<<20 {
		t.Errorf("%+v", r)
	}
}

func TestTimeLimitOfACommand(t *testing.T) {
	var group sync.WaitGroup
	for script, killed := range map[string]bool{
		`sleep 100`:                            false,
		`trap "exit 0" TERM; sleep 100 & wait`: false,
		`trap "" TERM; sleep 100; sleep 99`:    true,
	} {
		grace := 10 * time.Second
		if killed {
			grace = 100 * time.Millisecond
		}
		cmd := limited(t, hull.Limits{Time: 500 * time.Millisecond, Grace: grace}, script)
		group.Go(func() {
			err := cmd.Run()
			var late *hull.TimeoutError
			if !errors.As(err, &late) || !errors.Is(err, os.ErrDeadlineExceeded) || late.Killed != killed || !cmd.Result.TimedOut {
				t.Errorf("%s: got %v, %+v", script, err, cmd.Result)
			}
		})
	}
	group.Wait()
}

// A limit that can't be meant is an error before anything is done, and none is ignored.
func TestLimitsAreChecked(t *testing.T) {
	for _, l := range []hull.Limits{{Memory: -1}, {CPUs: -1}, {CPUs: 0.001}, {Pids: -1}, {Files: 1}, {Time: -1}, {Grace: -1}} {
		cmd := limited(t, l, "echo no")
		if out, err := cmd.Output(); !errors.Is(err, hull.ErrBadUsage) || len(out) > 0 {
			t.Errorf("%+v: got %q, %v", l, out, err)
		}
	}
	cmd := limited(t, hull.Limits{Memory: 1 << 20}, "")
	cmd.Rootfs = t.TempDir()
	if err := cmd.Run(); !errors.Is(err, hull.ErrBadUsage) {
		t.Errorf("with a root file system: %v", err)
	}
	cmd = limited(t, hull.Limits{}, "")
	cmd.Isolation = "jail"
	if err := cmd.Run(); !errors.Is(err, hull.ErrBadUsage) || !strings.Contains(err.Error(), `isolation "jail"`) {
		t.Errorf("in a jail: %v", err)
	}
}

// The example is run here: package testing would fail it where there is no python3, as it can't be skipped.
func TestExampleOfLimits(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("/usr/bin/python3"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	ExampleCmd_limits()
	os.Stdout = stdout
	w.Close()
	out, err := io.ReadAll(r)
	r.Close()
	if string(out) != "it said 500500\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// What a snippet does that is not as good.
func TestLimitsOfPython(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("/usr/bin/python3"))
	run := func(l hull.Limits, snippet string) (*hull.Cmd, string, error) {
		cmd := hull.Command("/usr/bin/python3", "-c", snippet)
		cmd.Dir, cmd.Limits = "/usr", l
		out, err := cmd.CombinedOutput()
		return cmd, string(out), err
	}
	if _, _, err := run(hull.Limits{Time: 200 * time.Millisecond}, "while True: pass"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a loop: %v", err)
	}
	cmd, _, err := run(hull.Limits{Memory: 64 << 20}, "x = bytearray(1 << 30)")
	if failed := (*hull.ExitError)(nil); !errors.As(err, &failed) || cmd.Result.OOMKilled == 0 || !cmd.Result.OverLimit {
		t.Errorf("memory: %v, %+v", err, cmd.Result)
	}
	if _, out, err := run(hull.Limits{Pids: 5}, "import os\nwhile os.fork() or True: pass"); err == nil || !strings.Contains(out, "BlockingIOError") {
		t.Errorf("a fork bomb: %v: %s", err, out)
	}
	if _, out, err := run(hull.Limits{Files: 10}, "x = [open('/dev/null') for _ in range(20)]"); err == nil || !strings.Contains(out, "Too many open files") {
		t.Errorf("open files: %v: %s", err, out)
	}
}

// Descriptors that the user has in flight through Unix sockets, of whichever of its programs, count against the limit of
// who sends one (unix(7), ETOOMANYREFS): hull's own process sends one beside the command, whose limit is the command's.
func TestLimitOfFilesWithFilesInFlight(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	for range 16 {
		if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(1, 1), nil, unix.MSG_DONTWAIT); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []uint64{5, 20} {
		cmd := limited(t, hull.Limits{Files: n}, "ulimit -n; ulimit -Hn")
		out, err := cmd.CombinedOutput()
		if want := fmt.Sprintf("%d\n%d\n", n, n); string(out) != want || err != nil {
			t.Errorf("got %q, %v, want %q", out, err, want)
		}
	}
}
