package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// flagTSYNC is in the specification's text, not in its Go types.
const flagTSYNC specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

// filterFlags checks the names of flags and adds them to the policy.
//
// TSYNC has no effect: the process that loads the filter has one thread. Without any list the flag is SPEC_ALLOW, since
// engines that predate "flags" expect that a filter doesn't slow the container down; an empty list is no flag.
func (r *reader) filterFlags(list []specs.LinuxSeccompFlag) {
	if list == nil {
		r.flags = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for i, name := range list {
		bit, ok := flagBit(name)
		switch {
		case !ok:
			r.mistake(fmt.Sprintf("unknown flag %q", name), "flags[%d]", i)
		case bit == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV && !r.notify:
			// seccomp(2) answers EINVAL without a listener.
			r.mistake(fmt.Sprintf("%s needs a rule with SCMP_ACT_NOTIFY", name), "flags[%d]", i)
		case bit != unix.SECCOMP_FILTER_FLAG_TSYNC:
			r.flags |= bit
		}
	}
	if r.notify {
		r.flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
}

func flagBit(name specs.LinuxSeccompFlag) (bit uint, ok bool) {
	switch name {
	case flagTSYNC:
		return unix.SECCOMP_FILTER_FLAG_TSYNC, true
	case specs.LinuxSeccompFlagLog:
		return unix.SECCOMP_FILTER_FLAG_LOG, true
	case specs.LinuxSeccompFlagSpecAllow:
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, true
	case specs.LinuxSeccompFlagWaitKillableRecv:
		return unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, true
	}
	return 0, false
}

// KnownFlags returns the flags that Compile takes.
func KnownFlags() []string {
	return []string{
		string(flagTSYNC), string(specs.LinuxSeccompFlagSpecAllow), string(specs.LinuxSeccompFlagLog),
		string(specs.LinuxSeccompFlagWaitKillableRecv),
	}
}

// SupportedFlags returns those of KnownFlags that the running kernel has.
func SupportedFlags() []string {
	var have []string
	for _, name := range KnownFlags() {
		if bit, ok := flagBit(specs.LinuxSeccompFlag(name)); ok && haveFlag(bit) {
			have = append(have, name)
		}
	}
	return have
}

// haveFlag asks for a filter at address 0: the kernel looks at the flags first (EINVAL) and then at the filter (EFAULT).
func haveFlag(bit uint) bool {
	if bit == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV {
		bit |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER // EINVAL without
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(bit), 0)
	return errno == unix.EFAULT
}
