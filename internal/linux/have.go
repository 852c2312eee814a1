package linux

import "golang.org/x/sys/unix"

// have asks for a system call with arguments that it refuses with EINVAL before it looks at anything else. ENOSYS then
// comes from a kernel without it, and EPERM from a seccomp profile above us that was written before it: absent both.
func have(nr uintptr, args [6]uintptr) bool {
	_, _, errno := unix.RawSyscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
	return errno == unix.EINVAL
}

const (
	none   = ^uintptr(0) // no descriptor
	noFlag = ^uintptr(0) // more flags than there are
)

// HaveOpenat2 asks for openat2(2), Linux 5.6. Its struct can't have the size 0.
func HaveOpenat2() bool { return have(unix.SYS_OPENAT2, [6]uintptr{none, 0, 0, 0}) }

// HavePidfdGetfd asks for pidfd_getfd(2), Linux 5.6.
func HavePidfdGetfd() bool { return have(unix.SYS_PIDFD_GETFD, [6]uintptr{none, none, noFlag}) }

// HaveFaccessat2 asks for faccessat2(2), Linux 5.8.
func HaveFaccessat2() bool { return have(unix.SYS_FACCESSAT2, [6]uintptr{none, 0, 0, noFlag}) }

// HaveMountSetattr asks for mount_setattr(2), Linux 5.12.
func HaveMountSetattr() bool { return have(unix.SYS_MOUNT_SETATTR, [6]uintptr{none, 0, noFlag, 0, 0}) }

// LandlockVersion returns the version of the kernel's Landlock (landlock_create_ruleset(2), Linux 5.13), or 0 if it has none.
func LandlockVersion() int {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	v, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// HaveCloexecRange asks for CLOSE_RANGE_CLOEXEC, Linux 5.11, and so for close_range(2), Linux 5.9. The range is behind the
// last descriptor that there can be.
func HaveCloexecRange() bool {
	return unix.CloseRange(1<<31, 1<<31, unix.CLOSE_RANGE_CLOEXEC) == nil
}
