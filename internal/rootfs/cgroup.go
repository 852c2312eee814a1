package rootfs

import (
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// Cgroups is what a mount of type cgroup needs to know of the host and of the container's cgroup.
type Cgroups struct {
	V2 bool // version 2 alone; else the v1 hierarchies, be the host hybrid or not

	NewNamespace bool // the stub is in a cgroup namespace of the container
	Missing      bool // what the container has none of is left out: its caller could not make it

	// Unified is the host's path of the container's cgroup of version 2, or "" if it is not known.
	Unified string
	// Hierarchies are those of version 1.
	Hierarchies []Hierarchy
}

// Hierarchy is one of cgroup version 1.
type Hierarchy struct {
	Name    string   // of its directory in /sys/fs/cgroup: "cpu,cpuacct", "systemd"
	Options []string // of its mount: "cpu", "cpuacct"; or "name=systemd"
	Dir     string   // the host's path of the container's cgroup in it
}

const unifiedMount = "/sys/fs/cgroup"

// cgroup emits a mount of type cgroup.
func (e *emitter) cgroup(m *mount) {
	if e.cfg.Cgroups.V2 {
		e.cgroup2(m)
	} else {
		e.cgroup1(m)
	}
}

// cgroup2 mounts version 2. A user namespace may do so only together with a cgroup namespace; the fallback is a bind
// mount of the host's.
func (e *emitter) cgroup2(m *mount) {
	b := e.b
	bound, bind := b.Label(), b.Label()
	attr := m.Attr.Set
	if e.cfg.Cgroups.Missing && !e.cfg.Cgroups.NewNamespace {
		attr |= unix.MOUNT_ATTR_RDONLY // else the caller's own cgroups are at hand (CVE-2023-25809)
	}
	fs := b.Fsopen("cgroup2")
	b.OnErr(fs.Result(), unix.EPERM, bind)
	if m.Source != "" {
		b.FsconfigString(fs, "source", m.Source)
	}
	e.params(fs, m)
	b.OnErr(b.FsconfigCreate(fs, "cgroup2"), 0, bind)
	fd := b.Fsmount(fs, attr, "cgroup2")
	b.OnErr(fd.Result(), unix.EPERM, bind)
	e.setTree(fd, &m.Mount)
	e.attach(fd, m.Destination, false)
	e.setTreeLate(fd, &m.Mount)
	b.Goto(bound)

	b.Mark(bind)
	source := unifiedMount
	if e.cfg.Cgroups.NewNamespace && e.cfg.Cgroups.Unified != "" {
		source = e.cfg.Cgroups.Unified
	}
	tree := b.OpenTree(stub.CWD, source, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	hidden := b.Label()
	if e.cfg.Cgroups.Missing {
		b.OnErr(tree.Result(), unix.ENOENT, hidden)
	}
	e.setAttr(tree, attr)
	e.setTree(tree, &m.Mount)
	e.attach(tree, m.Destination, false)
	e.setAttrLate(tree, attr)
	e.setTreeLate(tree, &m.Mount)
	b.Goto(bound)
	b.Mark(hidden)
	if e.cfg.Cgroups.Missing {
		// The container's cgroup is not one that can be seen from here: nothing else is shown in its place.
		e.attach(e.emptyDir(), m.Destination, false)
	}
	b.Mark(bound)
	e.fresh = append(e.fresh, freshMount{destination: m.Destination})
	e.guide.mounted(m.Destination, "")
}

const cgroupAttr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// cgroup1 mounts the hierarchies of version 1 in a new tmpfs. With a cgroup namespace they are mounted and show the
// container's cgroup as their root; without, that cgroup's directory is bound.
func (e *emitter) cgroup1(m *mount) {
	b := e.b
	fs := b.Fsopen("tmpfs")
	b.FsconfigString(fs, "source", "tmpfs")
	b.FsconfigString(fs, "mode", "755")
	if e.label != "" {
		b.FsconfigString(fs, "context", e.label)
	}
	b.FsconfigCreate(fs, "tmpfs")
	dir := b.Fsmount(fs, cgroupAttr, "tmpfs")
	e.attach(dir, m.Destination, false)
	readonly := m.Attr.Set & unix.MOUNT_ATTR_RDONLY
	for _, h := range e.cfg.Cgroups.Hierarchies {
		mkdirat(b, dir, h.Name, dirMode)
		target := b.Openat(dir, h.Name, openDir|unix.O_NOFOLLOW, 0)
		e.hierarchy(m, h, cgroupAttr|readonly, target)
		if len(h.Options) > 1 {
			for _, controller := range h.Options {
				symlinkat(b, h.Name, dir, controller)
			}
		}
	}
	e.setTree(dir, &m.Mount)
	if readonly != 0 {
		e.addReadonly(dir)
	}
	e.setTreeLate(dir, &m.Mount)
	e.fresh = append(e.fresh, freshMount{m.Destination, dir, false})
	e.guide.mounted(m.Destination, "")
}

func (e *emitter) hierarchy(m *mount, h Hierarchy, attr uint64, target stub.FD) {
	b := e.b
	if !e.cfg.Cgroups.NewNamespace {
		fd := b.OpenTree(stub.CWD, h.Dir, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
		missing := b.Label()
		if e.cfg.Cgroups.Missing {
			b.OnErr(fd.Result(), unix.ENOENT, missing) // it could not be made, and nothing else is shown in its place
		}
		e.setAttr(fd, attr)
		b.MoveMount(fd, target)
		e.setAttrLate(fd, attr)
		b.Mark(missing)
		return
	}
	fs := b.Fsopen("cgroup")
	b.FsconfigString(fs, "source", "cgroup")
	for _, o := range h.Options {
		e.option(fs, o)
	}
	b.FsconfigCreate(fs, "cgroup "+h.Name)
	b.MoveMount(b.Fsmount(fs, attr, "cgroup "+h.Name), target)
}

// option sets one option of a file system, as in data of mount(2).
func (e *emitter) option(fs stub.FD, o string) {
	if key, value, ok := strings.Cut(o, "="); ok {
		e.b.FsconfigString(fs, key, value)
	} else {
		e.b.FsconfigFlag(fs, o)
	}
}
