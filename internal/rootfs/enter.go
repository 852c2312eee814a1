package rootfs

import (
	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// Enter emits the move into the container's root, and what must not hinder hooks and mounts before: masked and
// read-only paths, the read-only root. It comes in the same batch as Prepare or a later one.
func (p *Plan) Enter(b *stub.Batch) {
	e := &emitter{Plan: p, b: b, root: p.made.root.in(b), guide: p.made.guide}
	e.readonly()
	b.In("root.path")
	switch {
	case p.cfg.HostNS:
		fchdir(b, e.root)
		b.Call(unix.SYS_CHROOT, b.String(".").Arg())
	case p.cfg.NoPivot:
		e.moveRoot()
	default:
		e.pivot()
	}
	b.Call(unix.SYS_CHDIR, b.String("/").Arg())
	e.share()
	if !e.cfg.Kernel.CloseRange {
		b.Ignore(b.Call(unix.SYS_CLOSE, stub.Int(scratch)), unix.EBADF)
	}
	b.In("")
}

// pivot makes the container's root the root of the mount namespace. With "." for both arguments the old root is put
// over the new one, needs no directory there, and is what umount2(2) then finds at "." (pivot_root(2), "NOTES").
// Masks come between, while there still is a null device.
func (e *emitter) pivot() {
	b := e.b
	old := b.Openat(stub.CWD, "/", openDir, 0)
	var place stub.FD
	if e.cfg.Overlay != nil {
		place = b.Openat(stub.CWD, "/proc", openDir, 0)
	}
	dev, null := e.openNull()
	b.In("root.path")
	fchdir(b, e.root)
	b.Call(unix.SYS_PIVOT_ROOT, b.String(".").Arg(), b.String(".").Arg())
	fchdir(b, old)
	if !e.isolated() {
		// Else the host would lose its mounts with the old root.
		b.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, "")
	}
	e.cover(dev, null)
	b.In("root.path")
	if e.cfg.Overlay != nil {
		// The stage lies over the old root, so that "." would be the stage: umount2(2) takes what is on top. Elsewhere in
		// the old root it goes with that; two would be two waits for a grace period of RCU.
		b.MoveMount(e.made.stage.in(b), place)
	}
	b.Umount2(".", unix.MNT_DETACH)
}

// moveRoot is for a host whose root can't be unmounted. Its proc and sysfs are made unreachable first: from a chroot,
// a whole one anywhere in the namespace lets the container mount another without the masks (see mount_too_revealing
// in fs/namespace.c).
func (e *emitter) moveRoot() {
	b := e.b
	old := b.Openat(stub.CWD, "/", openDir, 0)
	_, null := e.openNull()
	if !e.isolated() {
		b.Mount("", "/", "", unix.MS_PRIVATE, "")
	}
	e.cover(old, null)
	b.In("root.path")
	for _, m := range e.hostRevealing() {
		e.hide(m)
	}
	b.MoveMount(e.root, old)
	fchdir(b, e.root)
	b.Call(unix.SYS_CHROOT, b.String(".").Arg())
}

// hide unmounts a mount of the host, or covers it where it is locked.
func (e *emitter) hide(path string) {
	b := e.b
	gone := b.Label()
	b.Ignore(b.Mount("", path, "", unix.MS_SLAVE|unix.MS_REC, ""), 0) // may be gone with the one above
	r := b.Umount2(path, unix.MNT_DETACH)
	b.OnOK(r, gone)
	b.Ignore(r, 0)
	b.Ignore(b.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY, ""), unix.ENOENT)
	b.Mark(gone)
}

// isolated tells whether Prepare has made all mounts such that nothing done to them shows on the host.
func (e *emitter) isolated() bool {
	p := e.propagation
	return p == 0 || p&unix.MS_REC != 0 && p&(unix.MS_SLAVE|unix.MS_PRIVATE) != 0
}

// openNull opens the host's null device, which masks files, and its directory. The container's could be anything
// (CVE-2025-31133).
func (e *emitter) openNull() (dev, null stub.FD) {
	if len(e.masked) == 0 {
		return
	}
	b := e.b
	b.In("linux.maskedPaths")
	dev = b.Openat(stub.CWD, "/dev", openDir, 0)
	null = b.Openat(dev, "null", openPath|unix.O_NOFOLLOW, 0)
	e.assertNode(b.Statx(null), device{path: "/dev/null", mode: unix.S_IFCHR, dev: unix.Mkdev(1, 3)})
	return dev, null
}

