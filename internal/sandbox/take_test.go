package sandbox

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/proc"
)

// adopted is a process as one that was taken out of a pool is, but for whose child it is.
func adopted(t *testing.T) *engine.Process {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	p := &engine.Process{Init: engine.Init{Pid: cmd.Process.Pid}, PidFD: os.NewFile(uintptr(pidfd), "pidfd")}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		p.PidFD.Close()
	})
	if p.StartTime, err = proc.StartTime(p.Pid); err != nil {
		t.Fatal(err)
	}
	return p
}

// What is given up while it is waited for is not waited for any longer, nor is another file that has got the number of its
// descriptor: not even when a signal interrupts the wait after that.
func TestWaitAdoptedGivenUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		before bool
	}{{"before", true}, {"meanwhile", false}} {
		t.Run(c.name, func(t *testing.T) {
			p := adopted(t)
			wait := (&creation{CreateRequest: &engine.CreateRequest{}}).waitAdopted(p)
			if c.before {
				p.PidFD.Close()
			}
			thread, result := make(chan int, 1), make(chan error, 1)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				thread <- unix.Gettid()
				_, err := wait()
				result <- err
			}()
			tid := <-thread
			if !c.before {
				time.Sleep(50 * time.Millisecond)
				p.PidFD.Close()
			}
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // which Go takes for one of its own
			select {
			case err := <-result:
				if err == nil {
					t.Error("it is said to have ended")
				}
			case <-time.After(10 * time.Second):
				t.Error("it is waited for all the same")
			}
		})
	}
}

// The status of a process that has ended is what the kernel knows.
func TestWaitAdopted(t *testing.T) {
	p := adopted(t)
	wait := (&creation{CreateRequest: &engine.CreateRequest{}}).waitAdopted(p)
	time.AfterFunc(20*time.Millisecond, func() { _ = unix.Kill(p.Pid, unix.SIGTERM) })
	if ws, err := wait(); err != nil || ws != unix.WaitStatus(unix.SIGTERM) {
		t.Errorf("%#x, %v", ws, err)
	}
}
