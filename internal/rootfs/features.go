package rootfs

import (
	"sync"

	"hull/internal/linux"
)

// Features are the system calls newer than Linux 5.4, hull's oldest kernel, that this package has another way for.
type Features struct {
	Openat2      bool // Linux 5.6
	CloseRange   bool // Linux 5.9, with CLOSE_RANGE_CLOEXEC of 5.11
	MountSetattr bool // Linux 5.12
}

// Probe asks the kernel what it has.
var Probe = sync.OnceValue(func() Features {
	return Features{Openat2: linux.HaveOpenat2(), CloseRange: linux.HaveCloexecRange(), MountSetattr: linux.HaveMountSetattr()}
})
