package rootfs

import (
	"fmt"
	"io"
	"path"
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"hull/internal/mnt"
)

// copier fills a mount that is attached nowhere yet with what is in a directory of the container: the option tmpcopyup. It enters
// no directory that is mounted below and follows no link.
type copier struct {
	*Mounts
	from, to func(rel string) *vfs.PathOperation
	device   [2]uint32
	first    map[inode]string // of files with several names: that of the copy
	buf      []byte
}

// inode tells one file from the others: among those to be copied may be one that is mounted there.
type inode struct {
	major, minor uint32
	ino          uint64
}

// copyUp fills a mount with what it is going to cover.
func (m *Mounts) copyUp(p *mnt.Mount, mount *vfs.Mount) error {
	root := vfs.MakeVirtualDentry(mount, mount.Root())
	below := func(root vfs.VirtualDentry, start, rel string) *vfs.PathOperation {
		return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(path.Join(start, rel))}
	}
	c := &copier{
		Mounts: m, first: make(map[inode]string), buf: make([]byte, 64<<10),
		from: func(rel string) *vfs.PathOperation { return below(m.root, p.Destination, rel) },
		to:   func(rel string) *vfs.PathOperation { return below(root, "/", rel) },
	}
	top, err := c.stat("")
	if err != nil {
		return err
	}
	c.device = [2]uint32{top.DevMajor, top.DevMinor}
	return c.dir("")
}

func (c *copier) stat(rel string) (linux.Statx, error) {
	return c.Kernel.VFS().StatAt(c.ctx, c.creds, c.from(rel), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
}

// dir copies what is in a directory.
func (c *copier) dir(rel string) error {
	d, err := c.Kernel.VFS().OpenAt(c.ctx, c.creds, c.from(rel), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_DIRECTORY})
	if err != nil {
		return err
	}
	var names []string
	err = d.IterDirents(c.ctx, vfs.IterDirentsCallbackFunc(func(e vfs.Dirent) error {
		if e.Name != "." && e.Name != ".." {
			names = append(names, e.Name)
		}
		return nil
	}))
	d.DecRef(c.ctx)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := c.file(path.Join(rel, name)); err != nil {
			return fmt.Errorf("tmpcopyup %q: %w", path.Join(rel, name), err)
		}
	}
	return nil
}

// file copies a file of whatever type. Sockets are left out: who listens there doesn't listen at a copy.
func (c *copier) file(rel string) error {
	st, err := c.stat(rel)
	if err != nil {
		return err
	}
	v, mode := c.Kernel.VFS(), linux.FileMode(st.Mode)
	kind := mode.FileType()
	if st.Nlink > 1 && kind != linux.S_IFDIR {
		id := inode{st.DevMajor, st.DevMinor, st.Ino}
		if first, ok := c.first[id]; ok {
			return v.LinkAt(c.ctx, c.creds, c.to(first), c.to(rel))
		}
		c.first[id] = rel
	}
	switch kind {
	case linux.S_IFDIR:
		err = v.MkdirAt(c.ctx, c.creds, c.to(rel), &vfs.MkdirOptions{Mode: 0o700})
		if err == nil && [2]uint32{st.DevMajor, st.DevMinor} == c.device {
			err = c.dir(rel)
		}
	case linux.S_IFREG:
		err = c.contents(rel)
	case linux.S_IFLNK:
		var target string
		if target, err = v.ReadlinkAt(c.ctx, c.creds, c.from(rel)); err == nil {
			err = v.SymlinkAt(c.ctx, c.creds, c.to(rel), target)
		}
	case linux.S_IFSOCK:
		return nil
	default:
		err = v.MknodAt(c.ctx, c.creds, c.to(rel), &vfs.MknodOptions{Mode: mode, DevMajor: st.RdevMajor, DevMinor: st.RdevMinor})
	}
	if err != nil {
		return err
	}
	set := linux.Statx{Mask: linux.STATX_UID | linux.STATX_GID, UID: st.UID, GID: st.GID}
	if err := v.SetStatAt(c.ctx, c.creds, c.to(rel), &vfs.SetStatOptions{Stat: set}); err != nil || kind == linux.S_IFLNK {
		return err
	}
	// After the owner, with whom set-user-ID bits go.
	set = linux.Statx{Mask: linux.STATX_MODE | linux.STATX_ATIME | linux.STATX_MTIME, Mode: st.Mode & 0o7777, Atime: st.Atime, Mtime: st.Mtime}
	return v.SetStatAt(c.ctx, c.creds, c.to(rel), &vfs.SetStatOptions{Stat: set})
}

func (c *copier) contents(rel string) error {
	v := c.Kernel.VFS()
	from, err := v.OpenAt(c.ctx, c.creds, c.from(rel), &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		return err
	}
	defer from.DecRef(c.ctx)
	to, err := v.OpenAt(c.ctx, c.creds, c.to(rel), &vfs.OpenOptions{Flags: linux.O_WRONLY | linux.O_CREAT | linux.O_EXCL, Mode: 0o600})
	if err != nil {
		return err
	}
	defer to.DecRef(c.ctx)
	for {
		n, err := from.Read(c.ctx, usermem.BytesIOSequence(c.buf), vfs.ReadOptions{})
		for done := int64(0); done < n; {
			w, werr := to.Write(c.ctx, usermem.BytesIOSequence(c.buf[done:n]), vfs.WriteOptions{})
			if werr != nil {
				return werr
			}
			done += w
		}
		if err == io.EOF || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
