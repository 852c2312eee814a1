// Package checkpoint saves the processes of a container that the host's kernel runs, and restores them, by CRIU. Package criu has the
// conversation with that program; here is what hull tells it of a container, and what hull does itself around it:
//
//	Save:     CRIU ─ freezes the cgroup, stops the processes, writes the image, kills them or has them go on
//	Restore:  stub ─ cgroup, keyring, mount namespace ─ execve ─> CRIU ─ clones the container's processes, its siblings
//
// What CRIU doesn't save is what leads out of the container: bind mounts and devices (external.go), standard streams (stream.go),
// network devices (network.go). An image has names for these, and a restoration gives the names their meaning again: from the
// configuration and its caller, never from the image.
//
// Package native calls it, for its engine, and nothing here knows of that: a restored process is set up by CRIU.
package checkpoint
