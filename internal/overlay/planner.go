package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// planner is one call of New.
type planner struct {
	Options
	plan *Plan
	made map[string]bool
}

// join marks the overlays that can be one, because they are of one mount. An overlay takes its time to mount, and at its end the
// kernel waits for a grace period of RCU. In a user namespace Root has mounts below that are locked.
func (p *planner) join() {
	if p.UserNS {
		return
	}
	root := p.mountOf(p.Root)
	var joint []*Entry
	for i := range p.plan.Entries {
		if e := &p.plan.Entries[i]; e.Kind == Overlay && e.Path != "/" && p.mountOf(e.Source) == root {
			joint = append(joint, e)
		}
	}
	for _, e := range joint {
		e.Joint = len(joint) > 1
	}
}

// mountOf returns the mount point that a path of the host lies in.
func (p *planner) mountOf(host string) (point string) {
	for _, m := range p.Mounts {
		if Below(host, m) && len(m) > len(point) {
			point = m
		}
	}
	return point
}

// resolveEmpty completes the empty places: with the directories that are not among Only, and with what symbolic links
// lead to. What is to be shown is none of them.
func (p *planner) resolveEmpty() error {
	empty := make([]string, 0, 2*len(p.Empty))
	if p.Only != nil {
		entries, err := os.ReadDir(p.Root)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if name := "/" + e.Name(); e.IsDir() && !slices.Contains(p.Only, name) && !slices.Contains(p.Omit, name) {
				empty = append(empty, name)
			}
		}
	}
	for _, dir := range p.Empty {
		real, err := Real(p.host(dir))
		if err != nil {
			continue // nothing to hide, or nothing that the caller could see
		}
		if inside, ok := p.inside(real); ok && inside != "/" {
			empty = append(empty, inside)
		}
	}
	p.Empty = slices.DeleteFunc(empty, func(dir string) bool { return slices.Contains(p.Show, dir) })
	return nil
}

// inside returns where a path of the host is in the container.
func (p *planner) inside(host string) (string, bool) {
	if !Below(host, p.Root) {
		return "", false
	}
	return path.Join("/", strings.TrimPrefix(host, strings.TrimSuffix(p.Root, "/"))), true
}

// host returns where a path of the container is on the host.
func (p *planner) host(name string) string { return path.Join(p.Root, name) }

// special tells whether something at or below dir has to be treated apart, so that it can't all be one overlay.
func (p *planner) special(dir string) bool {
	inside := func(q string) bool { return q != dir && Below(q, dir) }
	if dir == "/" {
		return len(p.Omit)+len(p.Empty) > 0 || p.UserNS && len(p.mountsBelow(dir)) > 0
	}
	return slices.ContainsFunc(p.Omit, inside) || p.UserNS && len(p.mountsBelow(dir)) > 0
}

func (p *planner) mountsBelow(dir string) (found []string) {
	for _, m := range p.Mounts {
		if host := p.host(dir); m != host && Below(m, host) {
			name, _ := p.inside(m)
			found = append(found, name)
		}
	}
	return found
}

// show adds what is to be seen of the directory dir. over says that it lies in an overlay already.
func (p *planner) show(dir string, over bool) error {
	if slices.Contains(p.Omit, dir) {
		return nil
	}
	if slices.Contains(p.Empty, dir) {
		return p.add(Entry{Kind: Dir, Path: dir, Over: over})
	}
	if p.special(dir) {
		return p.descend(dir)
	}
	if err := p.add(Entry{Kind: Overlay, Path: dir, Source: p.host(dir), Over: over}); err != nil {
		return err
	}
	return p.within(dir)
}

