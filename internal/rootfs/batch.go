package rootfs

import (
	"strconv"

	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// System calls that only this package uses, as functions on a batch.

func mkdirat(b *stub.Batch, dir stub.FD, name string, mode uint32) stub.Result {
	r := b.Call(unix.SYS_MKDIRAT, dir.Arg(), b.String(name).Arg(), stub.Int(mode))
	b.Note(strconv.Quote(name))
	return r
}

func mknodat(b *stub.Batch, dir stub.FD, name string, mode uint32, dev uint64) stub.Result {
	r := b.Call(unix.SYS_MKNODAT, dir.Arg(), b.String(name).Arg(), stub.Int(mode), stub.Int(dev))
	b.Note(strconv.Quote(name))
	return r
}

func fchownat(b *stub.Batch, dir stub.FD, name string, uid, gid uint32) stub.Result {
	r := b.Call(unix.SYS_FCHOWNAT, dir.Arg(), b.String(name).Arg(), stub.Int(uid), stub.Int(gid),
		stub.Int(unix.AT_SYMLINK_NOFOLLOW))
	b.Note(strconv.Quote(name))
	return r
}

func symlinkat(b *stub.Batch, target string, dir stub.FD, name string) stub.Result {
	r := b.Call(unix.SYS_SYMLINKAT, b.String(target).Arg(), dir.Arg(), b.String(name).Arg())
	b.Note(strconv.Quote(name))
	return r
}

func unlinkat(b *stub.Batch, dir stub.FD, name string) stub.Result {
	r := b.Call(unix.SYS_UNLINKAT, dir.Arg(), b.String(name).Arg(), stub.Int(0))
	b.Note(strconv.Quote(name))
	return r
}

func fchdir(b *stub.Batch, fd stub.FD) stub.Result { return b.Call(unix.SYS_FCHDIR, fd.Arg()) }

func dup3(b *stub.Batch, fd, to stub.FD) stub.Result {
	return b.Call(unix.SYS_DUP3, fd.Arg(), to.Arg(), stub.Int(unix.O_CLOEXEC))
}

// fileSystem returns the type of the file system of fd, as of statfs(2).
func fileSystem(b *stub.Batch, fd stub.FD) stub.Result { return b.Load(b.Fstatfs(fd), 0) }

// fileType returns stx_mode and the two zero bytes behind it. Masked with S_IFMT it is the file's type.
func fileType(b *stub.Batch, fd stub.FD) stub.Result { return b.Load(b.Statx(fd), stub.StatxMode) }

// jumpIf jumps to l if a&mask is want.
func jumpIf(b *stub.Batch, a stub.Arg, mask, want uint64, l stub.Label) {
	r := b.Assert(a, mask, want, unix.EINVAL, "")
	b.OnOK(r, l)
	b.Ignore(r, 0)
}

// fail ends the batch with errno.
func fail(b *stub.Batch, errno unix.Errno, what string) { b.Assert(stub.Int(0), 0, 1, errno, what) }

const all = ^uint64(0)
