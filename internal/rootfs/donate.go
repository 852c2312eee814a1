package rootfs

import (
	"golang.org/x/sys/unix"

	"hull/internal/overlay"
	"hull/internal/stub"
)

// donate lays the root of a plan, and copies it, with the overlays in it, as one tree that is mounted nowhere: nothing is above it, and in it nothing but
// what the plan shows. What else is asked for, it opens where the program will have it; then it takes the root away. What is left of these mounts is each
// by itself, for a lazy unmount parts them (umount2(2), MNT_DETACH). It comes before the container's own root.
//
// There is one copy, since closing it waits for a grace period of RCU. A descriptor of each overlay would do without, but then the kernel in the sandbox
// has as many mounts, each with two threads.
func (p *Plan) donate(b *stub.Batch, d *overlay.Donation) {
	e := &emitter{Plan: p, b: b, guide: newGuide(d.Plan.Root)}
	e.layRoot(d.Plan)
	e.donateRoot(stub.Fd(stub.FirstExtra + d.Root))
	e.bindHost(d.Plan)
	e.bindMade(d.Plan)
	b.In("")
	for _, dir := range d.Make {
		e.makePath(dir)
	}
	for _, t := range d.Trees {
		to := stub.Fd(stub.FirstExtra + t.Extra)
		if t.File {
			e.openFile(t.Path, to)
			continue
		}
		dir := e.open(t.Path, openDir, inRoot)
		b.Note(t.Path)
		dup3(b, dir, to)
		b.Close(dir)
	}
	// Not before all are open: paths in the root go through links.
	for _, t := range d.Trees {
		if !t.File {
			e.setNoLinks(stub.Fd(stub.FirstExtra+t.Extra), 0)
		}
	}
	b.Umount2(".", unix.MNT_DETACH) // the stage, which layRoot has made the working directory
}

// donateRoot opens a copy of the root. It comes before what is bound there: a mount of the host's could bring others with it, now or later.
func (e *emitter) donateRoot(to stub.FD) {
	b := e.b
	b.In("")
	fd := b.OpenTree(e.root, "", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	b.Note("the container's root")
	dup3(b, fd, to)
	b.Close(fd)
	e.setNoLinks(to, unix.AT_RECURSIVE)
}

// setNoLinks keeps a program from following links in a mount, from Linux 5.14 on. The attributes that are older are the overlays' already.
//
// The host's mount may have ended since the root was laid. What is open then is the directory below it, which is none's root:
// EINVAL, for hostAttr is as old as the call. It is in a mount that has the attributes.
func (e *emitter) setNoLinks(fd stub.FD, flags uint) {
	if !e.cfg.Kernel.MountSetattr {
		return
	}
	b := e.b
	for _, attr := range []uint64{hostAttr, unix.MOUNT_ATTR_NOSYMFOLLOW} {
		b.Ignore(b.MountSetattr(fd, flags, unix.MountAttr{Attr_set: attr}), unix.EINVAL)
	}
}

// openFile opens a regular file: for writing, too, where that is possible.
func (e *emitter) openFile(path string, to stub.FD) {
	const flags = unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	b := e.b
	opened, readonly := b.Label(), b.Label()
	fd := e.open(path, flags|unix.O_RDWR, inRoot)
	b.OnErr(fd.Result(), 0, readonly)
	dup3(b, fd, to)
	b.Goto(opened)
	b.Mark(readonly)
	dup3(b, e.open(path, flags|unix.O_RDONLY, inRoot), to)
	b.Mark(opened)
}
