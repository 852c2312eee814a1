package stub

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// supervise starts a supervisor in a pid namespace of its own, and a shell command below it.
func supervise(t *testing.T, lingers bool, command string, stdout *os.File) (*Supervisor, *os.File) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a pid namespace")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	first := start(t, Config{Extra: []*os.File{w}, Stdio: [3]*os.File{nil, stdout, os.Stderr}})
	w.Close()
	s, err := first.Fork(new(Batch), unix.CLONE_NEWPID)
	if err != nil {
		t.Fatal(err)
	}
	b := new(Batch)
	b.Call(unix.SYS_FCNTL, Int(FirstExtra), Int(unix.F_SETFD), Int(unix.FD_CLOEXEC))
	b.Supervise(lingers, func() {
		none := b.Const(make([]byte, 8))
		b.Call(unix.SYS_RT_SIGPROCMASK, Int(unix.SIG_SETMASK), none.Arg(), Int(0), Int(8))
		b.Execve("/bin/sh", []string{"sh", "-c", command}, nil)
	})
	v, err := s.LastSupervised(b, FirstExtra, 127)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Program.Close() })
	if err := ReadReport(r, b.Steps(), Timeout); err != nil {
		t.Fatal(err)
	}
	return v, r
}

func TestSupervisorReportsTheEnd(t *testing.T) {
	for command, want := range map[string]unix.WaitStatus{
		"exit 3":           3 << 8,
		"kill -TERM $$":    unix.WaitStatus(unix.SIGTERM),
		"true & true":      0,
		"sleep 100 & true": 0, // and doesn't wait for the one left behind
	} {
		v, _ := supervise(t, false, command, nil)
		begin := time.Now()
		end, err := v.Wait(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if end.Status != want {
			t.Errorf("%s: status %#x, want %#x", command, end.Status, want)
		}
		if end.MaxRSS < 100<<10 || end.MaxRSS > 1<<30 {
			t.Errorf("%s: MaxRSS = %d", command, end.MaxRSS)
		}
		if time.Since(begin) > 10*time.Second {
			t.Errorf("%s: took %v", command, time.Since(begin))
		}
	}
}

func TestProgramIsSignalledByPidfd(t *testing.T) {
	v, _ := supervise(t, false, "sleep 100", nil)
	if err := unix.PidfdSendSignal(int(v.Program.Fd()), unix.SIGTERM, nil, 0); err != nil {
		t.Fatal(err)
	}
	if end, err := v.Wait(nil, nil); err != nil || end.Status != unix.WaitStatus(unix.SIGTERM) {
		t.Errorf("Wait = %+v, %v, want SIGTERM", end, err)
	}
}

func TestSupervisorTellsOfStops(t *testing.T) {
	v, _ := supervise(t, false, `(sleep 0.05; kill -CONT $$) & kill -STOP $$; (sleep 0.05; kill -CONT $$) & kill -STOP $$; exit 5`, nil)
	var stops []unix.Signal
	end, err := v.Wait(func(s unix.Signal) { stops = append(stops, s) }, nil)
	if err != nil || end.Status != 5<<8 {
		t.Errorf("Wait = %+v, %v, want status 5", end, err)
	}
	if len(stops) != 2 || stops[0] != unix.SIGSTOP || stops[1] != unix.SIGSTOP {
		t.Errorf("stops: %v", stops)
	}
}

// One that lingers is there, and its program is not, until whoever waits has looked around.
func TestSupervisorLingers(t *testing.T) {
	v, _ := supervise(t, true, "exit 5", nil)
	looked := 0
	end, err := v.Wait(nil, func() {
		looked++
		time.Sleep(20 * time.Millisecond)
		if err := unix.PidfdSendSignal(int(v.stub.PidFD.Fd()), 0, nil, 0); err != nil {
			t.Errorf("the supervisor: %v", err)
		}
		if err := unix.PidfdSendSignal(int(v.Program.Fd()), 0, nil, 0); err != unix.ESRCH {
			t.Errorf("the program: %v", err)
		}
	})
	if err != nil || end.Status != 5<<8 || looked != 1 {
		t.Errorf("Wait = %+v, %v, want status 5; looked %d times", end, err, looked)
	}
}

// SIGIO may come though the parent is there: late, for the batch that the supervisor was told by.
func TestSupervisorStaysWithItsParent(t *testing.T) {
	v, _ := supervise(t, false, "exec sleep 100", nil)
	for range 100 {
		if err := unix.PidfdSendSignal(int(v.stub.PidFD.Fd()), unix.SIGIO, nil, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond / 10)
	}
	if err := unix.PidfdSendSignal(int(v.Program.Fd()), unix.SIGTERM, nil, 0); err != nil {
		t.Fatal(err)
	}
	if end, err := v.Wait(nil, nil); err != nil || end.Status != unix.WaitStatus(unix.SIGTERM) {
		t.Errorf("Wait = %+v, %v, want SIGTERM", end, err)
	}
}

// A program whose parent is killed has no chance to stay, whatever it does with signals.
func TestSupervisorEndsWithItsParent(t *testing.T) {
	for name, c := range map[string]struct {
		lingers bool
		command string
	}{
		"running":   {false, `trap "" TERM INT HUP IO; exec setsid sleep 100`},
		"lingering": {true, `trap "" TERM INT HUP IO; setsid sleep 100 & exit`},
	} {
		t.Run(name, func(t *testing.T) { endsWithItsParent(t, c.lingers, c.command) })
	}
}

func endsWithItsParent(t *testing.T, lingers bool, command string) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	v, _ := supervise(t, lingers, command, w)
	w.Close()
	if lingers {
		note := make([]byte, noteSize)
		if err := v.stub.conn.readFull(note, Timeout); err != nil {
			t.Fatal(err)
		}
	}
	v.stub.conn.close() // as the kernel does when the parent is gone
	done := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 1)) // end of file, when nobody has the pipe any more
		done <- err
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the program outlives the socket")
	}
}
