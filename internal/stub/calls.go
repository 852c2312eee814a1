package stub

import (
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"
)

// FD is a descriptor of the stub: a number, or what an earlier call of the same batch returned.
type FD struct{ arg Arg }

// Fd returns the descriptor with that number.
func Fd(n int) FD { return FD{Int(n)} }

// CWD is AT_FDCWD.
var CWD = Fd(unix.AT_FDCWD)

// FD returns the result as a descriptor.
func (r Result) FD() FD { return FD{r.Arg()} }

// Arg returns the descriptor as an argument.
func (fd FD) Arg() Arg { return fd.arg }

// result returns the entry that a descriptor comes from.
func (fd FD) result() Result { return Result(fd.arg.n) }

// Result returns the call that opens the descriptor; fd must have come from one.
func (fd FD) Result() Result {
	if fd.arg.kind != argResult {
		panic("bug: a descriptor's number, not a result")
	}
	return fd.result()
}

func (b *Batch) str(s string) Arg { return b.String(s).Arg() }

// Openat2 opens path below dir (openat2(2), Linux 5.6). EAGAIN, a rename that raced with the walk, is tried again.
func (b *Batch) Openat2(dir FD, path string, how unix.OpenHow) FD {
	r := b.Call(unix.SYS_OPENAT2, dir.arg, b.str(path), b.Const(Bytes(&how)).Arg(), Int(unix.SizeofOpenHow))
	b.Note(strconv.Quote(path))
	b.Retry(r, unix.EAGAIN)
	return r.FD()
}

// Openat opens path below dir without protection against symbolic links: for paths that no container controls.
func (b *Batch) Openat(dir FD, path string, flags int, mode uint32) FD {
	r := b.Call(unix.SYS_OPENAT, dir.arg, b.str(path), Int(flags|unix.O_CLOEXEC), Int(mode))
	b.Note(strconv.Quote(path))
	return r.FD()
}

// Close closes fd.
func (b *Batch) Close(fd FD) { b.Call(unix.SYS_CLOSE, fd.arg) }

// Dup3 duplicates a descriptor to a number.
func (b *Batch) Dup3(fd FD, to, flags int) { b.Call(unix.SYS_DUP3, fd.arg, Int(to), Int(flags)) }

// ExitOn has signals end the stub, with the status that a shell gives to who dies of them. They were blocked, and the
// first process of a pid namespace would ignore them. SIGIO does so only at the end of file of the socket. execve(2) takes
// it back.
func (b *Batch) ExitOn(signals ...unix.Signal) {
	// amd64 insists on a way to return from handlers; ours need none.
	const saRestorer, saRestart = 0x04000000, 0x10000000
	// struct sigaction of the kernel: handler, flags, restorer, mask.
	action := binary.LittleEndian.AppendUint64(nil, handler())
	action = binary.LittleEndian.AppendUint64(action, saRestorer|saRestart)
	action = append(action, make([]byte, 16)...)
	act := b.Const(action)
	mask := ^uint64(0)
	for _, s := range signals {
		b.Call(unix.SYS_RT_SIGACTION, Int(s), act.Arg(), Int(0), Int(8))
		mask &^= 1 << (s - 1)
	}
	b.BlockSignals(mask)
}

// Fsopen opens a context for a new mount of a file system (fsopen(2), Linux 5.2).
func (b *Batch) Fsopen(fstype string) FD {
	r := b.Call(unix.SYS_FSOPEN, b.str(fstype), Int(unix.FSOPEN_CLOEXEC))
	b.Note(fstype)
	return r.FD()
}

// FsconfigString sets a parameter of a file system.
func (b *Batch) FsconfigString(fs FD, key, value string) Result {
	r := b.Call(unix.SYS_FSCONFIG, fs.arg, Int(unix.FSCONFIG_SET_STRING), b.str(key), b.str(value), Int(0))
	b.Note(key + "=" + value)
	return r
}

// FsconfigFlag sets a parameter without a value.
func (b *Batch) FsconfigFlag(fs FD, key string) Result {
	r := b.Call(unix.SYS_FSCONFIG, fs.arg, Int(unix.FSCONFIG_SET_FLAG), b.str(key), Int(0), Int(0))
	b.Note(key)
	return r
}

