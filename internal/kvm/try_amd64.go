package kvm

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// request is one of ioctl(2): include/uapi/linux/kvm.h, which x/sys has not.
type request struct {
	name   string
	number uintptr
}

var (
	getVersion  = request{"KVM_GET_API_VERSION", 0xae00}
	createVM    = request{"KVM_CREATE_VM", 0xae01}
	getRunSize  = request{"KVM_GET_VCPU_MMAP_SIZE", 0xae04}
	createVCPU  = request{"KVM_CREATE_VCPU", 0xae41}
	setMemory   = request{"KVM_SET_USER_MEMORY_REGION", 0x4020ae46}
	runVCPU     = request{"KVM_RUN", 0xae80}
	setRegs     = request{"KVM_SET_REGS", 0x4090ae82}
	getSegments = request{"KVM_GET_SREGS", 0x8138ae83}
	setSegments = request{"KVM_SET_SREGS", 0x4138ae84}
)

const (
	version  = 12 // which "will never change", Documentation/virt/kvm/api.rst
	exitHalt = 5  // KVM_EXIT_HLT
	exitAt   = 8  // where struct kvm_run has the reason

	start = 0x1000 // where the machine's memory begins, and its program
	halt  = 0xf4   // the instruction HLT
)

// memoryRegion is struct kvm_userspace_memory_region.
type memoryRegion struct {
	slot, flags          uint32
	physical, size, here uint64
}

// registers is struct kvm_regs.
type registers struct {
	general     [16]uint64
	rip, rflags uint64
}

// segments is struct kvm_sregs, whose first member is the segment of code.
type segments struct {
	base     uint64
	limit    uint32
	selector uint16
	_        [298]byte
}

// try has a machine's processor execute HLT, in the mode that it is in after a reset.
func try(device int, step func(string)) *fault.Error {
	t := trial{step: step}
	if v := t.do(device, getVersion, 0); t.err == nil && v != version {
		return &fault.Error{Step: getVersion.name, Err: fmt.Errorf("it is %d, want %d", v, version)}
	}
	vm := t.do(device, createVM, 0)
	size := t.do(device, getRunSize, 0)
	if t.err != nil {
		return t.err
	}
	memory := t.mmap(-1, os.Getpagesize(), unix.MAP_ANONYMOUS)
	if t.err != nil {
		return t.err
	}
	memory[0] = halt
	region := memoryRegion{physical: start, size: uint64(len(memory)), here: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	t.do(vm, setMemory, uintptr(unsafe.Pointer(&region)))
	cpu := t.do(vm, createVCPU, 0)
	if t.err != nil {
		return t.err
	}
	state := t.mmap(cpu, size, 0)
	if t.err == nil && size < exitAt+4 {
		return &fault.Error{Step: getRunSize.name, Err: fmt.Errorf("it is %d", size)}
	}
	var s segments
	t.do(cpu, getSegments, uintptr(unsafe.Pointer(&s)))
	s.base, s.selector = 0, 0
	t.do(cpu, setSegments, uintptr(unsafe.Pointer(&s)))
	r := registers{rip: start, rflags: 1 << 1} // the bit that is always set
	t.do(cpu, setRegs, uintptr(unsafe.Pointer(&r)))
	t.do(cpu, runVCPU, 0)
	if t.err != nil {
		return t.err
	}
	if why := *(*uint32)(unsafe.Pointer(&state[exitAt])); why != exitHalt {
		return &fault.Error{Step: runVCPU.name, Err: fmt.Errorf("the processor stopped for reason %d, and not because it executed HLT", why)}
	}
	// Each holds the machine, and the last one that is closed waits for its end.
	step("close")
	for _, err := range []error{unix.Munmap(state), unix.Close(cpu), unix.Close(vm)} {
		t.fail("close", err)
	}
	return t.err
}

// trial is one call of try. After an error it does nothing more.
type trial struct {
	step func(string)
	err  *fault.Error
}

func (t *trial) fail(step string, err error) {
	if err != nil && t.err == nil {
		t.err = &fault.Error{Step: step, Err: err}
	}
}

func (t *trial) do(fd int, r request, arg uintptr) int {
	if t.err != nil {
		return -1
	}
	t.step(r.name)
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), r.number, arg)
		if errno == unix.EINTR { // Go's own signals
			continue
		}
		if errno != 0 {
			t.fail(r.name, errno)
		}
		return int(n)
	}
}

func (t *trial) mmap(fd, size, flags int) []byte {
	if t.err != nil {
		return nil
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|flags)
	t.fail("mmap", err)
	return b
}
