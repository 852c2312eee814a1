package rootfs

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/mnt"
	"hull/internal/sentry/errno"
)

// Tree is a part of the host's files: a mount without what is mounted below.
type Tree struct {
	FD    int
	Below string // where it is mounted, if it was found below the tree before it; or ""

	id       checkpoint.ResourceID // by which it is found again when the sandbox is restored
	readonly bool
}

// mountRoot mounts the donated root.
func (m *Mounts) mountRoot() (err error) {
	v := m.Kernel.VFS()
	t := m.nextTree()
	var st unix.Stat_t
	if err := unix.Fstat(t.FD, &st); err != nil {
		return err
	}
	overlaid := m.Overlay && !m.Spec.Root.Readonly
	opts, err := m.donated(t, !m.SharedRoot)
	if err != nil {
		return err
	}
	mount, err := v.MountDisconnected(m.ctx, m.creds, "root", gofer.Name, opts)
	if err == nil && overlaid {
		mount, err = m.overlay(mount, &st)
	}
	if err != nil {
		return err
	}
	defer mount.DecRef(m.ctx) // its place has one
	below := m.ns.Root(m.ctx)
	defer below.DecRef(m.ctx)
	if err := v.ConnectMountAt(m.ctx, m.creds, mount, &vfs.PathOperation{Root: below, Start: below}); err != nil {
		return err
	}
	if m.Spec.Root.Readonly {
		m.readonly = append(m.readonly, mount)
	}
	m.root = m.ns.Root(m.ctx)
	if err := m.keepMountPoints(); err != nil {
		return err
	}
	return m.mountBelow(&mnt.Mount{}, m.ExclusiveMounts)
}

// keepMountPoints has the container find busy what is a mount point on the host, by mounting each on itself. The host's kernel
// keeps a directory or file from being removed or renamed if something is mounted there in the namespace of who wants that, and
// the root is mounted in none: it would take the mount away with all that it shows, and a directory that looks full as readily as
// it is empty below.
func (m *Mounts) keepMountPoints() error {
	for _, p := range m.MountPoints {
		at := m.at(p)
		at.FollowFinalSymlink = false
		if there, _ := m.exists(at); !there {
			continue // gone from the host since it was planned
		}
		if err := m.Kernel.VFS().BindAt(m.ctx, m.creds, at, at, false); err != nil {
			return fmt.Errorf("mount point %q: %w", p, errno.Of(err))
		}
	}
	return nil
}

// overlay mounts a file system over another, which it takes over, that keeps what is written. st is of the directory below.
func (m *Mounts) overlay(lower *vfs.Mount, st *unix.Stat_t) (*vfs.Mount, error) {
	v := m.Kernel.VFS()
	defer lower.DecRef(m.ctx) // which the overlay has a copy of
	// As large as what it is kept in, as a disk is.
	upper, err := v.MountDisconnected(m.ctx, m.creds, "none", tmpfs.Name, &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{
		InternalMount: true,
		Data:          fmt.Sprintf("mode=%o,uid=%d,gid=%d", st.Mode&0o7777, st.Uid, st.Gid),
		InternalData:  tmpfs.FilesystemOpts{MemoryFile: m.Written, DisableDefaultSizeLimit: true},
	}})
	if err != nil {
		return nil, err
	}
	defer upper.DecRef(m.ctx)
	return v.MountDisconnected(m.ctx, m.creds, "root", overlay.Name, &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{
		InternalMount: true,
		InternalData: overlay.FilesystemOptions{
			UpperRoot:  vfs.MakeVirtualDentry(upper, upper.Root()),
			LowerRoots: []vfs.VirtualDentry{vfs.MakeVirtualDentry(lower, lower.Root())},
		},
	}})
}

