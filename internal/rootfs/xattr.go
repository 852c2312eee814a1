package rootfs

import (
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// xattr is an extended attribute: an access control list, a file's capabilities, or whatever somebody keeps there.
type xattr struct {
	name  string
	value []byte
}

// xattrs finds out the extended attributes of regular files and directories. Others can have none but a label's.
func (c *copier) xattrs(rel string, files []inode) error {
	type asked struct {
		file *inode
		fd   stub.FD
		size stub.Result
	}
	var all []asked
	b := c.batch()
	for i := range files {
		f := &files[i]
		if !f.is(unix.S_IFREG) && !f.is(unix.S_IFDIR) {
			continue
		}
		next := b.Label()
		a := asked{file: f, fd: c.openFile(b, rel, f)}
		b.OnErr(a.fd.Result(), 0, next)
		a.size = b.Call(unix.SYS_FLISTXATTR, a.fd.Arg(), stub.Int(0), stub.Int(0))
		b.Ignore(a.size, 0) // the file system has none
		b.Close(a.fd)
		b.Mark(next)
		all = append(all, a)
	}
	if err := c.s.Do(b); err != nil {
		return err
	}
	for _, a := range all {
		if b.Errno(a.fd.Result()) == 0 && b.Value(a.size) > 0 {
			if err := c.readXattrs(rel, a.file); err != nil {
				return err
			}
		}
	}
	return nil
}

// openFile opens a file of the original for reading: what O_PATH gives has no extended attributes.
func (c *copier) openFile(b *stub.Batch, rel string, f *inode) stub.FD {
	return c.open(b, c.from, path.Join(rel, f.name), unix.O_RDONLY|unix.O_NONBLOCK)
}

const (
	// xattrMax is the size of the longest value, and of the longest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX in
	// linux/limits.h).
	xattrMax = 64 << 10
	// xattrsMax is how much the values of one file may have together: some file systems have no bound.
	xattrsMax = 1 << 20
)

// readXattrs reads the extended attributes of a file that has some.
func (c *copier) readXattrs(rel string, f *inode) error {
	b := c.batch()
	fd := c.openFile(b, rel, f)
	list := b.Out(xattrMax)
	size := b.Call(unix.SYS_FLISTXATTR, fd.Arg(), list.Arg(), stub.Int(xattrMax))
	b.Note(path.Join(rel, f.name))
	b.Close(fd)
	if err := c.s.Do(b); err != nil {
		return err
	}
	n := max(0, min(b.Value(size), xattrMax))
	names := strings.Split(string(b.Bytes(list)[:n]), "\x00")
	names = slices.DeleteFunc(names, func(name string) bool {
		return name == "" || name == "security.selinux" // of the mount, see linux.mountLabel
	})
	const chunk = 32 // values of one batch
	total := 0
	for part := range slices.Chunk(names, chunk) {
		b := c.batch()
		fd := c.openFile(b, rel, f)
		values, sizes := make([]stub.Data, len(part)), make([]stub.Result, len(part))
		for i, name := range part {
			values[i] = b.Out(xattrMax)
			sizes[i] = b.Call(unix.SYS_FGETXATTR, fd.Arg(), b.String(name).Arg(), values[i].Arg(), stub.Int(xattrMax))
			b.Ignore(sizes[i], 0) // listed, and not for everybody
		}
		b.Close(fd)
		if err := c.s.Do(b); err != nil {
			return err
		}
		for i, name := range part {
			n := b.Value(sizes[i])
			if n < 0 || n > xattrMax {
				continue
			}
			if total += int(n); total > xattrsMax {
				return &fault.Error{Field: c.field, Step: "extended attributes of " + path.Join(rel, f.name), Err: unix.E2BIG}
			}
			f.xattrs = append(f.xattrs, xattr{name, slices.Clone(b.Bytes(values[i])[:n])})
		}
	}
	return nil
}

// setXattrs gives the copies in a directory their attributes. tmpfs knows those of users since Linux 6.6, and in a user
// namespace some of the kernel's modules can't be set: what can't be had there isn't copied.
func (c *copier) setXattrs(rel string, files []inode) error {
	for _, f := range files {
		if len(f.xattrs) == 0 {
			continue
		}
		b := c.batch()
		end := b.Label()
		fd := c.open(b, c.to, path.Join(rel, f.name), unix.O_RDONLY|unix.O_NONBLOCK)
		b.OnErr(fd.Result(), unix.EXDEV, end) // another mount of the container
		for _, x := range f.xattrs {
			set := b.Call(unix.SYS_FSETXATTR, fd.Arg(), b.String(x.name).Arg(), b.Const(x.value).Arg(), stub.Int(len(x.value)), stub.Int(0))
			b.Note(x.name + " of " + path.Join(rel, f.name))
			next, failed := b.Label(), b.Label()
			b.OnOK(set, next)
			b.OnErr(set, unix.EOPNOTSUPP, next)
			b.OnErr(set, 0, failed)
			b.Mark(failed)
			b.Assert(set.Arg(), ^uint64(0), ^uint64(unix.EPERM-1), unix.ENOSPC, "fsetxattr "+x.name+" of "+path.Join(rel, f.name))
			b.Mark(next)
		}
		b.Close(fd)
		b.Mark(end)
		if err := c.s.Do(b); err != nil {
			return err
		}
	}
	return nil
}
