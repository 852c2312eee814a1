// Package kvm tries the KVM of the host: whether a virtual machine runs, and not only whether there is a device.
//
// On some virtual machines /dev/kvm is there, and whoever uses it hangs in the kernel, where no signal ends it. So it is for a
// process that nobody waits for: hull-sandbox, started by package sandbox, which gives it some time. It says each step before
// it is taken, or nobody would know which one didn't end.
package kvm

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// Open opens the device and has a processor of a virtual machine execute one instruction. Before each step that may not
// end, step is called with its name.
func Open(device string, step func(string)) (*os.File, error) {
	step("open")
	// Without O_NONBLOCK, as the platform has it; O_RDWR, or a FIFO in its place would be waited at for ever.
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, explain(&fault.Error{Step: "open " + strconv.Quote(device), Err: err})
	}
	f := os.NewFile(uintptr(fd), device)
	if err := try(fd, step); err != nil {
		f.Close()
		return nil, explain(err)
	}
	return f, nil
}

// explain adds to an error what an errno of it stands for.
func explain(e *fault.Error) error {
	e.Kind = fault.Unsupported
	switch e.Err {
	case unix.ENOENT, unix.ENODEV, unix.ENXIO:
		e.Hint = "the host has no KVM: the processor's virtualization is switched off, or isn't passed on to this virtual machine, " +
			"or the modules kvm and kvm_intel or kvm_amd are not loaded"
	case unix.EACCES, unix.EPERM:
		e.Hint = "the caller may not use KVM: by the device's mode and group, or by the device rules of the cgroup that hull runs in"
	case unix.ENOTTY:
		e.Hint = "it is not a device of KVM"
	case unix.EBUSY:
		e.Hint = "another hypervisor has the processor's virtualization"
	}
	return e
}
