package filter

import "golang.org/x/sys/unix"

// Requests of ioctl(2) on a virtual machine and its processors: include/uapi/linux/kvm.h.
const (
	kvmRun       = 0xae80
	kvmNMI       = 0xae9a
	kvmInterrupt = 0x4004ae86
	kvmSetMemory = 0x4020ae46 // KVM_SET_USER_MEMORY_REGION
	kvmGetRegs   = 0x8090ae81
	kvmSetRegs   = 0x4090ae82
)

// machineRules are what the platform kvm does with its virtual machine, which is complete: that is run, interrupted, and given
// memory of this process. No other one can be made, no processor added, nor one's system registers, features, timers or interrupts
// set up; and there are no devices in it.
func machineRules() []rule {
	list := []rule{
		{"ioctl", []condition{fd(0), is(1, kvmRun), is(2, 0)}},
		{"ioctl", []condition{fd(0), is(1, kvmNMI), is(2, 0)}},
		// when the processor goes on with a thread: which one it is
		{"arch_prctl", []condition{is(0, archGetFS)}},
		{"arch_prctl", []condition{is(0, archGetGS)}},
		// a signal that has interrupted the processor is taken away
		{"rt_sigtimedwait", []condition{is(3, signalSetSize)}},
	}
	for _, request := range []uint64{kvmInterrupt, kvmSetMemory, kvmGetRegs, kvmSetRegs} {
		list = append(list, rule{"ioctl", []condition{fd(0), is(1, request)}})
	}
	// The platform's own filter traps what is mapped, so that its handler gives it to the machine. The handler does what was asked for, with a
	// flag that means nothing to Linux.
	for _, flags := range mappings {
		list = append(list, rule{"mmap", []condition{is(3, flags|unix.MAP_DENYWRITE)}})
	}
	return list
}

const (
	archGetFS     = 0x1003 // ARCH_GET_FS and the like, arch/x86/include/uapi/asm/prctl.h
	archGetGS     = 0x1004
	signalSetSize = 8
)

// leaveMachine are instructions before those of a filter, which allow the call number -1: the kernel in the sandbox leaves the
// machine by it, and makes it of the host if it has just been taken out. There is no such call on any architecture, nor a profile that
// could name it.
func leaveMachine() []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number, struct seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: ^uint32(0), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
}
