package rootfs

import (
	"fmt"
	"path"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/sentry/errno"
)

// cover makes the paths that are to be masked or read-only so, where they exist.
func (m *Mounts) cover() error {
	v := m.Kernel.VFS()
	for i, p := range m.Spec.Linux.ReadonlyPaths {
		at := m.at(path.Clean("/" + p))
		if there, _ := m.exists(at); !there {
			continue
		}
		if err := v.BindAt(m.ctx, m.creds, at, at, true); err != nil {
			return errno.InField(fmt.Sprintf("linux.readonlyPaths[%d] %q", i, p), err)
		}
		if err := m.freeze(at); err != nil {
			return errno.InField(fmt.Sprintf("linux.readonlyPaths[%d] %q", i, p), err)
		}
	}
	for i, p := range m.Spec.Linux.MaskedPaths {
		if err := m.mask(m.at(path.Clean("/" + p))); err != nil {
			return errno.InField(fmt.Sprintf("linux.maskedPaths[%d] %q", i, p), err)
		}
	}
	return nil
}

// freeze makes the mount at a path read-only.
func (m *Mounts) freeze(at *vfs.PathOperation) error {
	d, err := m.Kernel.VFS().GetDentryAt(m.ctx, m.creds, at, &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer d.DecRef(m.ctx)
	return m.Kernel.VFS().SetMountReadOnly(d.Mount(), true)
}

// mask covers a directory with an empty one and any other file with the null device, as in native isolation, or with an
// empty file where /dev is none of the kernel's.
func (m *Mounts) mask(at *vfs.PathOperation) error {
	v := m.Kernel.VFS()
	st, err := v.StatAt(m.ctx, m.creds, at, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return nil // there is nothing to mask
	}
	opts := &vfs.MountOptions{ReadOnly: true, Flags: vfs.MountFlags{NoSUID: true, NoDev: true, NoExec: true},
		GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}}
	if linux.FileMode(st.Mode).IsDir() {
		_, err := v.MountAt(m.ctx, m.creds, "tmpfs", at, tmpfs.Name, opts)
		return err
	}
	if null := m.at("/dev/null"); m.isNull(null) {
		if err := v.BindAt(m.ctx, m.creds, null, at, false); err != nil {
			return err
		}
		return m.freeze(at)
	}
	opts.GetFilesystemOptions.InternalData = tmpfs.FilesystemOpts{RootFileType: linux.S_IFREG}
	opts.GetFilesystemOptions.Data = "mode=444"
	_, err = v.MountAt(m.ctx, m.creds, "tmpfs", at, tmpfs.Name, opts)
	return err
}

// isNull tells whether the null device is at a path.
func (m *Mounts) isNull(at *vfs.PathOperation) bool {
	st, err := m.Kernel.VFS().StatAt(m.ctx, m.creds, at, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	return err == nil && linux.FileMode(st.Mode).FileType() == linux.S_IFCHR && st.RdevMajor == 1 && st.RdevMinor == 3
}
