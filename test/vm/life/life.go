// Package life has the tests that need the virtual machine: the command line of a runtime on cgroup v2 with systemd, as
// root and as an ordinary user. They look at what the kernel says, and use the binary alone, so that another runtime
// can be given to compare with.
//
// Environment variables:
//
//	HULL_LIFE_RUNTIME  the runtime; without it all tests are skipped
//	HULL_LIFE_ROOTFS   a root file system with busybox, which all may read and nobody writes
//	HULL_LIFE_DRIVER   cgroupfs or systemd
package life
