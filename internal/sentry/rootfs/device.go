package rootfs

import (
	"fmt"
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/mnt"
	"hull/internal/sentry/errno"
)

// device is a node in /dev.
type device struct {
	path         string
	major, minor uint32
	mode         linux.FileMode
	uid, gid     uint32
}

// defaultDevices are those of config-linux.md, "Default Devices".
var defaultDevices = []device{
	{path: "/dev/null", major: 1, minor: 3}, {path: "/dev/zero", major: 1, minor: 5}, {path: "/dev/full", major: 1, minor: 7},
	{path: "/dev/random", major: 1, minor: 8}, {path: "/dev/urandom", major: 1, minor: 9}, {path: "/dev/tty", major: 5, minor: 0},
}

// links are those of config-linux.md, "Default Devices", and of runtime-linux.md, "Dev symbolic links".
var links = [][2]string{
	{"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"}, {"/dev/stdout", "/proc/self/fd/1"},
	{"/dev/stderr", "/proc/self/fd/2"}, {"/dev/ptmx", "pts/ptmx"},
}

// devices makes the nodes and links in /dev. Nodes are the kernel's own: on a file system of the host's there can be none, so
// that where the configuration mounts nothing on /dev, an empty one comes there. A /dev that is bound is left alone.
func (m *Mounts) devices() error {
	at := slices.IndexFunc(m.Spec.Mounts, func(s specs.Mount) bool { return path.Clean("/"+s.Destination) == "/dev" })
	if at < 0 {
		dev := &mnt.Mount{Field: "/dev", Destination: "/dev", Type: tmpfs.Name, Data: []string{"mode=755"},
			Attr: mnt.Attr{Set: unix.MOUNT_ATTR_NOSUID}}
		mount, err := m.make(dev)
		if err != nil {
			return err
		}
		defer mount.DecRef(m.ctx)
		if err := m.mount(dev, madeMount{mount, nil}); err != nil {
			return err
		}
	} else if parsed, err := mnt.Parse(at, m.Spec.Mounts[at], m.Bundle); err != nil || parsed.Bind {
		return err
	}
	m.lendFUSE()
	nodes := slices.Clone(defaultDevices)
	for _, d := range m.Spec.Linux.Devices {
		n := device{path: path.Clean(d.Path), major: uint32(d.Major), minor: uint32(d.Minor), mode: 0o666}
		if d.FileMode != nil {
			n.mode = linux.FileMode(*d.FileMode & 0o7777)
		}
		if d.UID != nil {
			n.uid = *d.UID
		}
		if d.GID != nil {
			n.gid = *d.GID
		}
		nodes = slices.DeleteFunc(nodes, func(o device) bool { return o.path == n.path })
		if n.path != "/dev/ptmx" { // always a link to the container's own
			nodes = append(nodes, n)
		}
	}
	for _, n := range nodes {
		if err := m.makeDevice(n); err != nil {
			return fmt.Errorf("%s: %w", n.path, err)
		}
	}
	for _, l := range links {
		at := m.at(l[0])
		at.FollowFinalSymlink = false
		if err := m.Kernel.VFS().SymlinkAt(m.ctx, m.creds, at, l[1]); err != nil && errno.Of(err) != error(unix.EEXIST) {
			return fmt.Errorf("%s: %w", l[0], err)
		}
	}
	return nil
}

func (m *Mounts) makeDevice(n device) error {
	v := m.Kernel.VFS()
	dir := path.Dir(n.path)
	if err := m.makePath(&dir, false); err != nil {
		return err
	}
	at := m.at(path.Join(dir, path.Base(n.path)))
	at.FollowFinalSymlink = false
	mode := n.mode
	if mode == 0 {
		mode = 0o666
	}
	if err := v.MknodAt(m.ctx, m.creds, at, &vfs.MknodOptions{Mode: linux.S_IFCHR | mode, DevMajor: n.major, DevMinor: n.minor}); err != nil {
		return err
	}
	if n.uid|n.gid == 0 {
		return nil
	}
	return v.SetStatAt(m.ctx, m.creds, at, &vfs.SetStatOptions{Stat: linux.Statx{
		Mask: linux.STATX_UID | linux.STATX_GID, UID: n.uid, GID: n.gid}})
}
