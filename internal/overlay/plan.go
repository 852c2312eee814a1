// Package overlay says how a container shows the host's files without being able to change them: which directories get an
// overlay, which are empty, which don't appear. It decides and touches nothing; package rootfs acts.
//
// The root is a directory of a new tmpfs, the upper directory of all: an overlay that shows the host's /usr has its
// upper directory at usr below it, and is mounted there. What the container has changed is therefore one tree, whatever
// the number of overlays. What is shown of one mount can be parts of one overlay, whose upper directory is that of all. There is
// more than one because a process in a user namespace can't have a directory as a lower layer below which something is mounted:
// those mounts are locked (mount_namespaces(7)).
package overlay

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what an entry of a plan makes.
type Kind int

const (
	Dir     Kind = iota // an empty directory
	Way                 // a directory in an overlay, on the way to one that is empty
	Link                // a symbolic link
	Overlay             // a directory of the host, with what is written to it kept apart
	File                // a file of the host, read-only
)

// Entry is one thing in the container's root. Those above it come before it.
type Entry struct {
	Kind   Kind
	Path   string // in the container: absolute and clean
	Source string // on the host: the directory or file; the link's target
	Mode   uint32 // of a directory: permissions with S_ISVTX
	UID    uint32 // of a directory
	GID    uint32
	Over   bool // it lies in an overlay
	Joint  bool // of an overlay: one over all of Root can show it, and others
}

// Plan is what a container shows of the host's files.
type Plan struct {
	Entries []Entry
	Size    string // of the tmpfs that changes go to, as its option size takes it (tmpfs(5)); or ""
	// UserNS says that the overlays are mounted in a user namespace: they keep their notes in user.* attributes.
	UserNS bool
	// Upper is a directory of the host that changes go to instead of a tmpfs, or "".
	Upper string
	// Volatile says that nobody wants it after a crash, so that it isn't written to the disk on purpose. So is a tmpfs.
	Volatile bool
	// Send has the engine hand over the upper directory of all, as a descriptor.
	Send bool
	// Serve has the program be a FUSE server: its first extra descriptor is /dev/fuse, of a file system that the engine has
	// made, and whose mount it hands over instead of the upper directory.
	Serve bool
	// Served is such a mount. It is the root: of Entries, which it shows, nothing is made.
	Served *os.File
	// Root is the host's directory that is shown as /.
	Root string
	// Binds are shown as they are, over what the entries show. One that lies in another comes after it.
	Binds []Bind
	// Files are made for the container, and read-only there, over all else. Their paths are those that Resolve returns.
	Files []Made
}

// Made is a file that the host doesn't have.
type Made struct {
	Path    string
	Content []byte
}

// Bind is a directory or file of the host that is shown as it is, not by an overlay.
type Bind struct {
	Path      string // in the container; made if it is missing
	Source    string // on the host, without symbolic links
	ReadOnly  bool
	Device    bool // devices in it can be used
	Recursive bool // with what is mounted below
}

// Donation is a plan whose files a program gets as descriptors instead of by their paths. They are told by their indexes among
// those that it is given beside its standard streams.
type Donation struct {
	Plan  *Plan
	Make  []string  // directories that are made where they are missing
	Root  int       // all that the plan shows, but for what is bound in it
	Trees []Donated // of what is bound, each of one mount alone
}

// Donated is a directory or regular file that a plan binds.
type Donated struct {
	Path  string // in the container
	File  bool   // opened, and not a mount
	Extra int
}

// Options are what a plan is made of. Paths are absolute and clean.
type Options struct {
	Root   string   // the host's directory that is shown as /
	Show   []string // shown, though they lie in an empty place
	Empty  []string // shown as empty directories
	Only   []string // of the directories of Root: others are empty, and its files not shown; nil: all
	Make   []string // directories made in empty places
	Omit   []string // not shown at all: others mount something there
	Mounts []string // mount points of the host
	UserNS bool
}

// New returns the plan for options.
func New(o Options) (*Plan, error) {
	p := &planner{Options: o, plan: &Plan{UserNS: o.UserNS, Root: o.Root}, made: map[string]bool{"/": true}}
	if err := p.resolveEmpty(); err != nil {
		return nil, err
	}
	if err := p.show("/", false); err != nil {
		return nil, err
	}
	for _, dir := range p.Show {
		if err := p.showBelow(dir, Overlay); err != nil {
			return nil, err
		}
	}
	for _, dir := range p.Make {
		if err := p.showBelow(dir, Dir); err != nil {
			return nil, err
		}
	}
	p.join()
	return p.plan, nil
}