// FsconfigCreate makes the file system's instance.
func (b *Batch) FsconfigCreate(fs FD, fstype string) Result {
	r := b.Call(unix.SYS_FSCONFIG, fs.arg, Int(unix.FSCONFIG_CMD_CREATE), Int(0), Int(0), Int(0))
	b.Note("create " + fstype)
	return r
}

// Fsmount makes a detached mount with attributes MOUNT_ATTR_* (fsmount(2), Linux 5.2).
func (b *Batch) Fsmount(fs FD, attr uint64, fstype string) FD {
	r := b.Call(unix.SYS_FSMOUNT, fs.arg, Int(unix.FSMOUNT_CLOEXEC), Int(attr))
	b.Note(fstype)
	return r.FD()
}

// OpenTree opens a path as a mount object; with OPEN_TREE_CLONE, a detached copy of it (open_tree(2), Linux 5.2).
func (b *Batch) OpenTree(dir FD, path string, flags uint) FD {
	r := b.Call(unix.SYS_OPEN_TREE, dir.arg, b.str(path), Int(flags|unix.OPEN_TREE_CLOEXEC))
	b.Note(strconv.Quote(path))
	return r.FD()
}

// MoveMount attaches the mount fd to the directory or file to, both descriptors (move_mount(2), Linux 5.2).
func (b *Batch) MoveMount(fd, to FD) Result {
	empty := b.str("")
	return b.Call(unix.SYS_MOVE_MOUNT, fd.arg, empty, to.arg, empty, Int(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// MountSetattr changes the mount fd (mount_setattr(2), Linux 5.12); flags may have AT_RECURSIVE.
func (b *Batch) MountSetattr(fd FD, flags uint, attr unix.MountAttr) Result {
	return b.Call(unix.SYS_MOUNT_SETATTR, fd.arg, b.str(""), Int(flags|unix.AT_EMPTY_PATH), b.Const(Bytes(&attr)).Arg(), Int(mountAttrSize))
}

// Mount is mount(2). An empty source, type or data is passed as NULL.
func (b *Batch) Mount(source, target, fstype string, flags uintptr, data string) Result {
	r := b.Call(unix.SYS_MOUNT, b.strOrNil(source), b.str(target), b.strOrNil(fstype), Int(flags), b.strOrNil(data))
	b.Note(strconv.Quote(target))
	return r
}

func (b *Batch) strOrNil(s string) Arg {
	if s == "" {
		return Int(0)
	}
	return b.str(s)
}

// Umount2 unmounts what is at path.
func (b *Batch) Umount2(path string, flags int) Result {
	r := b.Call(unix.SYS_UMOUNT2, b.str(path), Int(flags))
	b.Note(strconv.Quote(path))
	return r
}

// Fstatfs returns where the result of fstatfs(2) will be; its type is at offset 0.
func (b *Batch) Fstatfs(fd FD) Data {
	d := b.Out(120)
	b.Call(unix.SYS_FSTATFS, fd.arg, d.Arg())
	return d
}

// Offsets in struct statx, see Statx.
const (
	StatxMask      = 0
	StatxUID       = 20
	StatxGID       = 24
	StatxMode      = 28 // 16 bits
	StatxIno       = 32
	StatxRdevMajor = 128
	StatxRdevMinor = 132
	StatxDevMajor  = 136
	StatxDevMinor  = 140
	StatxMntID     = 144
)

// Statx returns where struct statx of fd will be.
func (b *Batch) Statx(fd FD) Data {
	d := b.Out(256)
	b.Call(unix.SYS_STATX, fd.arg, b.str(""), Int(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW), Int(unix.STATX_BASIC_STATS), d.Arg())
	return d
}

// Write writes all of p to fd with one call.
func (b *Batch) Write(fd FD, p []byte) Result {
	r := b.Call(unix.SYS_WRITE, fd.arg, b.Const(p).Arg(), Int(len(p)))
	b.Note(strconv.Quote(string(p)))
	return r
}

// Ioctl is ioctl(2).
func (b *Batch) Ioctl(fd FD, request uintptr, arg Arg) Result {
	return b.Call(unix.SYS_IOCTL, fd.arg, Int(request), arg)
}

// Prctl is prctl(2).
func (b *Batch) Prctl(option int, args ...Arg) Result {
	all := [5]Arg{Int(option)}
	copy(all[1:], args)
	return b.Call(unix.SYS_PRCTL, all[:]...)
}

// SendFDs sends descriptors to the parent, which gets them from Files.
func (b *Batch) SendFDs(fds ...Arg) { b.SendFDsTo(Fd(Control), fds...) }

// SendFDsTo sends descriptors, with one byte, over a socket of the stub.
func (b *Batch) SendFDsTo(socket FD, fds ...Arg) {
	hdr, cmsg := b.rights(len(fds))
	for i, fd := range fds {
		b.Store(cmsg, unix.SizeofCmsghdr+4*i, fd)
	}
	b.Call(unix.SYS_SENDMSG, socket.arg, hdr.Arg(), Int(unix.MSG_NOSIGNAL))
	b.Note("descriptors")
}

// RecvFDs takes n descriptors that the parent sends with PassFDs after the batch.
func (b *Batch) RecvFDs(n int) []FD {
	hdr, cmsg := b.rights(n)
	b.Call(unix.SYS_RECVMSG, Int(Control), hdr.Arg(), Int(unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL))
	b.Note("descriptors")
	b.received += n
	fds := make([]FD, n)
	for i := range fds {
		fds[i] = b.Load(cmsg, unix.SizeofCmsghdr+4*i).FD()
	}
	return fds
}

// rights makes a struct msghdr for one byte and a control message with n descriptors (unix(7)).
func (b *Batch) rights(n int) (hdr, cmsg Data) {
	le := binary.LittleEndian
	space := unix.CmsgSpace(4 * n)
	p := make([]byte, space)
	le.PutUint64(p, uint64(unix.CmsgLen(4*n)))
	le.PutUint32(p[8:], unix.SOL_SOCKET)
	le.PutUint32(p[12:], unix.SCM_RIGHTS)
	cmsg = b.Const(p)
	one := b.Const(make([]byte, 8))
	iov := b.Const(make([]byte, 16))
	b.point(iov, one)
	le.PutUint64(b.consts[iov.off+8:], 1)
	hdr = b.Const(make([]byte, 56))
	b.point(hdr.at(16), iov)
	le.PutUint64(b.consts[hdr.off+24:], 1)
	b.point(hdr.at(32), cmsg)
	le.PutUint64(b.consts[hdr.off+40:], uint64(space))
	return hdr, cmsg
}

// Execve ends the batch: the stub becomes another program.
func (b *Batch) Execve(path string, argv, envp []string) Result {
	r := b.Call(unix.SYS_EXECVE, b.str(path), b.Strings(argv).Arg(), b.Strings(envp).Arg())
	b.Note(strconv.Quote(path))
	return r
}

// Execveat is Execve of the file that fd is open at.
func (b *Batch) Execveat(fd FD, argv, envp []string) Result {
	r := b.Call(unix.SYS_EXECVEAT, fd.arg, b.str(""), b.Strings(argv).Arg(), b.Strings(envp).Arg(), Int(unix.AT_EMPTY_PATH))
	b.Note(strconv.Quote(argv[0]))
	return r
}

const mountAttrSize = 32 // MOUNT_ATTR_SIZE_VER0

// SockFprog puts a filter into the batch, as seccomp(2) takes it: struct sock_fprog.
func (b *Batch) SockFprog(filter []unix.SockFilter) Data {
	le := binary.LittleEndian
	insns := make([]byte, 0, 8*len(filter))
	for _, f := range filter {
		insns = le.AppendUint16(insns, f.Code)
		insns = append(insns, f.Jt, f.Jf)
		insns = le.AppendUint32(insns, f.K)
	}
	to := b.Const(insns)
	prog := make([]byte, 16)
	le.PutUint16(prog, uint16(len(filter)))
	d := b.Const(prog)
	b.point(d.at(8), to)
	return d
}
