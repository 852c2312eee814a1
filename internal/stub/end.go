package stub

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Close closes the socket. A stub that waits for a batch exits.
func (s *Stub) Close() error {
	if s.next != nil {
		s.next.close()
		s.next = nil
	}
	if s.conn == nil {
		return nil
	}
	err := s.conn.close()
	s.conn = nil
	return err
}

// Kill ends the stub and reaps it. One that is frozen on cgroup v1 ends when it is thawed; it is reaped then.
func (s *Stub) Kill() {
	s.Close()
	s.reapStage1()
	if s.PidFD != nil {
		unix.PidfdSendSignal(int(s.PidFD.Fd()), unix.SIGKILL, nil, 0)
		s.reap()
	}
}

// reapTimeout bounds the wait for a stub that has nothing more to do, or was killed.
var reapTimeout = 5 * time.Second

// reap reaps a stub that is about to end, now or, if it doesn't, in the background.
func (s *Stub) reap() {
	pidfd := s.PidFD
	if pidfd == nil {
		return
	}
	s.PidFD = nil
	finish := func() {
		if s.clones {
			s.reapGroup(pidfd)
		}
		_, _ = WaitPidFD(pidfd)
		pidfd.Close()
	}
	if endsWithin(pidfd, reapTimeout) {
		finish()
	} else {
		go finish()
	}
}

func (s *Stub) reapStage1() {
	for first := s.stage1; first != nil; first = first.stage1 {
		first.reap()
	}
	s.stage1 = nil
}

// reapGroup ends a child that the stub may have cloned without having told of it: one that was killed with its cgroup,
// say. The child is this program's to reap, and until it is reaped the pid namespace that it is in doesn't end.
func (s *Stub) reapGroup(pidfd *os.File) {
	// Until the stub is reaped its number is its group's, and nobody else's.
	for unix.Waitid(unix.P_PIDFD, int(pidfd.Fd()), nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	unix.Kill(-s.Pid, unix.SIGKILL)
	for {
		if err := unix.Waitid(unix.P_PGID, s.Pid, nil, unix.WEXITED, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}

// Wait waits until the process has ended, reaps it and closes its pidfd. ECHILD means that someone else in this
// program has reaped it.
func (s *Stub) Wait() (unix.WaitStatus, error) {
	defer func() {
		if s.PidFD != nil {
			s.PidFD.Close()
			s.PidFD = nil
		}
	}()
	return WaitPidFD(s.PidFD)
}

// waitStatus makes a status as of wait4(2) of what waitid(2) tells.
func waitStatus(info *unix.Siginfo) unix.WaitStatus {
	// In struct siginfo of 64-bit machines, si_code is at 8 and si_status at 24.
	raw := siginfoBytes(info)
	code := int32(binary.LittleEndian.Uint32(raw[8:]))
	status := binary.LittleEndian.Uint32(raw[24:])
	const exited, dumped = 1, 3
	switch code {
	case exited:
		return unix.WaitStatus(status << 8)
	case dumped:
		return unix.WaitStatus(status | 0x80)
	default:
		return unix.WaitStatus(status)
	}
}
