package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/overlay"
	"hull/internal/rootfs"
)

// A tree is a part of the host's files that the sandbox is given: a detached copy of one mount, without what is mounted
// below. Nothing but that is reached from it, whatever path is followed.
type tree struct {
	file *os.File
	// below is where it is mounted in the container, if it isn't the root or the source of a bind mount but what is
	// mounted below one of these.
	below string
}

// giveRoot passes the root, and what is mounted below.
func (c *creation) giveRoot() error {
	points, err := overlay.Mounts()
	if err != nil {
		return err
	}
	var attr mnt.Attr
	if c.Spec.Root.Readonly || c.overlaid {
		attr.Set = unix.MOUNT_ATTR_RDONLY
	}
	trees, err := donate(nil, "root.path", c.Root(), "/", points, attr, mnt.Attr{}, nil, true)
	c.giveTrees(trees)
	if err != nil {
		return err
	}
	if st, err := trees[0].file.Stat(); err == nil && !st.IsDir() {
		return &fault.Error{Field: "root.path", Step: "open_tree " + strconv.Quote(c.Root()), Err: unix.ENOTDIR}
	}
	return nil
}

// giveBinds passes the sources of bind mounts, in their order, each followed by what is mounted below.
func (c *creation) giveBinds(mounts []specs.Mount) error {
	points, err := overlay.Mounts()
	if err != nil {
		return err
	}
	for i, s := range mounts {
		m, err := mnt.Parse(i, s, c.Bundle)
		if err != nil {
			return err
		}
		if !m.Bind {
			continue
		}
		for _, w := range m.Warnings() {
			c.Warn(w)
		}
		trees, err := donate(nil, m.Field, m.Source, m.Destination, points, m.Attr, m.Rec, idMaps(&m, c.Spec), m.Recursive)
		c.giveTrees(trees)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *creation) giveTrees(trees []tree) {
	for _, t := range trees {
		c.giveTree(t.file, t.below)
	}
}

// giveTree passes one tree. below is where it is mounted, if it is found below the one before it, else "".
func (c *creation) giveTree(f *os.File, below string) {
	n := strconv.Itoa(c.give("", f))
	c.trees, c.below = append(c.trees, n), append(c.below, below)
	if below != "" {
		c.flags = append(c.flags, "--submount", n+":"+below)
	}
}

// donate adds what is at path on the host, to be mounted at destination.
func donate(trees []tree, field, path, destination string, points []string, attr, rec mnt.Attr, ids *mnt.IDMap, recursive bool) ([]tree, error) {
	given := path
	path, err := filepath.EvalSymlinks(path) // to know what is mounted below
	var f *os.File
	if err == nil {
		f, err = openTree(path, attr.Set|rec.Set, ids)
	}
	if err != nil {
		return trees, &fault.Error{Field: field, Step: "open_tree " + strconv.Quote(given), Err: cause(err)}
	}
	trees = append(trees, tree{file: f})
	if !recursive {
		return trees, nil
	}
	if ids != nil && !ids.Recursive {
		ids = nil
	}
	inside := strings.TrimSuffix(path, "/") + "/"
	for _, p := range points {
		rel, ok := strings.CutPrefix(p, inside)
		if !ok || rel == "" {
			continue
		}
		f, err := openTree(p, rec.Set, ids)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
			continue // covered by another mount, or gone
		}
		if err != nil {
			return trees, &fault.Error{Field: field, Step: "open_tree " + strconv.Quote(p), Err: cause(err)}
		}
		trees = append(trees, tree{f, filepath.Join(destination, rel)})
	}
	return trees, nil
}

// cause takes what was done away from an error, where it would be said twice.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// openTree returns a detached copy of the mount at path, which has no links: who can write to what is on the way there, as
// another container that has the same volume, could have put one in since the list of mounts was read.
func openTree(path string, set uint64, ids *mnt.IDMap) (*os.File, error) {
	at, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	f, err := cloneMount(at, path, set)
	if err != nil {
		return nil, err
	}
	if err := checkFileSystem(f); err != nil {
		f.Close()
		return nil, err
	}
	if ids != nil {
		if err := rootfs.MapIDs(f, ids); err != nil {
			f.Close()
			return nil, explainIDMap(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return f, nil
	case unix.S_IFREG:
		defer f.Close()
		return openFile(f)
	}
	f.Close()
	return nil, errors.New("not possible in sandbox isolation: only directories and regular files of the host")
}

// explainIDMap says what an errno of idmapping stands for.
func explainIDMap(err error) error {
	e := &fault.Error{Step: "idmap", Err: cause(err)}
	if errors.Is(err, unix.EINVAL) {
		e.Hint = "the file system of the source may not support idmapped mounts in this kernel"
	}
	return e
}

// cloneMount returns a detached copy of the mount that at is open in, from there on. Programs of the sandbox are none of the
// host's, so that nodev and nosuid take nothing from them; noexec would keep the kernel in the sandbox from mapping them. That
// kernel follows links itself, one name at a time; so that nobody makes it do otherwise, the host's doesn't follow any there,
// from Linux 5.14 on.
func cloneMount(at int, path string, set uint64) (*os.File, error) {
	fd, err := unix.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSYMFOLLOW | set&unix.MOUNT_ATTR_RDONLY}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
	if err == unix.EINVAL {
		attr.Attr_set &^= unix.MOUNT_ATTR_NOSYMFOLLOW
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount_setattr: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// checkFileSystem refuses the file systems in which the host's kernel shows itself: who takes over the sandbox's kernel must
// not find the host's processes and settings in what it was given.
func checkFileSystem(f *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if showsKernel(st.Type) {
		return &fault.Error{Kind: fault.Unsupported, Err: errors.New("not possible in sandbox isolation: a file system in which the host's kernel shows itself, as /proc and /sys")}
	}
	return nil
}

// showsKernel tells whether a type of file system, as of statfs(2), is one in which the host's kernel shows itself.
func showsKernel(fsType int64) bool {
	switch uint32(fsType) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.NSFS_MAGIC,
		unix.BINFMTFS_MAGIC, unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC, unix.RDTGROUP_SUPER_MAGIC, unix.SELINUX_MAGIC,
		unix.SMACK_MAGIC, unix.PID_FS_MAGIC, unix.BINDERFS_SUPER_MAGIC, unix.XENFS_SUPER_MAGIC,
		configFS, fuseControl, nfsdFS, rpcPipeFS:
		return true
	}
	return false
}

// Numbers that x/sys has not.
const (
	configFS    = 0x62656570 // CONFIGFS_MAGIC, fs/configfs/mount.c
	fuseControl = 0x65735543 // FUSE_CTL_SUPER_MAGIC, fs/fuse/control.c
	nfsdFS      = 0x6e667364 // fs/nfsd/nfsctl.c
	rpcPipeFS   = 0x67596969 // RPCAUTH_GSSMAGIC, net/sunrpc/rpc_pipe.c
)

// openFile opens what an O_PATH descriptor of a regular file is open at: the sandbox, which has no /proc, can't.
func openFile(at *os.File) (*os.File, error) {
	link := "/proc/self/fd/" + strconv.Itoa(int(at.Fd()))
	fd, err := unix.Open(link, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		// A mount that is read-only, or a program that runs.
		fd, err = unix.Open(link, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), at.Name()), nil
}
