package rootfs

import (
	gocontext "context"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/fuse"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"
)

// fuseDevice is /dev/fuse. It passes on what the kernel's own device and a server say to each other, with what the kernel takes
// otherwise than Linux put right.
type fuseDevice struct{}

// ownFUSE has the kernel's own device, which would have the number of ours.
var ownFUSE = sync.OnceValues(func() (*vfs.VirtualFilesystem, error) {
	v := new(vfs.VirtualFilesystem)
	if err := v.Init(context.Background()); err != nil {
		return nil, err
	}
	return v, fuse.Register(v)
})

// Open implements vfs.Device.
func (fuseDevice) Open(ctx context.Context, mnt *vfs.Mount, d *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	own, err := ownFUSE()
	if err != nil {
		return nil, err
	}
	file, err := own.OpenDeviceSpecialFile(ctx, mnt, d, vfs.CharDevice, linux.MISC_MAJOR, fuseMinor, &opts)
	if err != nil {
		return nil, err
	}
	f := &fuseFile{own: file, device: file.Impl().(*fuse.DeviceFD), asked: make(map[uint64]linux.FUSEOpcode)}
	if err := f.vfsfd.Init(f, opts.Flags, auth.CredentialsFromContext(ctx), mnt, d,
		&vfs.FileDescriptionOptions{UseDentryMetadata: true, SpecialFile: true}); err != nil {
		file.DecRef(ctx)
		return nil, err
	}
	fuseServers.Add(1)
	return &f.vfsfd, nil
}

// fuseServers is how many open devices there are, and mounted file systems whose servers are programs.
var fuseServers atomic.Int64

// ServesFUSE tells whether a program has the device open, or a file system is mounted that one serves.
func ServesFUSE() bool { return fuseServers.Load() > 0 }

// fuseFile is an open device.
type fuseFile struct {
	vfsfd vfs.FileDescription
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.NoLockFD

	own    *vfs.FileDescription // of the kernel's own device
	device *fuse.DeviceFD       // which is that
	served atomic.Bool          // it has been mounted

	mu    sync.Mutex
	asked map[uint64]linux.FUSEOpcode // by number: requests whose answers are looked at
}

// Release implements vfs.FileDescriptionImpl.
func (f *fuseFile) Release(ctx context.Context) {
	f.own.DecRef(ctx)
	fuseServers.Add(-1)
}

// Lengths and places in messages, include/uapi/linux/fuse.h.
const (
	fuseInLen, fuseOutLen    = 40, 16
	fuseOpcodeAt, fuseUnique = 4, 8
	fuseErrorAt              = 4
	fuseInitFlagsAt          = fuseInLen + 12
	fuseMaxRead              = 2 << 20 // more than a request has
)

// Read implements vfs.FileDescriptionImpl: of requests.
func (f *fuseFile) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	if f.device.Readiness(waiter.ReadableEvents|waiter.EventErr) == 0 {
		return 0, linuxerr.ErrWouldBlock // without a buffer
	}
	buf := make([]byte, min(dst.NumBytes(), fuseMaxRead))
	n, err := f.device.Read(ctx, usermem.BytesIOSequence(buf), opts)
	if linuxerr.Equals(linuxerr.EPERM, err) && f.served.Load() {
		return 0, linuxerr.ENODEV
	}
	if err != nil {
		return 0, err
	}
	buf = buf[:n]
	if n >= fuseInLen {
		switch request := linux.FUSEOpcode(binary.NativeEndian.Uint32(buf[fuseOpcodeAt:])); request {
		case linux.FUSE_INIT:
			if n >= fuseInitFlagsAt+4 {
				// Who applies the umask makes no difference, and some servers want to.
				flags := binary.NativeEndian.Uint32(buf[fuseInitFlagsAt:])
				binary.NativeEndian.PutUint32(buf[fuseInitFlagsAt:], flags|linux.FUSE_DONT_MASK)
			}
		case linux.FUSE_ACCESS, linux.FUSE_FLUSH, linux.FUSE_LOOKUP:
			f.mu.Lock()
			f.asked[binary.NativeEndian.Uint64(buf[fuseUnique:])] = request
			f.mu.Unlock()
		}
	}
	copied, err := dst.CopyOut(ctx, buf)
	return int64(copied), err
}

// Write implements vfs.FileDescriptionImpl: of answers.
func (f *fuseFile) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	var start [fuseOutLen + 8]byte
	n, err := src.CopyIn(ctx, start[:min(int64(len(start)), src.NumBytes())])
	if err != nil || n < fuseOutLen {
		return f.device.Write(ctx, src, opts) // which says what is wrong
	}
	number := binary.NativeEndian.Uint64(start[fuseUnique:])
	f.mu.Lock()
	request, ok := f.asked[number]
	delete(f.asked, number)
	f.mu.Unlock()
	if !ok {
		return f.device.Write(ctx, src, opts)
	}
	have := unix.Errno(-int32(binary.NativeEndian.Uint32(start[fuseErrorAt:])))
	errno := asLinux(request, have, start[fuseOutLen:n])
	if errno == have {
		return f.device.Write(ctx, src, opts)
	}
	binary.NativeEndian.PutUint32(start[:], fuseOutLen)
	binary.NativeEndian.PutUint32(start[fuseErrorAt:], uint32(-int32(errno)))
	if _, err := f.device.Write(ctx, usermem.BytesIOSequence(start[:fuseOutLen]), opts); err != nil {
		return 0, err
	}
	return src.NumBytes(), nil
}

// asLinux returns what Linux takes for the error of an answer: a server that knows no access has no objections, one that knows no
// flush has nothing to do, and there is no file without a number.
func asLinux(request linux.FUSEOpcode, errno unix.Errno, rest []byte) unix.Errno {
	switch {
	case request != linux.FUSE_LOOKUP && errno == unix.ENOSYS:
		return 0
	case request == linux.FUSE_LOOKUP && errno == 0 && len(rest) == 8 && binary.NativeEndian.Uint64(rest) == 0:
		return unix.ENOENT
	}
	return errno
}

// Readiness implements waiter.Waitable.
func (f *fuseFile) Readiness(mask waiter.EventMask) waiter.EventMask { return f.device.Readiness(mask) }

// EventRegister implements waiter.Waitable.
func (f *fuseFile) EventRegister(e *waiter.Entry) error { return f.device.EventRegister(e) }

// EventUnregister implements waiter.Waitable.
func (f *fuseFile) EventUnregister(e *waiter.Entry) { f.device.EventUnregister(e) }

// Epollable implements vfs.FileDescriptionImpl.
func (f *fuseFile) Epollable() bool { return true }

// Ioctl implements vfs.FileDescriptionImpl. FUSE_DEV_IOC_CLONE is what there would be; servers do without.
func (f *fuseFile) Ioctl(context.Context, usermem.IO, uintptr, arch.SyscallArguments) (uintptr, error) {
	return 0, linuxerr.ENOTTY
}

// A kernel is saved that knows the device, and none in which it is open.

// StateTypeName implements state.Type.
func (*fuseDevice) StateTypeName() string { return "hull/internal/sentry/rootfs.fuseDevice" }

// StateFields implements state.Type.
func (*fuseDevice) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*fuseDevice) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (*fuseDevice) StateLoad(gocontext.Context, state.Source) {}

func init() { state.Register((*fuseDevice)(nil)) }
