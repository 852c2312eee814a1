package rootfs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/mnt"
)

// String returns the plan, one operation a line, in the order they happen.
func (p *Plan) String() string {
	var w strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	for _, s := range p.sources {
		line("source %s", s)
	}
	propagation := p.propagation
	if propagation == 0 {
		propagation = unix.MS_SLAVE | unix.MS_REC
	}
	line("propagation %s", mnt.PropagationName(propagation))
	line("root %s", p.root)
	for _, m := range p.mounts {
		line("%s", m.Mount)
	}
	for _, d := range p.devices {
		if p.devBound {
			break
		}
		line("device %s", d)
	}
	if !p.devBound {
		for _, l := range links {
			line("link /dev/%s -> %s", l[0], l[1])
		}
		line("link /dev/ptmx -> pts/ptmx")
		if p.cfg.Terminal {
			line("file /dev/console")
		}
	}
	for _, m := range p.mounts {
		if m.late {
			line("readonly %s", m.Destination)
		}
	}
	if p.cfg.Spec.Root.Readonly {
		line("readonly /")
	}
	if p.cfg.NoPivot {
		line("move /")
	} else {
		line("pivot /")
	}
	for _, path := range p.readonlyPaths {
		line("readonly %s", path)
	}
	for _, path := range p.masked {
		line("mask %s", path)
	}
	return w.String()
}

func (s source) String() string {
	switch {
	case s.tree != nil && s.tree.IDMap != nil:
		return fmt.Sprintf("tree %s %s", s.tree.Source, s.tree.IDMap)
	case s.tree != nil:
		return "tree " + s.tree.Source
	case s.dev != nil:
		return s.dev.String()
	case s.serve != nil:
		return fmt.Sprintf("idmap %s %s", s.serve.Source, s.serve.IDMap)
	case s.join != "":
		return "user namespace " + s.join
	}
	return "user namespace " + s.ids.String()
}

func (fs *devFS) String() string {
	var nodes []string
	for _, d := range fs.nodes {
		nodes = append(nodes, d.path)
	}
	return fmt.Sprintf("file system of %s with %s", fs.mount.Destination, strings.Join(nodes, " "))
}

func (d device) String() string {
	kind := map[uint32]byte{unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p'}[d.mode&unix.S_IFMT]
	return fmt.Sprintf("%s %c %d:%d %04o %d:%d", d.path, kind, unix.Major(d.dev), unix.Minor(d.dev), d.mode&0o7777, d.uid, d.gid)
}
