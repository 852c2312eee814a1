package rootfs

import (
	"golang.org/x/sys/unix"

	"hull/internal/overlay"
	"hull/internal/stub"
)

// donate lays the root of a plan, opens each mount that is asked for where the program will have it, and takes the root away
// again: what is left of it are these mounts, each by itself, for a lazy unmount parts them (umount2(2), MNT_DETACH). Nothing
// but the one mount is reached from its descriptor. It comes before the container's own root.
//
// Detached copies would do the same, but closing each of them waits for a grace period of RCU.
func (p *Plan) donate(b *stub.Batch, d *overlay.Donation) {
	e := &emitter{Plan: p, b: b, guide: newGuide(d.Plan.Root)}
	e.layRoot(d.Plan)
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
			e.setNoLinks(stub.Fd(stub.FirstExtra + t.Extra))
		}
	}
	b.Umount2(".", unix.MNT_DETACH) // the stage, which layRoot has made the working directory
}

// setNoLinks keeps a program from following links in a mount, from Linux 5.14 on.
//
// The host's mount may have ended since the root was laid. What is open then is the directory below it, which is none's root:
// EINVAL, for hostAttr is as old as the call. It is in a mount that is another of the trees, and has its attributes.
func (e *emitter) setNoLinks(fd stub.FD) {
	if !e.cfg.Kernel.MountSetattr {
		return
	}
	b := e.b
	for _, attr := range []uint64{hostAttr, unix.MOUNT_ATTR_NOSYMFOLLOW} {
		b.Ignore(b.MountSetattr(fd, 0, unix.MountAttr{Attr_set: attr}), unix.EINVAL)
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
