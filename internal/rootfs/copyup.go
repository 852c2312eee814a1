package rootfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"path"

	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// copyUp is a tmpfs to be filled with what it covers.
type copyUp struct {
	field    string
	from, to kept
}

// copyUp opens the directory that a tmpfs is going to cover.
func (e *emitter) copyUp(m *mount, fd stub.FD) {
	from := e.open(m.Destination, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, inRoot)
	missing := e.b.Label() // then there is nothing to copy
	e.b.OnErr(from.Result(), 0, missing)
	e.b.Mark(missing)
	e.made.copies = append(e.made.copies, copyUp{m.Field, kept{e.b, from}, kept{e.b, fd}})
}

// CopyUp fills the tmpfs mounts with the option tmpcopyup. It must be called after Prepare's batch has been executed.
//
// The stub copies, so that the container's root owns and may read what is copied, whoever the parent is. No link is
// followed and no mount entered, neither where it reads nor where it writes: with what other mounts hold, the option
// has nothing to do.
//
// It stops when ctx is done: how long it takes is up to the image.
func (p *Plan) CopyUp(ctx context.Context, s *stub.Stub) error {
	for _, c := range p.made.copies {
		if c.from.b.Errno(c.from.fd.Result()) != 0 {
			continue
		}
		none := new(stub.Batch)
		k := copier{ctx: ctx, s: s, field: c.field, from: c.from.in(none), to: c.to.in(none)}
		if err := k.top(); err != nil {
			return err
		}
	}
	return nil
}

// CopiesUp tells, after Prepare, whether CopyUp has anything to do.
func (p *Plan) CopiesUp() bool { return len(p.made.copies) > 0 }

type copier struct {
	ctx      context.Context
	s        *stub.Stub
	field    string
	from, to stub.FD
	first    map[fileID]string // of files with several links: the path of the copy
}

// fileID names a file of the original.
type fileID struct{ dev, ino uint64 }

// inode is what a copy needs to know of a file.
type inode struct {
	name     string
	id       fileID
	links    uint32
	mode     uint32
	uid, gid uint32
	dev      uint64
	size     uint64
	link     string
	xattrs   []xattr
}

func (f *inode) is(kind uint32) bool { return f.mode&unix.S_IFMT == kind }

func (c *copier) batch() *stub.Batch {
	b := new(stub.Batch)
	b.In(c.field)
	return b
}