// Real returns the path of an existing file without symbolic links.
func Real(name string) (string, error) {
	if path.IsAbs(name) && hasNoLinks(name) {
		return path.Clean(name), nil
	}
	var fd int
	var err error
	for {
		fd, err = unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// hasNoLinks tells whether a path exists and is known to lead through no symbolic link (openat2(2), Linux 5.6).
func hasNoLinks(name string) bool {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, name, &how)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// Below tells whether name is dir or lies in it.
func Below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir) && name[len(dir)] == '/'
}

// maxLinks is what the kernel follows, see path_resolution(7).
const maxLinks = 40

// Resolve returns a path of the container without symbolic links: those that the container sees. One that leads to an
// empty place leads to something that isn't there.
func (p *Plan) Resolve(name string) string {
	done, rest, links := "/", name, 0
	for rest != "" {
		var elem string
		elem, rest, _ = strings.Cut(rest, "/")
		next := path.Join(done, elem)
		target := ""
		if elem != ".." {
			target = p.readlink(next)
		}
		if target == "" {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return name
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = target + "/" + rest
	}
	return done
}

// readlink returns where the symbolic link leads that the container sees at name, or "" if it sees something else there.
func (p *Plan) readlink(name string) string {
	if host := p.source(name, p.Binds); host != "" {
		return readlink(host)
	}
	if at := p.entry(name); at.Path == name && at.Kind == Link {
		return at.Source
	}
	return ""
}

// source returns the host's file that the container sees at name where only these are bound, or "" if it sees none of the host's.
func (p *Plan) source(name string, binds []Bind) string {
	for _, b := range slices.Backward(binds) {
		if Below(name, b.Path) {
			return path.Join(b.Source, name[len(b.Path):])
		}
	}
	switch at := p.entry(name); {
	case at.Kind == Overlay, at.Kind == File && at.Path == name:
		return path.Join(at.Source, strings.TrimPrefix(name, at.Path))
	}
	return ""
}

// entry returns the innermost entry that name lies in.
func (p *Plan) entry(name string) (at Entry) {
	for _, e := range p.Entries {
		if e.Kind != Way && Below(name, e.Path) && len(e.Path) >= len(at.Path) {
			at = e
		}
	}
	return at
}

// devices are those that every container has (runtime-spec, config-linux.md, "Default Devices").
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// Unbindable says why nothing can be bound as p.Binds[i] says, for what the container sees there; or "".
func (p *Plan) Unbindable(i int) string {
	b := p.Binds[i]
	var source, there unix.Stat_t
	if unix.Stat(b.Source, &source) != nil {
		return ""
	}
	isDir := func(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }
	name := path.Join(p.Resolve(path.Dir(b.Path)), path.Base(b.Path))
	if host := p.source(name, p.Binds[:i]); host != "" {
		switch err := unix.Stat(host, &there); {
		case err == unix.ENOTDIR:
			return path.Dir(b.Path) + " is no directory"
		case err != nil:
			return ""
		}
	} else if at := p.entry(name); at.Path == name && at.Kind == Dir {
		there.Mode = unix.S_IFDIR
	} else if slices.Contains(devices, name) {
		there.Mode = unix.S_IFCHR
	} else {
		return ""
	}
	switch {
	case isDir(&there) == isDir(&source):
		return ""
	case isDir(&there):
		return "a file can't be shown where a directory is"
	}
	return "a directory can't be shown where a file is"
}

func readlink(host string) string {
	target, err := os.Readlink(host)
	if err != nil {
		return ""
	}
	return target
}

// String returns a line for each entry.
func (p *Plan) String() string {
	var s strings.Builder
	for _, e := range p.Entries {
		switch e.Kind {
		case Dir:
			fmt.Fprintf(&s, "dir     %s %04o\n", e.Path, e.Mode)
		case Way:
			fmt.Fprintf(&s, "way     %s %04o\n", e.Path, e.Mode)
		case Link:
			fmt.Fprintf(&s, "link    %s -> %s\n", e.Path, e.Source)
		case Overlay:
			fmt.Fprintf(&s, "overlay %s over %s%s\n", e.Path, e.Source, map[bool]string{true: ", joint"}[e.Joint])
		case File:
			fmt.Fprintf(&s, "file    %s from %s\n", e.Path, e.Source)
		}
	}
	for _, m := range p.Files {
		fmt.Fprintf(&s, "made    %s (%d bytes)\n", m.Path, len(m.Content))
	}
	for _, b := range p.Binds {
		fmt.Fprintf(&s, "bind    %s from %s\n", b.Path, b.Source)
	}
	return s.String()
}
