package stub

import (
	"bytes"
	"encoding/binary"
	"os/signal"

	"golang.org/x/sys/unix"
)

// What a stub has from its parent, and the program that it becomes would have from it: each container's process starts from the same
// state, whatever the program around hull has done to itself.

// ExitSetup is the status with which a stub ends that can't execute the program that it was to become.
const ExitSetup = 127

// AllCPUs emits a reset of the affinity to all CPUs that the cgroup allows: the caller's own is none of the container's.
// That the kernel refuses, for a cgroup without any of them, is no reason not to start.
func (b *Batch) AllCPUs() {
	const size = 1024 / 8
	b.In("")
	b.Ignore(b.Call(unix.SYS_SCHED_SETAFFINITY, Int(0), Int(size), b.Const(bytes.Repeat([]byte{0xff}, size)).Arg()), 0)
}

// DefaultSignals emits default dispositions and an empty mask. Of the dispositions execve(2) leaves only those that the caller
// ignores.
func (b *Batch) DefaultSignals() {
	dfl := b.Const(make([]byte, 32)) // struct sigaction of the kernel: SIG_DFL, no flags
	for sig := unix.Signal(1); sig < 65; sig++ {
		if signal.Ignored(sig) {
			b.Call(unix.SYS_RT_SIGACTION, Int(sig), dfl.Arg(), Int(0), Int(8))
		}
	}
	b.BlockSignals(0)
}

// BlockSignals emits the blocking of the signals in a mask, in which signal 1 is bit 0, and of no others.
func (b *Batch) BlockSignals(mask uint64) {
	set := b.Const(binary.LittleEndian.AppendUint64(nil, mask))
	b.Call(unix.SYS_RT_SIGPROCMASK, Int(unix.SIG_SETMASK), set.Arg(), Int(0), Int(8))
}

// JoinKeyring emits the joining of a session keyring of that name: the caller's must not be in the container's reach
// (keyctl(2)). Kernels without keyrings, and seccomp profiles above us that forbid them, are tolerated.
func (b *Batch) JoinKeyring(name string) {
	b.In("")
	join := b.Call(unix.SYS_KEYCTL, Int(unix.KEYCTL_JOIN_SESSION_KEYRING), b.str(name))
	b.Note("join session keyring")
	skip := b.Label()
	b.OnErr(join, unix.ENOSYS, skip)
	// Possessors and the user may do all; searching it must be possible for both.
	const possessorAndUserAll = 0x3f3f0000
	b.Call(unix.SYS_KEYCTL, Int(unix.KEYCTL_SETPERM), join.Arg(), Int(possessorAndUserAll))
	b.Note("permissions of the session keyring")
	b.Mark(skip)
}

// JoinTasks emits the writes that move the stub into cgroups of v1, or groups of resctrl, by their files "tasks". See package
// cgroup for why the stub does it.
func (b *Batch) JoinTasks(files []string) {
	for _, file := range files {
		fd := b.Openat(CWD, file, unix.O_WRONLY, 0)
		b.Write(fd, []byte("0"))
		b.Close(fd)
	}
}

// LoopbackUp emits what brings up lo in a new network namespace (netdevice(7), SIOCSIFFLAGS).
func (b *Batch) LoopbackUp() {
	b.In("linux.namespaces")
	s := b.Call(unix.SYS_SOCKET, Int(unix.AF_UNIX), Int(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), Int(0))
	ifreq := make([]byte, 40)
	copy(ifreq, "lo")
	ifreq[16] = unix.IFF_UP
	b.Ioctl(s.FD(), unix.SIOCSIFFLAGS, b.Const(ifreq).Arg())
	b.Note("SIOCSIFFLAGS lo")
	b.Close(s.FD())
}
