package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
)

// child starts a program whose name looks like fields of /proc/PID/stat.
func child(t *testing.T) (*exec.Cmd, engine.Init) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "a) Z 1 (b")
	if err := os.Symlink(sleep, name); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	start, err := StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, engine.Init{Pid: cmd.Process.Pid, StartTime: start}
}

func TestLifeAndEnd(t *testing.T) {
	cmd, i := child(t)
	st, err := ReadStat(i.Pid)
	if err != nil || st.ended() {
		t.Errorf("%+v, %v", st, err)
	}
	if !Alive(i) || Killed(i) {
		t.Errorf("alive %t, killed %t", Alive(i), Killed(i))
	}
	other := engine.Init{Pid: i.Pid, StartTime: i.StartTime + 1}
	if Alive(other) || Alive(engine.Init{}) {
		t.Error("another process of the same pid, or none, is taken for it")
	}
	if f, err := Open(other); !errors.Is(err, fault.BadState) {
		t.Errorf("another: %v, %v", f, err)
	}
	pidfd, err := Open(i)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := WaitEnded(ctx, i, pidfd); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it has not ended: %v", err)
	}
	if ws, err := End(ctx, i); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it has not ended: %v, %v", ws, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := WaitEnded(t.Context(), i, pidfd); err != nil {
		t.Error(err)
	}
	// It is a zombie, which nobody has reaped.
	if ws, err := ExitCode(i, pidfd); err != nil || ws.Signal() != unix.SIGKILL {
		t.Errorf("%v, %v", ws, err)
	}
	if Alive(i) {
		t.Error("a zombie is alive")
	}
	if ws, err := End(t.Context(), i); !errors.Is(err, fault.BadState) {
		t.Errorf("%v, %v", ws, err)
	}
	_ = cmd.Wait()
	// Linux before 6.15 has forgotten it.
	if ws, err := ExitCode(i, pidfd); err == nil && ws.Signal() != unix.SIGKILL || err != nil && !errors.Is(err, fault.Unsupported) {
		t.Errorf("reaped: %v, %v", ws, err)
	}
}

func TestFind(t *testing.T) {
	_, i := child(t)
	self, err := StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	init := engine.Init{Pid: os.Getpid(), StartTime: self}
	all := []int{os.Getpid(), i.Pid}
	if got, err := Find(all, i.Pid); err != nil || got != i {
		t.Errorf("%+v, %v, want %+v", got, err, i)
	}
	if got, err := Find(all[:1], i.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("none of these: %+v, %v", got, err)
	}
	// Both are in this program's pid namespace.
	if got, err := FindInside(init, all, i.Pid); err != nil || got != i {
		t.Errorf("%+v, %v, want %+v", got, err, i)
	}
	if got, err := FindInside(init, all[:1], i.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("none of these: %+v, %v", got, err)
	}
	init.StartTime++
	if got, err := FindInside(init, all, i.Pid); !errors.Is(err, fault.BadState) {
		t.Errorf("of a container that has stopped: %+v, %v", got, err)
	}
}
