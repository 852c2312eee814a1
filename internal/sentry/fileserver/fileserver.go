// Package fileserver serves the directories that were donated to a sandbox to its kernel.
//
// The kernel opens files itself (directfs): relative to the descriptor of a mount, with O_NOFOLLOW, one name at a time.
// What it asks a server for is little: the descriptor of the mount itself, to open it, and what can't be done by descriptor,
// such as to connect to a socket, which a sandbox may not. So the server runs in the same process, behind a socket pair, and there is no second one to start. A kernel that the application has taken over *is*
// the file server then; what it can reach are the donated descriptors, detached copies of mounts that hold nothing else
// of the host, by the calls that the process's filter lets through.
package fileserver

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
)

// maxMessage is the size of the largest message: of names and file attributes, never of contents.
const maxMessage = 64 << 10

// Server serves donated mounts.
type Server struct {
	lisafs  *lisafs.Server
	sockets Sockets
	cwd     sync.Mutex
}

// Sockets says what is done with sockets of unix(7) in what is served: those that programs of the host have there are connected with;
// or such are made there.
type Sockets struct{ Connect, Bind bool }

// New returns a server of nothing yet. sockets says what may be done with those in what it serves.
func New(sockets Sockets) *Server {
	return &Server{lisafs: lisafs.NewServer(), sockets: sockets}
}

// Serve serves the directory or file that root is open at, which it takes over unless it fails, and returns the descriptor
// of the socket that the kernel's file system speaks through.
func (s *Server) Serve(root int, readonly bool) (int, error) {
	ours, theirs, err := unet.SocketPair(false)
	if err != nil {
		return -1, err
	}
	m := &mount{server: s}
	m.root.Store(int32(root))
	conn, err := s.lisafs.CreateConnection(ours, "/", lisafs.ConnectionOpts{Readonly: readonly}, m)
	if err != nil {
		ours.Close()
		theirs.Close()
		return -1, err
	}
	s.lisafs.StartConnection(conn)
	return theirs.Release()
}

// mount is one connection: one donated mount.
type mount struct {
	server *Server
	root   atomic.Int32 // until it is mounted; then -1
}

// Mount implements lisafs.ConnectionImpl. It can be done once: the file closes the root when it ends, and a second one would close
// what has that number then.
func (m *mount) Mount(c *lisafs.Connection, node *lisafs.Node) (_ *lisafs.ControlFD, stat lisafs.Statx, donated int, err error) {
	root := int(m.root.Swap(-1))
	if root < 0 {
		return nil, stat, -1, unix.EBUSY
	}
	defer func() {
		if err != nil {
			unix.Close(root)
		}
	}()
	if stat, err = statx(root); err != nil {
		return nil, stat, -1, err
	}
	f := &file{server: m.server, fd: root, dir: isDir(stat)}
	if donated, err = f.open(unix.O_RDONLY); err != nil {
		return nil, stat, -1, err
	}
	node.IncRef() // for f, which gives it up when the container's mounts end
	f.control.Init(c, node, linux.FileMode(stat.Mode), f)
	return f.FD(), stat, donated, nil
}

// SupportedMessages implements lisafs.ConnectionImpl.
func (m *mount) SupportedMessages() []lisafs.MID {
	return []lisafs.MID{
		lisafs.Mount, lisafs.FStat, lisafs.OpenAt, lisafs.Close, lisafs.FStatFS, lisafs.SetStat,
		lisafs.Walk, lisafs.Connect, lisafs.BindAt, lisafs.Listen, lisafs.Accept, lisafs.FGetXattr, lisafs.FSetXattr, lisafs.FListXattr, lisafs.FRemoveXattr,
	}
}

// MaxMessageSize implements lisafs.ConnectionImpl.
func (m *mount) MaxMessageSize() uint32 { return maxMessage }

func isDir(s lisafs.Statx) bool { return s.Mode&unix.S_IFMT == unix.S_IFDIR }

func statx(fd int) (s lisafs.Statx, err error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
		return s, err
	}
	stamp := func(t unix.StatxTimestamp) lisafs.StatxTimestamp {
		return lisafs.StatxTimestamp{Sec: t.Sec, Nsec: t.Nsec}
	}
	return lisafs.Statx{
		Mask: st.Mask, Blksize: st.Blksize, Attributes: st.Attributes, Nlink: st.Nlink, UID: st.Uid, GID: st.Gid,
		Mode: st.Mode, Ino: st.Ino, Size: st.Size, Blocks: st.Blocks, AttributesMask: st.Attributes_mask,
		Atime: stamp(st.Atime), Btime: stamp(st.Btime), Ctime: stamp(st.Ctime), Mtime: stamp(st.Mtime),
		RdevMajor: st.Rdev_major, RdevMinor: st.Rdev_minor, DevMajor: st.Dev_major, DevMinor: st.Dev_minor,
	}, nil
}

// file is the root of a mount, or a file below it.
type file struct {
	refused
	server  *Server
	control lisafs.ControlFD
	socket  *socket // what it takes to connect with it, if it is one; or nil
	fd      int     // O_PATH, but for a root that is no directory
	dir     bool
}

// FD implements lisafs.ControlFDImpl.
func (f *file) FD() *lisafs.ControlFD {
	if f == nil {
		return nil
	}
	return &f.control
}

// Walk implements lisafs.ControlFDImpl. The kernel does not walk by it, but needs files of the server's to say what it asks
// for: that of a socket, and the directory that one is to be bound in.
func (f *file) Walk(name string) (*lisafs.ControlFD, lisafs.Statx, error) {
	fd, err := unix.Openat(f.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	stat, err := statx(fd)
	if err != nil {
		unix.Close(fd)
		return nil, stat, err
	}
	child := &file{server: f.server, fd: fd, dir: isDir(stat)}
	if f.server.sockets.Connect && f.dir && stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
		if child.socket, err = newSocket(f.fd, name); err != nil {
			unix.Close(fd)
			return nil, stat, err
		}
	}
	child.control.Init(f.control.Conn(), below(f.control.Node(), name), linux.FileMode(stat.Mode), child)
	return child.FD(), stat, nil
}

// below returns the node of a name, with a reference for who asks.
func below(dir *lisafs.Node, name string) (node *lisafs.Node) {
	dir.WithChildrenMu(func() {
		if node = dir.LookupChildLocked(name); node != nil {
			node.IncRef()
			return
		}
		node = new(lisafs.Node)
		node.InitLocked(name, dir)
	})
	return node
}

// Close implements lisafs.ControlFDImpl.
func (f *file) Close() {
	unix.Close(f.fd)
	if f.socket != nil {
		unix.Close(f.socket.dir)
	}
}

// Stat implements lisafs.ControlFDImpl.
func (f *file) Stat() (lisafs.Statx, error) { return statx(f.fd) }

// StatFS implements lisafs.ControlFDImpl.
func (f *file) StatFS() (lisafs.StatFS, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &st); err != nil {
		return lisafs.StatFS{}, err
	}
	return lisafs.StatFS{
		Type: uint64(st.Type), BlockSize: st.Bsize, Blocks: st.Blocks, BlocksFree: st.Bfree, BlocksAvailable: st.Bavail,
		Files: st.Files, FilesFree: st.Ffree, NameLength: uint64(st.Namelen),
	}, nil
}