// trees returns the donated trees, with what tells one from the others, whoever mounts them: a sandbox that is made, or one that is
// restored.
func (c *Config) trees() ([]Tree, error) {
	trees := slices.Clone(*c.Files)
	at := -1 // among the mounts of the configuration
	var parent mnt.Mount
	for i := range trees {
		t := &trees[i]
		path := "root"
		switch {
		case i == 0:
			t.readonly = c.Spec.Root.Readonly || c.Overlay
		case t.Below != "":
			t.readonly = attributes(&mnt.Mount{Attr: parent.Rec, Rec: parent.Rec})&unix.MOUNT_ATTR_RDONLY != 0
		default:
			for parent = (mnt.Mount{}); !parent.Bind; {
				if at++; at == len(c.Spec.Mounts) {
					return nil, errors.New("more trees than bind mounts")
				}
				var err error
				if parent, err = mnt.Parse(at, c.Spec.Mounts[at], c.Bundle); err != nil {
					return nil, err
				}
			}
			t.readonly = attributes(&parent)&unix.MOUNT_ATTR_RDONLY != 0
		}
		if at >= 0 {
			path = fmt.Sprintf("mounts[%d]", at)
		}
		t.id = checkpoint.ResourceID{ContainerName: c.Name, Path: path + ":" + t.Below}
	}
	return trees, nil
}

// Restore serves the donated trees to a sandbox that is restored, and adds the descriptors by which its file systems find them again.
func (c *Config) Restore(files map[checkpoint.ResourceID]int) error {
	trees, err := c.trees()
	if err != nil {
		return err
	}
	c.mayFUSE() // the type and the device are in the image
	for _, t := range trees {
		if files[t.id], err = c.Server.Serve(t.FD, t.readonly); err != nil {
			return err
		}
	}
	return nil
}

// nextTree returns the next of the donated trees. It is the container's until donated has it served.
func (m *Mounts) nextTree() Tree { return (*m.Files)[0] }

// mountBelow mounts the trees that were found on the host below the one before them.
func (m *Mounts) mountBelow(parent *mnt.Mount, exclusive bool) error {
	for len(*m.Files) > 0 && (*m.Files)[0].Below != "" {
		t := m.nextTree()
		below := mnt.Mount{Destination: t.Below, Bind: true, Attr: parent.Rec, Rec: parent.Rec}
		if err := m.mountTree(&below, t, exclusive); err != nil {
			return fmt.Errorf("%q: %w", t.Below, err)
		}
	}
	return nil
}

// donated returns the options that mount what a donated descriptor is open at. Nobody but the container changes its root;
// directories that it shares with the host are looked at again each time.
func (m *Mounts) donated(t Tree, exclusive bool) (*vfs.MountOptions, error) {
	socket, err := m.Server.Serve(t.FD, t.readonly)
	if err != nil {
		return nil, err
	}
	*m.Files = (*m.Files)[1:]
	data := fmt.Sprintf("trans=fd,rfdno=%d,wfdno=%d,directfs", socket, socket)
	if !m.Fifos {
		data += ",disable_fifo_open"
	}
	if exclusive {
		data += fmt.Sprintf(",overlayfs_stale_read,dcache=%d", m.many)
	} else {
		data += fmt.Sprintf(",cache=remote_revalidating,dcache=%d", m.few)
	}
	return &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, Data: data,
		InternalData: gofer.InternalFilesystemOptions{UniqueID: t.id}}}, nil
}

// mountTree mounts what a donated descriptor is open at.
func (m *Mounts) mountTree(p *mnt.Mount, t Tree, exclusive bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(t.FD, &st); err != nil {
		return err
	}
	if err := m.makePath(&p.Destination, st.Mode&unix.S_IFMT != unix.S_IFDIR); err != nil {
		return err
	}
	opts, err := m.donated(t, exclusive)
	if err != nil {
		return err
	}
	opts.Flags = flags(p)
	mount, err := m.Kernel.VFS().MountDisconnected(m.ctx, m.creds, "none", gofer.Name, opts)
	if err != nil {
		return err
	}
	defer mount.DecRef(m.ctx)
	return m.attach(p, mount)
}
