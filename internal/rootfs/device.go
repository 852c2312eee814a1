package rootfs

import (
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// device is a node that the container gets.
type device struct {
	field    string
	path     string // clean
	mode     uint32 // type and permissions
	dev      uint64
	uid, gid uint32
	made     bool // it is in the file system that the parent makes for /dev
}

var deviceTypes = map[string]uint32{
	"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO,
}

// addDevice checks an entry of linux.devices.
func (p *Plan) addDevice(i int, d specs.LinuxDevice) error {
	field := fmt.Sprintf("linux.devices[%d] %q", i, d.Path)
	kind, ok := deviceTypes[d.Type]
	switch {
	case !ok:
		return fault.Spec(field+": type", fmt.Sprintf("%q is none of c, b, u, p", d.Type))
	case !filepath.IsAbs(d.Path) || filepath.Clean(d.Path) == "/":
		return fault.Spec(field+": path", "not an absolute path of a file")
	case strings.IndexByte(d.Path, 0) >= 0:
		return fault.Spec(field+": path", "has a NUL byte")
	case d.Major < 0 || d.Major >= 1<<12 || d.Minor < 0 || d.Minor >= 1<<20:
		return fault.Spec(field, fmt.Sprintf("%d:%d is no device number: they go up to 4095:1048575", d.Major, d.Minor))
	}
	dev := device{field: field, path: filepath.Clean(d.Path), mode: kind | 0o666}
	if d.FileMode != nil {
		dev.mode = kind | uint32(*d.FileMode)&0o7777
	}
	if d.UID != nil {
		dev.uid = *d.UID
	}
	if d.GID != nil {
		dev.gid = *d.GID
	}
	if kind != unix.S_IFIFO {
		dev.dev = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	}
	if dev.path != "/dev/ptmx" { // always a link to the container's own
		p.devices = append(p.devices, dev)
	}
	return nil
}

// addDefaultDevices adds those of config-linux.md, "Default Devices", that the configuration does not have.
func (p *Plan) addDefaultDevices() {
	has := make(map[string]bool, len(p.devices))
	for _, d := range p.devices {
		has[d.path] = true
	}
	for _, d := range []struct {
		path         string
		major, minor uint32
	}{
		{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9},
		{"/dev/tty", 5, 0},
	} {
		if !has[d.path] {
			p.devices = append(p.devices, device{
				field: "linux.devices", path: d.path, mode: unix.S_IFCHR | 0o666, dev: unix.Mkdev(d.major, d.minor),
			})
		}
	}
}

// links are those of config-linux.md, "Default Devices", and of runtime-linux.md, "Dev symbolic links".
var links = [][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
}

// devDir returns the container's /dev, and whether it is a new file system with nothing in it but what this plan has
// made. If it is not, it must be a directory of the root itself: through a link, files of the host could be deleted
// or replaced that a volume holds (CVE-2026-41579).
func (e *emitter) devDir() (dir stub.FD, empty bool) {
	for i := len(e.fresh) - 1; i >= 0; i-- {
		if f := e.fresh[i]; f.destination == "/dev" {
			return f.fd, f.empty
		}
	}
	e.b.In("/dev")
	e.b.Ignore(mkdirat(e.b, e.root, "dev", dirMode), unix.EEXIST)
	dir = e.open("/dev", openDir, noLinks)
	e.b.Note("an ordinary directory without links: /dev")
	return dir, false
}

// devices makes the nodes and links in /dev. A /dev that is bound from elsewhere is left alone: it is not the
// container's.
func (e *emitter) devices() {
	if e.devBound {
		return
	}
	dev, empty := e.devDir()
	e.made.dev = kept{e.b, dev}
	for _, d := range e.Plan.devices {
		if !d.made {
			e.device(d, dev, empty)
		}
	}
	b := e.b
	b.In("/dev")
	for _, l := range links {
		b.Ignore(symlinkat(b, l[1], dev, l[0]), unix.EEXIST)
	}
	if e.guide.exists("/proc/kcore") {
		b.Ignore(symlinkat(b, "/proc/kcore", dev, "core"), unix.EEXIST)
	}
	if !empty {
		b.Ignore(unlinkat(b, dev, "ptmx"), unix.ENOENT)
	}
	symlinkat(b, "pts/ptmx", dev, "ptmx")
	if e.cfg.Terminal {
		b.Ignore(mknodat(b, dev, "console", unix.S_IFREG|0o600, 0), unix.EEXIST)
	}
}

// device makes a node. Without the right to make nodes, which no user namespace gives, the host's is bound; see devFS for
// how a container with a user namespace gets its own nevertheless.
func (e *emitter) device(d device, dev stub.FD, empty bool) {
	b := e.b
	b.In(d.field)
	dir := e.deviceDir(d.path, dev)
	name := base(d.path)
	done, bind := b.Label(), b.Label()
	isNode := d.mode&unix.S_IFMT != unix.S_IFIFO
	if !e.cfg.UserNS || !isNode {
		made := mknodat(b, dir, name, d.mode, d.dev)
		b.OnErr(made, unix.EEXIST, done)
		if isNode {
			b.OnErr(made, 0, bind)
		}
		if !empty || dir != dev {
			e.verifyNode(d, dir)
		}
		if d.uid != 0 || d.gid != 0 {
			fchownat(b, dir, name, d.uid, d.gid)
		}
		b.Goto(done)
	}
	if isNode {
		b.Mark(bind)
		e.bindDevice(d, dir)
	}
	b.Mark(done)
}

// verifyNode fails if what was just made is not what is there.
func (e *emitter) verifyNode(d device, dir stub.FD) {
	b := e.b
	fd := b.Openat(dir, base(d.path), openPath|unix.O_NOFOLLOW, 0)
	st := b.Statx(fd)
	e.assertNode(st, d)
}

func (e *emitter) assertNode(st stub.Data, d device) {
	b := e.b
	b.Assert(b.Load(st, stub.StatxMode).Arg(), unix.S_IFMT, uint64(d.mode&unix.S_IFMT), unix.ENODEV, "type of "+d.path)
	b.Assert(b.Load(st, stub.StatxRdevMajor).Arg(), all, uint64(unix.Major(d.dev)), unix.ENODEV, "major number of "+d.path)
	b.Assert(b.Load(st, stub.StatxRdevMinor).Arg(), all, uint64(unix.Minor(d.dev)), unix.ENODEV, "minor number of "+d.path)
}

// bindDevice binds the host's node. It must be the device asked for.
func (e *emitter) bindDevice(d device, dir stub.FD) {
	b := e.b
	fd := b.OpenTree(stub.CWD, d.path, unix.OPEN_TREE_CLONE)
	e.assertNode(b.Statx(fd), d)
	b.Ignore(mknodat(b, dir, base(d.path), unix.S_IFREG, 0), unix.EEXIST)
	b.MoveMount(fd, b.Openat(dir, base(d.path), openPath|unix.O_NOFOLLOW, 0))
}

// deviceDir opens the directory of a node, and makes it if it is missing.
func (e *emitter) deviceDir(path string, dev stub.FD) stub.FD {
	dir := parent(path)
	switch {
	case dir == "/dev":
		return dev
	case below(dir, "/dev"):
		return e.makeDirs(dev, strings.TrimPrefix(dir, "/dev/"))
	}
	return e.makePath(dir)
}

// Console emits the bind mount of a terminal onto /dev/console. pty is a descriptor of the terminal in a mount of the
// stub's namespace. It can come before or after Enter.
func (p *Plan) Console(b *stub.Batch, pty stub.FD) {
	b.In("/dev/console")
	fd := b.OpenTree(pty, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	var dev stub.FD
	if p.devBound {
		e := &emitter{Plan: p, b: b, root: p.made.root.in(b), guide: p.made.guide}
		dev = e.open("/dev", openDir, noLinks)
		b.Ignore(mknodat(b, dev, "console", unix.S_IFREG|0o600, 0), unix.EEXIST)
	} else {
		dev = p.made.dev.in(b)
	}
	target := b.Openat(dev, "console", openPath|unix.O_NOFOLLOW, 0)
	// It is the directory that Prepare knew, and no link in it is followed (CVE-2025-52565).
	b.MoveMount(fd, target)
}
