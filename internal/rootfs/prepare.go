package rootfs

import (
	"math"

	"golang.org/x/sys/unix"

	"hull/internal/mnt"
	"hull/internal/stub"
)

// Prepare emits everything up to the moment when createContainer hooks run. sources are what Sources has returned, as
// the stub's descriptors. The umask of the stub is 0 afterwards.
func (p *Plan) Prepare(b *stub.Batch, sources []stub.FD) {
	p.made = made{}
	e := &emitter{Plan: p, b: b, sources: sources, guide: newGuide(p.root)}
	p.made.guide = e.guide
	e.propagate()
	if p.cfg.Donated != nil {
		p.donate(b, p.cfg.Donated)
	}
	if p.cfg.Overlay != nil {
		e.guide = newGuide(p.cfg.Overlay.Root)
		e.layRoot(p.cfg.Overlay)
	} else {
		e.bindRoot()
	}
	for i := range p.mounts {
		if m := &p.mounts[i]; m.Bind && len(p.mounts) > manyMounts {
			e.tidy(func() { e.mount(m) })
		} else {
			e.mount(m)
		}
	}
	if !p.cfg.NoDev {
		e.devices()
	}
	if p.cfg.Overlay != nil {
		e.bindHost(p.cfg.Overlay)
		e.bindMade(p.cfg.Overlay)
	}
	b.In("")
}

// propagate stops mount events from here to the host: all mounts become slaves, unless linux.rootfsPropagation says
// otherwise.
func (e *emitter) propagate() {
	e.b.In("")
	e.b.Call(unix.SYS_UMASK, stub.Int(0))
	if e.cfg.HostNS {
		return
	}
	e.b.In("linux.rootfsPropagation")
	flags := e.propagation
	if flags == 0 {
		flags = unix.MS_SLAVE | unix.MS_REC
	}
	e.b.Mount("", "/", "", uintptr(flags), "")
	if !e.isolated() {
		e.unshareParent()
	}
}

// unshareParent makes the mount that the root is on private: else binding the root would show on the host, and
// pivot_root(2) refuses it. Which mount that is, is found by trying: only the root of a mount can be changed.
func (e *emitter) unshareParent() {
	done := e.b.Label()
	for path := e.Plan.root; ; path = parent(path) {
		r := e.b.Mount("", path, "", unix.MS_PRIVATE, "")
		e.b.OnOK(r, done)
		if path == "/" {
			break
		}
		e.b.Ignore(r, unix.EINVAL)
	}
	e.b.Mark(done)
}

// bindRoot makes the root a mount of its own, as pivot_root(2) wants it. The descriptor of the new mount is what
// everything else is relative to.
func (e *emitter) bindRoot() {
	b := e.b
	b.In("root.path")
	at := b.Openat(stub.CWD, e.Plan.root, openDir, 0)
	e.root = b.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	b.Note(e.Plan.root)
	self := mnt.Mount{Propagation: []uint64{unix.MS_PRIVATE}}
	if e.propagation&unix.MS_SLAVE != 0 {
		self.Propagation = nil
	}
	// What is mounted on the host below the root from now on does not come into the container.
	e.setTree(e.root, &self)
	b.MoveMount(e.root, at)
	b.Note(e.Plan.root)
	e.setTreeLate(e.root, &self)
	e.made.root = kept{b, e.root}
}

// manyMounts is the number of mounts from which descriptors are closed as soon as they can be. Else that is left to the
// close_range(2) that comes anyway before the container's program: it costs one call, not hundreds.
const manyMounts = 64

// tidy closes the descriptors that calls emitted by f open. A new descriptor gets the lowest number that is free.
func (e *emitter) tidy(f func()) {
	e.b.In("")
	if !e.cfg.Kernel.CloseRange {
		first := e.b.Len()
		f()
		e.b.In("")
		for _, fd := range e.b.Opened(first) {
			e.b.Ignore(e.b.Call(unix.SYS_CLOSE, fd.Arg()), unix.EBADF)
		}
		return
	}
	lowest := e.b.Call(unix.SYS_FCNTL, e.root.Arg(), stub.Int(unix.F_DUPFD_CLOEXEC), stub.Int(0))
	f()
	e.b.In("")
	e.b.Call(unix.SYS_CLOSE_RANGE, lowest.Arg(), stub.Int(math.MaxUint32), stub.Int(0))
}

// mount emits an entry of mounts.
func (e *emitter) mount(m *mount) {
	e.b.In(m.Field)
	switch {
	case m.Remount:
		e.remount(m)
	case m.Bind:
		e.bind(m)
	case m.Type == "cgroup":
		e.cgroup(m)
	default:
		e.newFS(m)
	}
}

// done records an attached mount for those that follow.
func (e *emitter) done(m *mount, fd stub.FD, empty bool, host string) {
	e.setTreeLate(fd, &m.Mount)
	e.fresh = append(e.fresh, freshMount{m.Destination, fd, empty})
	e.guide.mounted(m.Destination, host)
	if m.late {
		e.made.late = append(e.made.late, lateMount{m.Field, kept{e.b, fd}})
	}
}

