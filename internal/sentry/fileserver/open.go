package fileserver

import (
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
)

// Open implements lisafs.ControlFDImpl. A directory is opened again, by its own name in itself. Of a mount that is a regular
// file, which has no name here, hull has donated a descriptor that can read and, unless the mount is read-only, write; offsets are none of
// it, since the kernel gives them with each call.
func (f *file) Open(flags uint32) (*lisafs.OpenFD, int, error) {
	opened, err := f.open(int(flags))
	if err != nil {
		return nil, -1, err
	}
	donated, err := unix.FcntlInt(uintptr(opened), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(opened)
		return nil, -1, err
	}
	o := &openFile{fd: opened}
	o.open.Init(&f.control, flags, o)
	return &o.open, donated, nil
}

func (f *file) open(flags int) (int, error) {
	if f.dir {
		return unix.Openat(f.fd, ".", flags&(unix.O_ACCMODE|unix.O_DIRECTORY)|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	}
	have, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return -1, err
	}
	if have&unix.O_PATH != 0 {
		return -1, unix.EOPNOTSUPP // the kernel opens it by its name
	}
	if want := flags & unix.O_ACCMODE; want != unix.O_RDONLY && have&unix.O_ACCMODE != unix.O_RDWR {
		return -1, unix.EACCES
	}
	if flags&unix.O_TRUNC != 0 {
		if err := unix.Ftruncate(f.fd, 0); err != nil {
			return -1, err
		}
	}
	return unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
}

// openFile is the root of a mount, opened. The kernel reads and writes by the descriptor it was given.
type openFile struct {
	open lisafs.OpenFD
	fd   int
}

// FD implements lisafs.OpenFDImpl.
func (o *openFile) FD() *lisafs.OpenFD {
	if o == nil {
		return nil
	}
	return &o.open
}

// Close implements lisafs.OpenFDImpl.
func (o *openFile) Close() { unix.Close(o.fd) }

// Stat implements lisafs.OpenFDImpl.
func (o *openFile) Stat() (lisafs.Statx, error) { return statx(o.fd) }

// The other methods of lisafs.OpenFDImpl are not called with directfs.

func (o *openFile) Sync() error                                  { return unix.EOPNOTSUPP }
func (o *openFile) Write(buf []byte, off uint64) (uint64, error) { return 0, unix.EOPNOTSUPP }
func (o *openFile) Read(buf []byte, off uint64) (uint64, error)  { return 0, unix.EOPNOTSUPP }
func (o *openFile) Allocate(mode, off, length uint64) error      { return unix.EOPNOTSUPP }
func (o *openFile) Flush() error                                 { return nil }
func (o *openFile) Renamed()                                     {}
func (o *openFile) Getdent64(count uint32, seek0 bool, record func(lisafs.Dirent64)) error {
	return unix.EOPNOTSUPP
}

// refused are the methods of lisafs.ControlFDImpl that the kernel does itself, or that a sandbox doesn't offer.
type refused struct{}

func (refused) SetStat(lisafs.SetStatReq) (uint32, error)             { return 0, unix.EOPNOTSUPP }
func (refused) WalkStat(lisafs.StringArray, func(lisafs.Statx)) error { return unix.EOPNOTSUPP }
func (refused) OpenCreate(linux.FileMode, lisafs.UID, lisafs.GID, string, uint32) (*lisafs.ControlFD, lisafs.Statx, *lisafs.OpenFD, int, error) {
	return nil, lisafs.Statx{}, nil, -1, unix.EOPNOTSUPP
}
func (refused) Mkdir(linux.FileMode, lisafs.UID, lisafs.GID, string) (*lisafs.ControlFD, lisafs.Statx, error) {
	return nil, lisafs.Statx{}, unix.EOPNOTSUPP
}
func (refused) Mknod(linux.FileMode, lisafs.UID, lisafs.GID, string, uint32, uint32) (*lisafs.ControlFD, lisafs.Statx, error) {
	return nil, lisafs.Statx{}, unix.EOPNOTSUPP
}
func (refused) Symlink(string, string, lisafs.UID, lisafs.GID) (*lisafs.ControlFD, lisafs.Statx, error) {
	return nil, lisafs.Statx{}, unix.EOPNOTSUPP
}
func (refused) Link(lisafs.ControlFDImpl, string) (*lisafs.ControlFD, lisafs.Statx, error) {
	return nil, lisafs.Statx{}, unix.EOPNOTSUPP
}
func (refused) Readlink(func(uint32) []byte) (uint16, error) { return 0, unix.EOPNOTSUPP }
func (refused) ConnectWithCreds(uint32, lisafs.UID, lisafs.GID) (int, error) {
	return -1, unix.ECONNREFUSED
}
func (refused) Unlink(string, uint32) error                                  { return unix.EOPNOTSUPP }
func (refused) RenameAt(string, lisafs.ControlFDImpl, string) error          { return unix.EOPNOTSUPP }
func (refused) RenameAt2(string, lisafs.ControlFDImpl, string, uint32) error { return unix.EOPNOTSUPP }
func (refused) Renamed()                                                     {}
func (refused) GetXattr(string, uint32, func(uint32) []byte) (uint16, error) {
	return 0, unix.EOPNOTSUPP
}
func (refused) SetXattr(string, string, uint32) error        { return unix.EOPNOTSUPP }
func (refused) ListXattr(uint64) (lisafs.StringArray, error) { return nil, unix.EOPNOTSUPP }
func (refused) RemoveXattr(string) error                     { return unix.EOPNOTSUPP }
