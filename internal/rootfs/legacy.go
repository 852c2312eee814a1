package rootfs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/mnt"
	"hull/internal/stub"
)

// scratch is a descriptor's number that mount(2) can be told in a path. The batch uses far fewer.
const scratch = 1000

// at gives a descriptor a path for mount(2). No link of the container can change where it leads.
func at(b *stub.Batch, fd stub.FD) string {
	dup3(b, fd, stub.Fd(scratch))
	return fmt.Sprintf("/proc/self/fd/%d", scratch)
}

// needsMount2 tells whether a file system needs mount(2), because fsconfig(2) can't say what is asked for: some values,
// see Params; these flags; what follows the dot of a type like fuse.sshfs.
func needsMount2(m *mount) bool {
	_, ok := m.Params()
	return !ok || m.Super&(unix.MS_I_VERSION|unix.MS_SILENT) != 0 || strings.Contains(m.Type, ".")
}

// mount2 mounts a new file system by mount(2), onto a descriptor.
func (e *emitter) mount2(m *mount) {
	b := e.b
	var data []string
	if m.Type == "tmpfs" && !m.Has("mode") {
		if mode := e.guide.mode(m.Destination); mode != "" {
			data = append(data, "mode="+mode)
		}
	}
	data = append(data, m.Data...)
	if e.labelled(m) {
		data = append(data, fmt.Sprintf("context=%q", e.label))
	}
	flags := m.Flags()
	if m.late {
		flags &^= unix.MS_RDONLY
	}
	target := e.makePath(e.guide.follow(m.Destination))
	b.Mount(m.Source, at(b, target), m.Type, flags, strings.Join(data, ","))
	// The mount is now over the directory; the path leads to it.
	fd := e.open(m.Destination, openDir, inRoot)
	e.setTree(fd, &m.Mount)
	e.done(m, fd, false, "")
}

// remount changes the mount that is at the destination.
func (e *emitter) remount(m *mount) {
	b := e.b
	fd := e.open(m.Destination, openPath, inRoot)
	e.refuseLink(fd)
	if m.Bind {
		e.bindAttr(m, fd)
		e.remountBind(m, fd)
	} else {
		b.Mount(m.Source, at(b, fd), m.Type, m.Flags()|unix.MS_REMOUNT, strings.Join(m.Data, ","))
	}
	e.setTree(fd, &m.Mount)
	e.setTreeLate(fd, &m.Mount)
}

// lockable are the flags that a user namespace locks; see MNT_LOCK_* in include/linux/mount.h.
var lockable = [...]uintptr{unix.MS_NOSUID, unix.MS_NODEV, unix.MS_NOEXEC, unix.MS_RDONLY}

// remountBind gives an attached bind mount its attributes where there is no mount_setattr(2). Which flags are locked
// can't be asked in a batch; so each set of them is tried, from the smallest on.
func (e *emitter) remountBind(m *mount, fd stub.FD) {
	if e.cfg.Kernel.MountSetattr || !m.Attr.Given && !m.Flagged {
		return
	}
	b := e.b
	path := at(b, fd)
	done := b.Label()
	cleared := mnt.AttrFlags(m.Attr.Clear)
	for set := range 1 << len(lockable) {
		flags := m.Flags()
		for i, f := range lockable {
			if set&(1<<i) != 0 {
				flags |= f &^ cleared
			}
		}
		r := b.Mount("", path, "", flags|unix.MS_REMOUNT|unix.MS_BIND, "")
		b.OnOK(r, done)
		if set == 1<<len(lockable)-1 {
			break
		}
		b.Ignore(r, unix.EPERM)
	}
	b.Mark(done)
}

// Attributes of a mount are set before it is attached, so that nobody sees it without them. Where there is no
// mount_setattr(2), that is, before Linux 5.12, mount(2) does it afterwards. Of each pair of functions below, the
// first is called before and the second after the attachment, and one of them does nothing.

// setAttr adds attributes.
func (e *emitter) setAttr(fd stub.FD, attr uint64) {
	if e.cfg.Kernel.MountSetattr {
		e.b.MountSetattr(fd, 0, unix.MountAttr{Attr_set: attr})
	}
}

// What is not said to mount(2) is cleared, but for the mode of access times: so the flags that the mount has are looked
// for first.
func (e *emitter) setAttrLate(fd stub.FD, attr uint64) {
	if e.cfg.Kernel.MountSetattr {
		return
	}
	b := e.b
	const statfsFlags = 80 // offset in struct statfs; the lockable ones have there the numbers of MS_*
	has := b.Load(b.Fstatfs(fd), statfsFlags)
	path := at(b, fd)
	done := b.Label()
	for set := range 1 << len(lockable) {
		var flags, mask uintptr
		for i, f := range lockable {
			mask |= f
			if set&(1<<i) != 0 {
				flags |= f
			}
		}
		other := b.Label()
		b.OnErr(b.Assert(has.Arg(), uint64(mask), uint64(flags), unix.EINVAL, ""), 0, other)
		b.OnOK(b.Mount("", path, "", flags|mnt.AttrFlags(attr)|unix.MS_REMOUNT|unix.MS_BIND, ""), done)
		b.Mark(other)
	}
	b.Mark(done)
}

// setTree applies what is for a whole tree, and the propagation.
func (e *emitter) setTree(fd stub.FD, m *mnt.Mount) {
	if !e.cfg.Kernel.MountSetattr {
		return
	}
	if m.Rec.Given {
		e.b.MountSetattr(fd, unix.AT_RECURSIVE, setattr(m.Rec, m.Rec.Clear))
	}
	for _, p := range m.Propagation {
		e.b.MountSetattr(fd, recursive(p&unix.MS_REC != 0), unix.MountAttr{Propagation: p &^ unix.MS_REC})
		e.b.Note(mnt.PropagationName(p))
	}
}

func (e *emitter) setTreeLate(fd stub.FD, m *mnt.Mount) {
	if e.cfg.Kernel.MountSetattr {
		return
	}
	for _, p := range m.Propagation {
		e.b.Mount("", at(e.b, fd), "", uintptr(p), "")
		e.b.Note(mnt.PropagationName(p))
	}
}
