package rootfs

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/sentry/errno"
)

// make makes a mount of one of the kernel's own file systems.
func (m *Mounts) make(p *mnt.Mount) (*vfs.Mount, error) {
	fsType, data := p.Type, p.Data
	if fsType == devpts.Name {
		// What Linux gives to the terminals, this kernel would give to the directory that they are in.
		data = nil
	}
	if name, ok := kernelTypes[fsType]; ok {
		fsType = name
	}
	opts := &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, Data: strings.Join(data, ",")}, Flags: flags(p)}
	return m.Kernel.VFS().MountDisconnected(m.ctx, m.creds, p.Source, fsType, opts)
}

// mount makes one mount of the configuration, which was made already if it is not of files of the host's.
func (m *Mounts) mount(p *mnt.Mount, made madeMount) error {
	if p.Bind {
		if err := m.mountTree(p, m.nextTree(), m.ExclusiveMounts); err != nil {
			return err
		}
		return m.mountBelow(p, m.ExclusiveMounts)
	}
	if err := m.makePath(&p.Destination, false); err != nil {
		return err
	}
	if made.error != nil {
		return made.error
	}
	if p.CopyUp {
		if err := m.copyUp(p, made.Mount); err != nil {
			return err
		}
	}
	return m.attach(p, made.Mount)
}

// flags are the attributes that the mount of p has from the start.
func flags(p *mnt.Mount) vfs.MountFlags {
	set := attributes(p)
	return vfs.MountFlags{
		NoExec:  set&unix.MOUNT_ATTR_NOEXEC != 0,
		NoSUID:  set&unix.MOUNT_ATTR_NOSUID != 0,
		NoDev:   set&unix.MOUNT_ATTR_NODEV != 0,
		NoATime: set&unix.MOUNT_ATTR_NOATIME != 0,
	}
}

// attach attaches a mount at the destination of p, which is there.
func (m *Mounts) attach(p *mnt.Mount, mount *vfs.Mount) error {
	if err := m.Kernel.VFS().ConnectMountAt(m.ctx, m.creds, mount, m.at(p.Destination)); err != nil {
		return err
	}
	if attributes(p)&unix.MOUNT_ATTR_RDONLY != 0 {
		m.readonly = append(m.readonly, mount)
	}
	return nil
}

// attributes are those that a mount has, of itself and as the first of a tree.
func attributes(p *mnt.Mount) uint64 { return p.Attr.Set&^p.Rec.Clear | p.Rec.Set }

// at is a path in the container's files. Links in it lead where they do for the container's programs.
func (m *Mounts) at(p string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: m.root, Start: m.root, Path: fspath.Parse(p), FollowFinalSymlink: true}
}

// makePath makes what is missing of *name, which becomes a mount point: in the memory of the kernel where the file system is
// one of the host's that can't be written to, else as in native isolation. Links lead where they do inside; *name is then
// where that is.
func (m *Mounts) makePath(name *string, file bool) error {
	v := m.Kernel.VFS()
	done, rest := "/", strings.Split(strings.Trim(path.Clean(*name), "/"), "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(done, rest[0])
		at := m.at(next)
		at.FollowFinalSymlink = false
		if target, err := v.ReadlinkAt(m.ctx, m.creds, at); err == nil {
			if links++; links > linux.MaxSymlinkTraversals {
				return &fault.Error{Step: fmt.Sprintf("make the mount point %q", *name), Err: unix.ELOOP}
			}
			if !path.IsAbs(target) {
				target = path.Join(done, target)
			}
			done, rest = "/", append(strings.Split(strings.Trim(path.Clean(target), "/"), "/"), rest[1:]...)
			continue
		}
		done, rest = next, rest[1:]
		if there, isDir := m.exists(at); there {
			if len(rest) == 0 && isDir == file {
				// As move_mount(2) has it. The kernel here would mount one on the other.
				return &fault.Error{Step: fmt.Sprintf("mount on %q", done), Err: unix.EINVAL, Hint: mnt.Mismatch}
			}
			continue
		}
		// Only directories can be made in memory there. One serves for a file, too: who looks finds the file that covers it, and
		// unlike mount(2) the kernel doesn't compare. In the list of its directory it has a directory's type.
		var err error
		asFile := file && len(rest) == 0
		if asFile {
			err = v.MknodAt(m.ctx, m.creds, at, &vfs.MknodOptions{Mode: linux.S_IFREG | 0o644})
		}
		if !asFile || err != nil && m.Spec.Root.Readonly {
			err = v.MkdirAt(m.ctx, m.creds, at, &vfs.MkdirOptions{Mode: 0o755, ForSyntheticMountpoint: m.Spec.Root.Readonly})
		}
		if err != nil {
			return &fault.Error{Step: fmt.Sprintf("make the mount point %q", done), Err: errno.Of(err)}
		}
	}
	*name = done
	return nil
}

// exists tells whether something is at a path, and whether that is a directory.
func (m *Mounts) exists(at *vfs.PathOperation) (there, isDir bool) {
	st, err := m.Kernel.VFS().StatAt(m.ctx, m.creds, at, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	return err == nil, err == nil && linux.FileMode(st.Mode).IsDir()
}

// BindConsole mounts a terminal on /dev/console. ctx is of the first process; pts is where that finds it.
func (c *Config) BindConsole(ctx context.Context, pts string) error {
	ns := vfs.MountNamespaceFromContext(ctx)
	defer ns.DecRef(ctx)
	m := &Mounts{Config: c, ctx: ctx, creds: auth.NewRootCredentials(c.Kernel.RootUserNamespace()), root: ns.Root(ctx)}
	defer m.root.DecRef(ctx)
	console := "/dev/console"
	if err := m.makePath(&console, true); err != nil {
		return err
	}
	return c.Kernel.VFS().BindAt(ctx, m.creds, m.at(pts), m.at(console), false)
}
