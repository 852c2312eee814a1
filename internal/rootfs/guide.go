package rootfs

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A guide looks at the container's files from the parent, while the batch is made. The stub can't decide on what it
// finds; so where a mount point is behind a dangling link, which runc makes, the guide says where the link leads. It
// is a guess that nothing relies on: the stub resolves what it is told inside the root like any other path, and if
// the guess is wrong or the parent may not look, setting up fails at worst.
type guide struct {
	over []guideMount
}

// guideMount says where on the host the files below destination are. Host is "" if they are in a new file system.
type guideMount struct {
	destination, host string
}

func newGuide(root string) *guide { return &guide{[]guideMount{{"/", root}}} }

func (g *guide) mounted(destination, host string) {
	g.over = append(g.over, guideMount{destination, host})
}

// isMount tells whether something is mounted on path. Its source may be a link, but nothing of that shows here.
func (g *guide) isMount(path string) bool {
	return slices.ContainsFunc(g.over, func(m guideMount) bool { return m.destination == path })
}

// host returns where a path of the container without links in it is on the host, or "".
func (g *guide) host(p string) string {
	m := g.over[0]
	for _, o := range g.over {
		if below(p, o.destination) && len(o.destination) >= len(m.destination) {
			m = o
		}
	}
	if m.host == "" {
		return ""
	}
	return path.Join(m.host, p[len(m.destination):])
}

// maxLinks is what the kernel follows, see path_resolution(7).
const maxLinks = 40

// follow returns the path without symbolic links; or, if there are none or too many, the path.
func (g *guide) follow(p string) string {
	if p == "/" {
		return p
	}
	var st unix.Stat_t
	done, rest, links := "/", strings.Trim(p, "/"), 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, name)
		host := g.host(next)
		if host == "" || g.isMount(next) || unix.Lstat(host, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
			done = next
			continue
		}
		link, err := os.Readlink(host)
		if links++; err != nil || links > maxLinks {
			return p
		}
		if path.IsAbs(link) {
			done = "/"
		}
		rest = link + "/" + rest
	}
	return done
}

// exists tells whether the host has a file at path.
func (g *guide) exists(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil
}

// mode returns the permissions of a directory of the container in octal, or "".
func (g *guide) mode(p string) string {
	host := g.host(g.follow(p))
	var st unix.Stat_t
	if host == "" || unix.Stat(host, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return ""
	}
	return fmt.Sprintf("%04o", st.Mode&0o7777)
}
