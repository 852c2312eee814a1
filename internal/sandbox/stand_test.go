package sandbox

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/sandbox/wire"
	"hull/internal/stub"
)

// What stands for a process ends as it does; for want of memory as by SIGKILL, where there is no limit of the host's to run into.
func TestStandEnds(t *testing.T) {
	for _, c := range []struct {
		end  wire.End
		want unix.WaitStatus
	}{
		{wire.End{Code: 7}, 7 << 8},
		{wire.End{Code: 128 + 15, Signal: uint32(unix.SIGTERM)}, unix.WaitStatus(unix.SIGTERM)},
		{wire.End{Code: 128 + 9, Signal: uint32(unix.SIGKILL) | wire.ForMemory}, unix.WaitStatus(unix.SIGKILL)},
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		conn := os.NewFile(uintptr(fds[1]), "conn")
		s, err := stub.Start(stub.Config{Extra: []*os.File{conn}})
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := stand(s, nil, ""); err != nil {
			s.Kill()
			t.Fatal(err)
		}
		if err := wire.SendEnd(fds[0], c.end); err != nil {
			t.Error(err)
		}
		if got, err := stub.WaitPidFD(s.PidFD); err != nil || got != c.want {
			t.Errorf("%+v: status %#x, want %#x; %v", c.end, got, c.want, err)
		}
		s.PidFD.Close()
		unix.Close(fds[0])
	}
}
