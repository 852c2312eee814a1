package rootfs

import (
	"gvisor.dev/gvisor/pkg/sentry/devices/memdev"
	"gvisor.dev/gvisor/pkg/sentry/devices/ttydev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// RegisterTypes makes the file systems known, to mount(2) of the container's programs, too, where Linux lets root of
// a user namespace mount them.
func RegisterTypes(k *kernel.Kernel) error {
	v := k.VFS()
	users := &vfs.RegisterFilesystemTypeOptions{AllowUserMount: true, AllowUserList: true}
	v.MustRegisterFilesystemType(gofer.Name, &gofer.FilesystemType{}, &vfs.RegisterFilesystemTypeOptions{})
	v.MustRegisterFilesystemType(cgroup2fs.FilesystemType{}.Name(), &cgroup2fs.FilesystemType{}, users)
	v.MustRegisterFilesystemType(devpts.Name, &devpts.FilesystemType{}, users)
	v.MustRegisterFilesystemType(overlay.Name, &overlay.FilesystemType{}, users)
	v.MustRegisterFilesystemType(proc.Name, &proc.FilesystemType{}, users)
	v.MustRegisterFilesystemType(sys.Name, &sys.FilesystemType{}, users)
	v.MustRegisterFilesystemType(tmpfs.Name, &tmpfs.FilesystemType{}, users)
	v.MustRegisterFilesystemType(mqfs.Name, &mqfs.FilesystemType{}, users)
	if err := memdev.Register(v); err != nil {
		return err
	}
	return ttydev.Register(v)
}

// kernelTypes are the names of file systems whose name in config.json isn't the kernel's.
var kernelTypes = map[string]string{"mqueue": mqfs.Name, "cgroup": "cgroup2", "sysfs": sys.Name}
