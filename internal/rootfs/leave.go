package rootfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// Leave takes away the mounts of a container that had the host's mount namespace: with the one that Prepare has put over
// its root go all that are on it. It must be called once, and only after Prepare's batch was executed.
func Leave(root string) error {
	err := unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == unix.EINVAL || err == unix.ENOENT {
		return nil // not mounted any more
	}
	if err != nil {
		return &os.PathError{Op: "umount2", Path: root, Err: err}
	}
	return nil
}