// newFS mounts a new file system.
func (e *emitter) newFS(m *mount) {
	if m.source >= 0 {
		fd := e.sources[m.source]
		e.inOrder(fd)
		e.setTree(fd, &m.Mount)
		e.place(m, fd)
		return
	}
	if needsMount2(m) {
		e.mount2(m)
		return
	}
	b := e.b
	fs := b.Fsopen(m.Type)
	if m.Source != "" {
		b.FsconfigString(fs, "source", m.Source)
	}
	e.superFlags(fs, m)
	if m.Type == "tmpfs" && !m.Has("mode") {
		if mode := e.guide.mode(m.Destination); mode != "" {
			b.FsconfigString(fs, "mode", mode)
		}
	}
	e.params(fs, m)
	if e.labelled(m) {
		b.FsconfigString(fs, "context", e.label)
	}
	b.FsconfigCreate(fs, m.Type)
	attr := m.Attr.Set
	if m.late {
		attr &^= unix.MOUNT_ATTR_RDONLY
	}
	fd := b.Fsmount(fs, attr, m.Type)
	e.setTree(fd, &m.Mount)
	e.place(m, fd)
}

// inOrder puts a copy in the place of a mount that the parent has made. Since Linux 6.8 mounts are listed in the order
// they were made in, and so it is that of the configuration, which OCI's validation looks at. Before Linux 6.15 mounts
// that are attached nowhere can't be copied, and the parent's is taken.
func (e *emitter) inOrder(fd stub.FD) {
	taken := e.b.Label()
	own := e.b.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	e.b.OnErr(own.Result(), unix.EINVAL, taken)
	dup3(e.b, own, fd)
	e.b.Mark(taken)
}

// params sets the options that are for the file system.
func (e *emitter) params(fs stub.FD, m *mount) {
	params, _ := m.Params()
	for _, p := range params {
		if p.Flag {
			e.b.FsconfigFlag(fs, p.Key)
		} else {
			e.b.FsconfigString(fs, p.Key, p.Value)
		}
	}
}

// place attaches a new file system.
func (e *emitter) place(m *mount, fd stub.FD) {
	switch m.Type {
	case "proc":
		e.attachStrict(fd, m.Destination, unix.PROC_SUPER_MAGIC)
	case "sysfs":
		e.attachStrict(fd, m.Destination, unix.SYSFS_MAGIC)
	default:
		if m.CopyUp {
			e.copyUp(m, fd)
		}
		e.attach(fd, m.Destination, false)
	}
	if m.Type == "mqueue" && e.label != "" {
		e.setLabel(fd)
	}
	e.done(m, fd, m.Type == "tmpfs" && !m.CopyUp, "")
}

// attachStrict attaches proc or sysfs where the path says and nowhere else: through no link, on a directory. What is
// then at the path must be that file system, since what is written there later is meant for the kernel
// (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867).
func (e *emitter) attachStrict(fd stub.FD, path string, magic uint64) {
	b := e.b
	attached, slow := b.Label(), b.Label()
	if e.cfg.Kernel.Openat2 {
		target := e.open(path, openDir, noLinks)
		b.OnErr(target.Result(), 0, slow)
		b.OnOK(b.MoveMount(fd, target), attached)
	}
	b.Mark(slow)
	dir := e.root
	for _, prefix := range prefixes(path) {
		b.Ignore(mkdirat(b, dir, base(prefix), dirMode), unix.EEXIST)
		dir = e.open(prefix, openDir, noLinks)
		b.Note("an ordinary directory without links: " + prefix)
	}
	b.MoveMount(fd, dir)
	b.Mark(attached)
	is := fileSystem(b, e.open(path, openDir, noLinks))
	b.Assert(is.Arg(), all, magic, unix.ESTALE, "another file system is at "+path)
}

// superFlags sets flags of the superblock. Of the pseudo file systems, one superblock serves all mounts, so that
// "ro" is for the mount alone; file systems of a disk must not write to it.
func (e *emitter) superFlags(fs stub.FD, m *mount) {
	if m.Attr.Set&unix.MOUNT_ATTR_RDONLY != 0 && !pseudo[m.Type] {
		e.b.FsconfigFlag(fs, "ro")
	}
	for _, f := range superNames {
		if m.Super&f.flag != 0 {
			e.b.FsconfigFlag(fs, f.name)
		}
	}
}

var pseudo = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true, "cgroup": true, "cgroup2": true,
}

// superNames are the flags that fsconfig(2) knows for all file systems; see vfs_parse_sb_flag in fs/fs_context.c.
var superNames = []struct {
	flag uintptr
	name string
}{
	{unix.MS_SYNCHRONOUS, "sync"}, {unix.MS_DIRSYNC, "dirsync"}, {unix.MS_MANDLOCK, "mand"}, {unix.MS_LAZYTIME, "lazytime"},
}

// labelled tells whether a new file system takes the SELinux context of linux.mountLabel.
func (e *emitter) labelled(m *mount) bool {
	switch m.Type {
	case "proc", "sysfs", "mqueue", "cgroup", "cgroup2":
		return false
	}
	return e.label != "" && !m.Has("context")
}

func recursive(yes bool) uint {
	if yes {
		return unix.AT_RECURSIVE
	}
	return 0
}

// setLabel labels the root of a file system that has no option for it.
func (e *emitter) setLabel(fd stub.FD) {
	dir := e.b.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	label := append([]byte(e.label), 0)
	e.b.Call(unix.SYS_FSETXATTR, dir.Arg(), e.b.String("security.selinux").Arg(), e.b.Const(label).Arg(),
		stub.Int(len(label)), stub.Int(0))
	e.b.Note("label " + e.label)
}

// setattr returns the argument of mount_setattr(2) that sets a and clears clear. A mode of access times is set only
// with all modes cleared.
func setattr(a mnt.Attr, clear uint64) unix.MountAttr {
	clear &^= unix.MOUNT_ATTR__ATIME
	if a.Atime {
		clear |= unix.MOUNT_ATTR__ATIME
	}
	return unix.MountAttr{Attr_set: a.Set, Attr_clr: clear}
}
