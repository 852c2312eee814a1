package platform

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/sentry/platform"

	"hull/internal/fault"
)

// haveListener tells whether the host lets this process have a filter that notifies: helpers of the platform hand the system
// calls of programs over in that way. Where it may not, the platform would only panic.
func haveListener() error {
	const setModeFilter = 1 // SECCOMP_SET_MODE_FILTER, include/uapi/linux/seccomp.h
	// Without a filter, which the kernel looks for after it has looked at the flags.
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, 0)
	if errno == unix.EFAULT {
		return nil
	}
	e := &fault.Error{Step: "seccomp with a listener", Err: errno}
	if errno == unix.EPERM || errno == unix.ENOSYS {
		e.Hint = "a seccomp profile around hull forbids what the sandbox's kernel needs to run programs"
	}
	return e
}

func newSystrap(cpus int) (Platform, error) {
	constructor, err := platform.Lookup("systrap")
	if err != nil {
		return nil, err
	}
	expectWakeups()
	var p Platform
	withoutPreempting(func() { p, err = constructor.New(platform.Options{ApplicationCores: cpus}) })
	if err != nil {
		return nil, explainSystrap(err)
	}
	return &patient{Platform: p}, nil
}

// Warm has systrap make the process that the first program will be executed in, which takes a millisecond, and returns at once. KVM
// has nothing of the kind.
func Warm(p Platform) {
	if p, ok := p.(*patient); ok {
		p.warm()
	}
}

// explainSystrap adds to an error of the platform what the host has to do with it.
func explainSystrap(err error) error {
	if !strings.Contains(err.Error(), "unable to attach") {
		return &fault.Error{Step: "systrap", Err: err}
	}
	e := &fault.Error{Step: "ptrace a helper of the sandbox's kernel", Err: unix.EPERM,
		Hint: "the host forbids ptrace(2), by a seccomp profile or a security module around hull"}
	if errno := unix.Errno(0); errors.As(err, &errno) {
		e.Err = errno
	}
	if scope, rerr := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); rerr == nil && strings.TrimSpace(string(scope)) == "3" {
		e.Hint = "the host forbids ptrace(2): sysctl kernel.yama.ptrace_scope is 3"
	}
	if status, rerr := os.ReadFile("/proc/self/status"); rerr == nil && traced(string(status)) {
		e.Hint = "the sandbox is traced itself, as by strace -f, and then its kernel can't trace its helpers"
	}
	return e
}

// traced tells whether the process of that /proc/PID/status has a tracer.
func traced(status string) bool {
	_, pid, ok := strings.Cut(status, "TracerPid:")
	pid, _, _ = strings.Cut(pid, "\n")
	return ok && strings.TrimSpace(pid) != "0"
}
