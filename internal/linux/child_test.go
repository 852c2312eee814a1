package linux

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEndedChild(t *testing.T) {
	if pid, err := EndedChild(); pid != 0 || err != nil {
		t.Fatalf("before there is a child: got %d, %v", pid, err)
	}
	c := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for deadline := time.Now().Add(10 * time.Second); pid == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var err error
		if pid, err = EndedChild(); err != nil {
			t.Fatal(err)
		}
	}
	if pid != c.Process.Pid {
		t.Fatalf("got %d, want %d", pid, c.Process.Pid)
	}
	var ws unix.WaitStatus
	if got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil); got != pid || err != nil {
		t.Errorf("the child was not left to be reaped: wait4: %d, %v", got, err)
	}
}
