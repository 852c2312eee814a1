// Package cgroup makes, limits, observes and removes the control groups of one container.
//
// It serves cgroup v1, v2 and the hybrid of both, written to directly or, with the systemd driver, through a
// transient unit. A Group is planned first, by New, which checks every value and knows every path before anything
// exists; its State can be saved then, so that a caller killed at any later point leaves nothing that
// Open(state).Destroy doesn't remove. The order of a start is
//
//	New          every value checked, every path known; nothing is made
//	             (the caller saves g.State())
//	Create       the directories, with what a process needs to be able to enter (cpuset)
//	the join     one of: a clone3 into DirFD and "0" written to each of TaskFiles by the process itself; or Add
//	Limit        everything else of linux.resources, device rules included
//
// Limit may come before or after the join. Device rules bind mounts of block devices and opens of device nodes, so a
// caller that does either on behalf of the container calls it after them.
//
// # Joining
//
// Moving another process by writing its pid to cgroup.procs takes the kernel's cgroup_threadgroup_rwsem for writing,
// which waits for a grace period of RCU: 10 ms in the median for nine v1 hierarchies. A single-threaded process that
// writes "0" to the v1 file tasks moves without that lock, since its own thread group can't change under it: 0.3 ms
// for the same nine. On v2 the same is had with CLONE_INTO_CGROUP. Add is for everything else, and for systemd, which
// wants a process before its unit exists.
//
// # Rootless
//
// Without root, a hierarchy in which no directory may be made is left out, with a warning, as long as the
// configuration named no path and sets no limit there; a limit that can't be applied is an error, except for device
// rules. This is what runc does.
//
// # Why not the library that runc uses
//
// github.com/opencontainers/cgroups costs every command of the program that links it 0.4 ms before main, a third of an
// empty program's whole life, where this package costs 0.05 ms: it pulls in D-Bus, net, crypto, logrus, an eBPF
// assembler and a DWARF reader. The tests compare this package with it instead: both set the same resources, and every
// file must read the same.
package cgroup
