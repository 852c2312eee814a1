package rootfs

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Features are the system calls newer than Linux 5.4, hull's oldest kernel, that this package has another way for.
type Features struct {
	Openat2      bool // Linux 5.6
	MountSetattr bool // Linux 5.12
}

// Probe asks the kernel what it has. Invalid arguments are an error other than ENOSYS where a call exists.
var Probe = sync.OnceValue(func() Features {
	_, err := unix.Openat2(-1, "", &unix.OpenHow{})
	attr := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return Features{Openat2: err != unix.ENOSYS, MountSetattr: attr != unix.ENOSYS}
})
