package rootfs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// bind emits a bind mount: a detached copy of the source gets its attributes and is attached.
func (e *emitter) bind(m *mount) {
	b := e.b
	fd := e.openSource(m)
	if m.Destination == "/proc" {
		// Only the root of a proc file system can stand in for one.
		b.Assert(fileSystem(b, fd).Arg(), all, unix.PROC_SUPER_MAGIC, unix.EPERM, "the source is no proc file system")
		const procRoot = 1 // PROC_ROOT_INO, include/linux/proc_ns.h
		b.Assert(b.Load(b.Statx(fd), stub.StatxIno).Arg(), all, procRoot, unix.EPERM, "the source is not the root of proc")
	}
	e.bindAttr(m, fd)
	e.setTree(fd, &m.Mount)
	switch {
	case m.Destination == "/proc":
		e.attachStrict(fd, m.Destination, unix.PROC_SUPER_MAGIC)
	case below(m.Destination, "/proc"):
		target := e.open(m.Destination, openPath, noLinks)
		e.refuseLink(target)
		b.MoveMount(fd, target)
	default:
		e.attach(fd, m.Destination, true)
	}
	e.remountBind(m, fd)
	e.done(m, fd, false, m.Source)
}

// openSource opens a detached copy of the source of a bind mount.
func (e *emitter) openSource(m *mount) stub.FD {
	flags := unix.OPEN_TREE_CLONE | recursive(m.Recursive)
	if m.source < 0 {
		fd := e.b.OpenTree(stub.CWD, m.Source, flags)
		switch {
		case m.userns >= 0:
			e.idmap(m, fd)
		case m.served >= 0:
			e.idmapByParent(fd, e.sources[m.served])
		}
		return fd
	}
	fd := e.sources[m.source]
	if m.IDMap == nil {
		// The stub's own copy is better, since it has the locks that a user namespace puts on mounts; the parent's is
		// for what the namespace's root may not reach.
		taken := e.b.Label()
		own := e.b.OpenTree(stub.CWD, m.Source, flags)
		e.b.OnErr(own.Result(), unix.EACCES, taken)
		dup3(e.b, own, fd)
		e.b.Mark(taken)
	}
	return fd
}

// idmap makes fd an idmapped mount, with the user namespace among the sources.
func (e *emitter) idmap(m *mount, fd stub.FD) {
	const usernsFD = 24 // offset in struct mount_attr
	p := make([]byte, unix.MOUNT_ATTR_SIZE_VER0)
	binary.LittleEndian.PutUint64(p, unix.MOUNT_ATTR_IDMAP)
	attr := e.b.Const(p)
	e.b.Store(attr, usernsFD, e.sources[m.userns].Arg())
	e.b.Call(unix.SYS_MOUNT_SETATTR, fd.Arg(), e.b.String("").Arg(),
		stub.Int(recursive(m.IDMap.Recursive)|unix.AT_EMPTY_PATH), attr.Arg(), stub.Int(unix.MOUNT_ATTR_SIZE_VER0))
	e.b.Note("idmap")
}

// idmapByParent has the parent make fd an idmapped mount. It answers with a byte, or closes the socket.
func (e *emitter) idmapByParent(fd, socket stub.FD) {
	e.b.SendFDsTo(socket, fd.Arg())
	n := e.b.Call(unix.SYS_READ, socket.Arg(), e.b.Out(8).Arg(), stub.Int(1))
	e.b.Assert(n.Arg(), all, 1, unix.EINVAL, "mount_setattr idmap")
}

const (
	// boolAttrs are the attributes that are on or off.
	boolAttrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC |
		unix.MOUNT_ATTR_NOSYMFOLLOW
	// unlocked are those of them that a user namespace does not lock.
	unlocked = unix.MOUNT_ATTR_NOSYMFOLLOW
)

// bindAttr gives a bind mount the attributes of its options, if it has any: those it does not name are cleared, as
// runc does. In a user namespace some may be locked, because the source has them. Then they are kept; only if an
// option asks for the contrary is that an error.
func (e *emitter) bindAttr(m *mount, fd stub.FD) {
	if !m.Attr.Given && !m.Flagged {
		return
	}
	if !e.cfg.Kernel.MountSetattr {
		return // after attaching, see remountBind
	}
	exact := uint64(boolAttrs)
	if m.Attr.Atime {
		exact |= unix.MOUNT_ATTR_NODIRATIME
	}
	set := e.b.MountSetattr(fd, 0, setattr(m.Attr, exact))
	done, locked := e.b.Label(), e.b.Label()
	e.b.OnOK(set, done)
	e.b.OnErr(set, unix.EPERM, locked)
	e.b.Mark(locked)
	e.b.MountSetattr(fd, 0, setattr(m.Attr, m.Attr.Clear&boolAttrs|exact&(unlocked|unix.MOUNT_ATTR_NODIRATIME)))
	e.b.Mark(done)
}