// within adds what lies in the overlay dir: mounts of the host, which an overlay doesn't show, and empty places.
func (p *planner) within(dir string) error {
	inside := slices.Concat(p.mountsBelow(dir), p.emptyBelow(dir))
	slices.Sort(inside)
	for _, q := range slices.Compact(inside) {
		if p.hidden(q) && !slices.Contains(p.Empty, q) {
			continue
		}
		if p.shows(q) { // with a mount that it is in
			continue
		}
		fi, err := os.Lstat(p.host(q))
		switch {
		case err != nil:
			continue // covered by another mount, private to another user, gone, or a server that doesn't answer
		case fi.IsDir():
			if err = p.show(q, true); errors.Is(err, fs.ErrNotExist) {
				err = nil // gone by now
			}
		case fi.Mode().IsRegular():
			err = p.add(Entry{Kind: File, Path: q, Source: p.host(q), Over: true})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shows tells whether the plan has an entry for dir itself.
func (p *planner) shows(dir string) bool {
	return p.made[dir] && slices.ContainsFunc(p.plan.Entries, func(e Entry) bool { return e.Path == dir && e.Kind != Way })
}

func (p *planner) emptyBelow(dir string) (found []string) {
	for _, e := range p.Empty {
		if e != dir && Below(e, dir) {
			found = append(found, e)
		}
	}
	return found
}

// hidden tells whether name is in a place that is empty or omitted, and not in a part of it that is shown.
func (p *planner) hidden(name string) bool {
	shown := 0
	for _, s := range p.Show {
		if Below(name, s) {
			shown = max(shown, len(s))
		}
	}
	in := func(q string) bool { return Below(name, q) && len(q) > shown }
	return slices.ContainsFunc(p.Empty, in) || slices.ContainsFunc(p.Omit, in)
}

// descend makes a directory and adds what is in it one by one.
func (p *planner) descend(dir string) error {
	if err := p.add(Entry{Kind: Dir, Path: dir}); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.host(dir))
	if errors.Is(err, fs.ErrPermission) {
		return nil // whoever may not list it sees it empty
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch t := e.Type(); {
		case slices.Contains(p.Omit, name):
		case t.IsDir():
			err = p.show(name, false)
		case t == fs.ModeSymlink:
			err = p.link(name)
		case t.IsRegular() && (dir != "/" || p.Only == nil):
			err = p.add(Entry{Kind: File, Path: name, Source: p.host(name)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) link(name string) error {
	target, err := os.Readlink(p.host(name))
	if err != nil {
		return err
	}
	return p.add(Entry{Kind: Link, Path: name, Source: target})
}

// showBelow shows a directory that may lie in an empty place, with the directories on the way to it.
func (p *planner) showBelow(dir string, kind Kind) error {
	shown := p.shown(dir)
	if p.made[dir] || shown && !p.UserNS {
		return nil
	}
	for i := 1; i < len(dir); i++ {
		if dir[i] != '/' || p.made[dir[:i]] {
			continue
		}
		e := Entry{Kind: Dir, Path: dir[:i]}
		if shown && p.shown(e.Path) {
			// In a user namespace nobody could make a file below a directory whose owner has no id there: overlayfs
			// would first have to copy it.
			e.Kind = Way
		}
		if err := p.add(e); err != nil {
			return err
		}
	}
	if shown {
		return nil
	}
	if kind == Overlay {
		return p.show(dir, false)
	}
	return p.add(Entry{Kind: kind, Path: dir})
}

// shown tells whether name is in an overlay of the plan, and not in an empty place of that.
func (p *planner) shown(name string) bool {
	overlay, hidden := 0, 0
	for _, e := range p.plan.Entries {
		if e.Kind == Overlay && Below(name, e.Path) {
			overlay = max(overlay, len(e.Path))
		}
	}
	for _, q := range slices.Concat(p.Empty, p.Omit) {
		if Below(name, q) {
			hidden = max(hidden, len(q))
		}
	}
	return overlay > hidden
}

// add completes an entry with what the host's file is like.
func (p *planner) add(e Entry) error {
	if e.Kind != Link && e.Kind != File {
		var st unix.Stat_t
		err := unix.Stat(p.host(e.Path), &st)
		if err != nil {
			return &os.PathError{Op: "stat", Path: p.host(e.Path), Err: err}
		}
		if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return &os.PathError{Op: "show", Path: p.host(e.Path), Err: unix.ENOTDIR}
		}
		e.Mode, e.UID, e.GID = st.Mode&(0o777|unix.S_ISVTX), st.Uid, st.Gid
	}
	if e.Over {
		// What is on the way would not be in the overlay's upper directory yet.
		for i := 1; i < len(e.Path); i++ {
			if e.Path[i] == '/' && !p.made[e.Path[:i]] {
				if err := p.add(Entry{Kind: Way, Path: e.Path[:i]}); err != nil {
					return err
				}
			}
		}
	}
	p.made[e.Path] = true
	p.plan.Entries = append(p.plan.Entries, e)
	return nil
}