// cover emits read-only and masked paths, while the old root is still there to take devices from.
func (e *emitter) cover(stage, null stub.FD) {
	for _, path := range e.readonlyPaths {
		e.b.In("linux.readonlyPaths " + path)
		e.readonlyPath(path)
	}
	if len(e.masked) == 0 {
		return
	}
	e.b.In("linux.maskedPaths")
	// One serves for all directories. A copy can only be taken of a mount that is attached (before Linux 6.15), so it is
	// attached somewhere in the old root, and goes with it.
	empty := e.emptyDir()
	e.b.MoveMount(empty, stage)
	for _, path := range e.masked {
		e.b.In("linux.maskedPaths " + path)
		e.maskPath(path, null, empty)
	}
}

// emptyDir makes a read-only, empty file system.
func (e *emitter) emptyDir() stub.FD {
	b := e.b
	fs := b.Fsopen("tmpfs")
	if e.label != "" {
		b.FsconfigString(fs, "context", e.label)
	}
	b.FsconfigCreate(fs, "tmpfs")
	return b.Fsmount(fs, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "tmpfs")
}

// maskPath covers a path: a directory with the empty one, anything else with the null device. What does not exist
// needs no mask.
func (e *emitter) maskPath(path string, null, empty stub.FD) {
	b := e.b
	done, file := b.Label(), b.Label()
	dir := e.openOr(path, openDir, inRoot, done)
	b.OnErr(dir.Result(), 0, file)
	b.OnOK(b.MoveMount(b.OpenTree(empty, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH), dir), done)
	b.Mark(file)
	jumpIf(b, dir.Arg(), all, errnoResult(unix.ENOENT), done)
	fd := e.openIfExists(path, done)
	mask := b.OpenTree(null, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	// It can be written nevertheless, but its mode and owner, which are the host's, can't be changed.
	e.setAttr(mask, unix.MOUNT_ATTR_RDONLY)
	b.MoveMount(mask, fd)
	e.setAttrLate(mask, unix.MOUNT_ATTR_RDONLY)
	b.Mark(done)
}

// openIfExists opens a path of the container; if it does not exist it jumps to missing. Any other failure is one: what
// is to be protected must not stay as it is.
func (e *emitter) openIfExists(path string, missing stub.Label) stub.FD {
	b := e.b
	found, why := b.Label(), b.Label()
	fd := e.openOr(path, openPath, inRoot, missing)
	b.OnErr(fd.Result(), 0, why)
	e.refuseLink(fd)
	b.Goto(found)
	b.Mark(why)
	jumpIf(b, fd.Arg(), all, errnoResult(unix.ENOENT), missing)
	jumpIf(b, fd.Arg(), all, errnoResult(unix.ENOTDIR), missing)
	e.open(path, openPath, inRoot) // fails again, and this time for the reader
	b.Mark(found)
	return fd
}

// errnoResult is the result of a call that fails with errno.
func errnoResult(errno unix.Errno) uint64 { return uint64(-int64(errno)) }

// readonlyPath binds a path onto itself, read-only. The mounts below stay as they are.
func (e *emitter) readonlyPath(path string) {
	b := e.b
	done := b.Label()
	at := e.openIfExists(path, done)
	fd := b.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	e.setAttr(fd, unix.MOUNT_ATTR_RDONLY)
	b.MoveMount(fd, at)
	e.setAttrLate(fd, unix.MOUNT_ATTR_RDONLY)
	b.Mark(done)
}

// MakeReadonly emits what makes the mounts read-only that had to be writable for those below them. Enter does it, too.
func (p *Plan) MakeReadonly(b *stub.Batch) { (&emitter{Plan: p, b: b}).readonlyMounts() }

func (e *emitter) readonlyMounts() {
	for _, l := range e.made.late {
		e.b.In(l.field)
		e.addReadonly(l.fd.in(e.b))
	}
}

// readonly makes read-only what had to be writable for mounts and hooks.
func (e *emitter) readonly() {
	e.readonlyMounts()
	if e.cfg.Spec.Root.Readonly {
		e.b.In("root.readonly")
		e.addReadonly(e.root)
	}
}

func (e *emitter) addReadonly(fd stub.FD) {
	e.setAttr(fd, unix.MOUNT_ATTR_RDONLY)
	e.setAttrLate(fd, unix.MOUNT_ATTR_RDONLY)
}

// share makes the root as shared as it is to be. It could not be before: pivot_root(2) refuses that.
func (e *emitter) share() {
	if p := e.propagation; p != 0 && p&(unix.MS_PRIVATE|unix.MS_SLAVE) == 0 {
		e.b.In("linux.rootfsPropagation")
		e.b.Mount("", "/", "", uintptr(p), "")
	}
}
