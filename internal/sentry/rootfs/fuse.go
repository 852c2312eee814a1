package rootfs

import (
	gocontext "context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/fuse"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"
)

const fuseMinor = 229 // of /dev/fuse, whose major number is linux.MISC_MAJOR

// isFUSE tells whether a device of the configuration is the one that servers of FUSE file systems open.
func isFUSE(d specs.LinuxDevice) bool { return d.Major == linux.MISC_MAJOR && d.Minor == fuseMinor }

// fuseContainers are those that have the device, by their ids. A process has one kernel.
var fuseContainers sync.Map

// lendFUSE has the container's programs mount file systems that others of them serve, if its configuration has the device. A
// kernel in which none has it knows neither the device nor the type.
func (c *Config) lendFUSE() {
	if !c.mayFUSE() {
		return
	}
	// What fails is what was done for another container, or before a checkpoint.
	v := c.Kernel.VFS()
	_ = v.RegisterFilesystemType(fuse.Name, &fuseType{}, &vfs.RegisterFilesystemTypeOptions{AllowUserMount: true, AllowUserList: true})
	_ = v.RegisterDevice(vfs.CharDevice, linux.MISC_MAJOR, fuseMinor, &fuseDevice{},
		&vfs.RegisterDeviceOptions{GroupName: "misc", Pathname: "fuse", FilePerms: 0o666})
}

// mayFUSE tells whether the configuration has the device, and keeps that in mind.
func (c *Config) mayFUSE() bool {
	if !slices.ContainsFunc(c.Spec.Linux.Devices, isFUSE) {
		fuseContainers.Delete(c.ID)
		return false
	}
	fuseContainers.Store(c.ID, true)
	return true
}

// fuseType is the type for the containers that have the device.
type fuseType struct{ fuse.FilesystemType }

// GetFilesystem implements vfs.FilesystemType. Of itself the type takes any file of the host's for a server, too, such as a standard
// stream: this kernel would wait in read(2) of it, where nothing interrupts it, and change its mode for all who have it. (A program
// that puts such a file in the place of a descriptor that it doesn't know yet, at the right moment, harms its own sandbox.)
func (t *fuseType) GetFilesystem(ctx context.Context, v *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	task := kernel.TaskFromContext(ctx)
	if task == nil {
		return nil, nil, linuxerr.EINVAL
	}
	if _, ok := fuseContainers.Load(task.ContainerID()); !ok {
		return nil, nil, linuxerr.ENODEV
	}
	options := strings.Split(opts.Data, ",")
	at := len(options) - 1 // of the last, which counts for the type: all before it are whatever a program likes
	for at >= 0 && !strings.HasPrefix(options[at], "fd=") {
		at--
	}
	if at < 0 {
		return nil, nil, linuxerr.EINVAL
	}
	fd, err := strconv.ParseInt(options[at][len("fd="):], 10, 32)
	if err != nil {
		return nil, nil, linuxerr.EINVAL
	}
	file := task.GetFile(int32(fd))
	if file == nil {
		return nil, nil, linuxerr.EINVAL
	}
	defer file.DecRef(ctx)
	f, ok := file.Impl().(*fuseFile)
	if !ok || f.served.Swap(true) { // one device serves one file system, as in Linux
		return nil, nil, linuxerr.EINVAL
	}
	// The type looks for its own device among the program's descriptors.
	own, err := task.NewFDFrom(0, f.own, kernel.FDFlags{CloseOnExec: true})
	if err != nil {
		f.served.Store(false)
		return nil, nil, err
	}
	options[at] = fmt.Sprint("fd=", own)
	opts.Data = strings.Join(options, ",")
	fs, root, err := t.FilesystemType.GetFilesystem(ctx, v, creds, source, opts)
	if file := task.FDTable().Remove(task, own); file != nil {
		file.DecRef(ctx)
	}
	if err != nil {
		f.served.Store(false)
		return nil, nil, err
	}
	fuseServers.Add(1)
	fs.Init(v, t, &fuseFilesystem{fs.Impl(), f.device})
	return fs, root, nil
}

// fuseFilesystem is a file system whose server is told when it is mounted nowhere any more: of itself it would wait for ever.
type fuseFilesystem struct {
	vfs.FilesystemImpl
	device *fuse.DeviceFD
}

// Release implements vfs.FilesystemImpl.
func (f *fuseFilesystem) Release(ctx context.Context) {
	f.FilesystemImpl.Release(ctx)
	f.device.Release(ctx)
	fuseServers.Add(-1)
}

// A kernel is saved that knows the type, and none in which it is mounted.

// StateTypeName implements state.Type.
func (*fuseType) StateTypeName() string { return "hull/internal/sentry/rootfs.fuseType" }

// StateFields implements state.Type.
func (*fuseType) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*fuseType) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (*fuseType) StateLoad(gocontext.Context, state.Source) {}

func init() { state.Register((*fuseType)(nil)) }