func (c *copier) open(b *stub.Batch, dir stub.FD, path string, flags uint64) stub.FD {
	return b.Openat2(dir, path, unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// top copies what the tmpfs covers. Who owns its root is said by options of its own.
func (c *copier) top() error {
	c.first = make(map[fileID]string)
	root := []inode{{name: ".", mode: unix.S_IFDIR}}
	if err := c.xattrs(".", root); err != nil {
		return err
	}
	if err := c.setXattrs(".", root); err != nil {
		return err
	}
	return c.dir(".")
}

// dir copies what is in a directory, and the directories below.
func (c *copier) dir(rel string) error {
	names, err := c.list(rel)
	if err != nil {
		return err
	}
	var dirs []inode
	// A batch has room for many, but each readlink needs a page.
	const chunk = 128
	for len(names) > 0 {
		if err := context.Cause(c.ctx); err != nil {
			return err
		}
		n := min(chunk, len(names))
		files, err := c.stat(rel, names[:n])
		if err != nil {
			return err
		}
		if err := c.xattrs(rel, files); err != nil {
			return err
		}
		if err := c.make(rel, files); err != nil {
			return err
		}
		// After chown, which takes file capabilities away.
		if err := c.setXattrs(rel, files); err != nil {
			return err
		}
		for _, f := range files {
			if f.is(unix.S_IFDIR) {
				dirs = append(dirs, f)
			}
		}
		names = names[n:]
	}
	for _, d := range dirs {
		if err := c.dir(path.Join(rel, d.name)); err != nil {
			return err
		}
	}
	return nil
}

// list returns the names in a directory.
func (c *copier) list(rel string) (names []string, err error) {
	b := c.batch()
	dir := c.open(b, c.from, rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err := c.s.Do(b); err != nil {
		return nil, err
	}
	fd := stub.Fd(int(b.Value(dir.Result())))
	for {
		b = c.batch()
		const size = 64 << 10
		out := b.Out(size)
		n := b.Call(unix.SYS_GETDENTS64, fd.Arg(), out.Arg(), stub.Int(size))
		if err := c.s.Do(b); err != nil {
			return nil, err
		}
		got := b.Value(n)
		if got <= 0 || got > size {
			break
		}
		names = append(names, direntNames(b.Bytes(out)[:got])...)
	}
	b = c.batch()
	b.Close(fd)
	return names, c.s.Do(b)
}

// direntNames returns the names in what getdents64(2) returned, without "." and "..". The stub is not trusted: lengths
// are checked, and a name is one component.
func direntNames(p []byte) (names []string) {
	const header = 19 // d_ino, d_off, d_reclen, d_type
	for len(p) > header {
		n := int(binary.LittleEndian.Uint16(p[16:]))
		if n <= header || n > len(p) {
			break
		}
		name, _, _ := bytes.Cut(p[header:n], []byte{0})
		if s := string(name); s != "" && s != "." && s != ".." && !bytes.ContainsRune(name, '/') {
			names = append(names, s)
		}
		p = p[n:]
	}
	return names
}

// stat returns what the files are. Those on other file systems are left out.
func (c *copier) stat(rel string, names []string) ([]inode, error) {
	type asked struct {
		fd   stub.FD
		st   stub.Data
		link stub.Data
		n    stub.Result
	}
	b := c.batch()
	all := make([]asked, len(names))
	for i, name := range names {
		a := &all[i]
		next := b.Label()
		a.fd = c.open(b, c.from, path.Join(rel, name), unix.O_PATH)
		b.OnErr(a.fd.Result(), unix.EXDEV, next)
		a.st = b.Statx(a.fd)
		a.link = b.Out(unix.PathMax)
		a.n = b.Call(unix.SYS_READLINKAT, a.fd.Arg(), b.String("").Arg(), a.link.Arg(), stub.Int(unix.PathMax))
		b.Ignore(a.n, 0) // most are no links
		b.Close(a.fd)
		b.Mark(next)
	}
	if err := c.s.Do(b); err != nil {
		return nil, err
	}
	var files []inode
	for i, a := range all {
		if b.Errno(a.fd.Result()) != 0 {
			continue
		}
		f := inode{
			name: names[i],
			id: fileID{
				unix.Mkdev(b.Uint32(a.st, stub.StatxDevMajor), b.Uint32(a.st, stub.StatxDevMinor)),
				binary.LittleEndian.Uint64(b.Bytes(a.st)[stub.StatxIno:]),
			},
			links: b.Uint32(a.st, statxNlink),
			mode:  b.Uint32(a.st, stub.StatxMode) & 0xffff,
			uid:   b.Uint32(a.st, stub.StatxUID),
			gid:   b.Uint32(a.st, stub.StatxGID),
			dev:   unix.Mkdev(b.Uint32(a.st, stub.StatxRdevMajor), b.Uint32(a.st, stub.StatxRdevMinor)),
			size:  binary.LittleEndian.Uint64(b.Bytes(a.st)[statxSize:]),
		}
		if n := b.Value(a.n); n > 0 && n <= unix.PathMax {
			link, _, _ := bytes.Cut(b.Bytes(a.link)[:n], []byte{0})
			f.link = string(link)
		}
		files = append(files, f)
	}
	return files, nil
}

const (
	statxNlink = 16 // offsets in struct statx
	statxSize  = 40
)

// make makes the files of a directory of the copy.
func (c *copier) make(rel string, files []inode) error {
	b := c.batch()
	end := b.Label()
	dir := c.open(b, c.to, rel, unix.O_PATH|unix.O_DIRECTORY)
	b.OnErr(dir.Result(), unix.EXDEV, end) // another mount of the container
	for _, f := range files {
		c.makeOne(b, rel, dir, f)
	}
	b.Close(dir)
	b.Mark(end)
	return c.s.Do(b)
}

func (c *copier) makeOne(b *stub.Batch, rel string, dir stub.FD, f inode) {
	next := b.Label()
	if f.links > 1 && !f.is(unix.S_IFDIR) {
		if first, ok := c.first[f.id]; ok {
			linked := b.Call(unix.SYS_LINKAT, c.to.Arg(), b.String(first).Arg(), dir.Arg(), b.String(f.name).Arg(), stub.Int(0))
			b.Note(path.Join(rel, f.name))
			b.OnOK(linked, next)
			b.Ignore(linked, 0) // the first was a mount point, and not copied; or this one is
		} else {
			c.first[f.id] = path.Join(rel, f.name)
		}
	}
	var made stub.Result
	switch f.mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		b.Mark(next)
		return // nobody listens to a copy
	case unix.S_IFLNK:
		made = symlinkat(b, f.link, dir, f.name)
	case unix.S_IFDIR:
		made = mkdirat(b, dir, f.name, f.mode&0o7777)
	case unix.S_IFREG:
		made = mknodat(b, dir, f.name, unix.S_IFREG|0o600, 0)
	default:
		made = mknodat(b, dir, f.name, f.mode, f.dev)
	}
	b.OnErr(made, unix.EEXIST, next) // a mount point
	if f.is(unix.S_IFREG) && f.size > 0 {
		c.contents(b, rel, dir, f)
	}
	// Ids that the user namespace does not have can't be given to a file.
	b.Ignore(fchownat(b, dir, f.name, f.uid, f.gid), unix.EINVAL)
	if !f.is(unix.S_IFLNK) {
		// After chown, which takes the set-user-ID bit away.
		b.Call(unix.SYS_FCHMODAT, dir.Arg(), b.String(f.name).Arg(), stub.Int(f.mode&0o7777))
	}
	b.Mark(next)
}

// contents copies the contents of a file, as much as it had when it was looked at.
func (c *copier) contents(b *stub.Batch, rel string, dir stub.FD, f inode) {
	const most = 0x7ffff000 // that sendfile(2) copies at once
	in := c.open(b, c.from, path.Join(rel, f.name), unix.O_RDONLY|unix.O_NONBLOCK)
	out := b.Openat(dir, f.name, unix.O_WRONLY|unix.O_NOFOLLOW, 0)
	for left := f.size; left > 0; {
		n := min(left, most)
		got := b.Call(unix.SYS_SENDFILE, out.Arg(), in.Arg(), stub.Int(0), stub.Int(n))
		b.Note(path.Join(rel, f.name))
		b.Assert(got.Arg(), ^uint64(0), n, unix.ENOSPC, "copy of "+path.Join(rel, f.name))
		left -= n
	}
	b.Close(in)
	b.Close(out)
}
