package boot

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
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
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/kernel/ipc"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/sentry/errno"
)

// registerFileSystems makes the file systems known, to mount(2) of the container's programs, too, where Linux lets root of
// a user namespace mount them.
func registerFileSystems(k *kernel.Kernel) error {
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

// mounter makes the mounts of the container.
type mounter struct {
	*container
	ctx   context.Context
	creds *auth.Credentials
	ns    *vfs.MountNamespace
	root  vfs.VirtualDentry
	made  []madeMount // by the number of the configuration's mount

	readonly []*vfs.Mount // once all is in place
}

// madeMount is a mount that is attached nowhere yet, or why there is none.
type madeMount struct {
	*vfs.Mount // or nil: it is of files of the host's
	error
}

// inside is a context in the container's mount namespace, since mounts are copied only by who is in theirs, and in its pid and ipc
// namespaces, which are those that a mount of proc and of mqueue shows.
type inside struct {
	context.Context
	ns *vfs.MountNamespace
	c  *container
}

// Value implements context.Context.
func (i inside) Value(key any) any {
	switch key {
	case vfs.CtxMountNamespace:
		i.ns.IncRef() // the caller's
		return i.ns
	case kernel.CtxPIDNamespace:
		return i.c.pids
	case ipc.CtxIPCNamespace:
		i.c.ipc.IncRef() // the caller's
		return i.c.ipc
	}
	return i.Context.Value(key)
}

// prepareMounts makes what the container's mount namespace has of file systems of the kernel's own. It looks at no file of the
// host's.
func (c *container) prepareMounts() (*mounter, error) {
	m := &mounter{container: c, ctx: c.kernel.SupervisorContext()}
	m.creds = auth.NewRootCredentials(c.kernel.RootUserNamespace())
	var err error
	// The first mount of a namespace can't be changed, so that one is an empty, read-only file system below the root.
	m.ns, err = c.kernel.VFS().NewMountNamespace(m.ctx, m.creds, "none", tmpfs.Name, &vfs.MountOptions{ReadOnly: true, Locked: true}, c.kernel)
	if err != nil {
		return nil, err
	}
	m.ctx = inside{m.ctx, m.ns, c}
	m.made = make([]madeMount, len(c.Spec.Mounts))
	for i, spec := range c.Spec.Mounts {
		if p, err := mnt.Parse(i, spec, c.Bundle); err == nil && !p.Bind {
			m.made[i].Mount, m.made[i].error = m.make(&p)
		}
	}
	return m, nil
}

// mountAll makes the container's mount namespace.
func (m *mounter) mountAll() (_ *vfs.MountNamespace, err error) {
	c := m.container
	defer func() {
		for _, made := range m.made {
			if made.Mount != nil {
				made.DecRef(m.ctx) // what is attached is the namespace's
			}
		}
		if err != nil {
			m.ns.DecRef(c.kernel.SupervisorContext()) // with what of the host's files is mounted there
		}
	}()
	trees, err := c.trees()
	if err != nil {
		return nil, err
	}
	m.Files = trees
	if err := m.mountRoot(); err != nil {
		return nil, errno.InField("root.path", err)
	}
	defer m.root.DecRef(m.ctx)
	for i, spec := range c.Spec.Mounts {
		parsed, err := mnt.Parse(i, spec, c.Bundle)
		if err != nil {
			return nil, err
		}
		if err := m.mount(&parsed, m.made[i]); err != nil {
			return nil, errno.InField(parsed.Field, err)
		}
	}
	if err := m.devices(); err != nil {
		return nil, errno.InField("linux.devices", err)
	}
	if err := m.cover(); err != nil {
		return nil, err
	}
	// Not before: what is missing of a mount point is made below them, where the host doesn't see it.
	for _, mount := range m.readonly {
		if err := c.kernel.VFS().SetMountReadOnly(mount, true); err != nil {
			return nil, errno.Of(err)
		}
	}
	return m.ns, nil
}

// mountRoot mounts the donated root.
func (m *mounter) mountRoot() (err error) {
	v := m.kernel.VFS()
	t := m.nextTree()
	var st unix.Stat_t
	if err := unix.Fstat(t.FD, &st); err != nil {
		return err
	}
	overlaid := m.Overlay && !m.Spec.Root.Readonly
	opts, err := m.donated(t, !m.SharedRoot)
	if err != nil {
		return err
	}
	mount, err := v.MountDisconnected(m.ctx, m.creds, "root", gofer.Name, opts)
	if err == nil && overlaid {
		mount, err = m.overlay(mount, &st)
	}
	if err != nil {
		return err
	}
	defer mount.DecRef(m.ctx) // its place has one
	below := m.ns.Root(m.ctx)
	defer below.DecRef(m.ctx)
	if err := v.ConnectMountAt(m.ctx, m.creds, mount, &vfs.PathOperation{Root: below, Start: below}); err != nil {
		return err
	}
	if m.Spec.Root.Readonly {
		m.readonly = append(m.readonly, mount)
	}
	m.root = m.ns.Root(m.ctx)
	if err := m.keepMountPoints(); err != nil {
		return err
	}
	return m.mountBelow(&mnt.Mount{}, m.ExclusiveMounts)
}

// keepMountPoints has the container find busy what is a mount point on the host, by mounting each on itself. The host's kernel keeps a
// directory or file from being removed or renamed if something is mounted there in the namespace of who wants that, and the root is
// mounted in none: it would take the mount away with all that it shows, and a directory that looks full as readily as it is empty below.
func (m *mounter) keepMountPoints() error {
	for _, p := range m.MountPoints {
		at := m.at(p)
		at.FollowFinalSymlink = false
		if !m.exists(at) {
			continue // gone from the host since it was planned
		}
		if err := m.kernel.VFS().BindAt(m.ctx, m.creds, at, at, false); err != nil {
			return fmt.Errorf("mount point %q: %w", p, errno.Of(err))
		}
	}
	return nil
}

// overlay mounts a file system over another, which it takes over, that keeps what is written. st is of the directory below.
func (m *mounter) overlay(lower *vfs.Mount, st *unix.Stat_t) (*vfs.Mount, error) {
	v := m.kernel.VFS()
	defer lower.DecRef(m.ctx) // which the overlay has a copy of
	// As large as what it is kept in, as a disk is.
	upper, err := v.MountDisconnected(m.ctx, m.creds, "none", tmpfs.Name, &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{
		InternalMount: true,
		Data:          fmt.Sprintf("mode=%o,uid=%d,gid=%d", st.Mode&0o7777, st.Uid, st.Gid),
		InternalData:  tmpfs.FilesystemOpts{MemoryFile: m.written, DisableDefaultSizeLimit: true},
	}})
	if err != nil {
		return nil, err
	}
	defer upper.DecRef(m.ctx)
	return v.MountDisconnected(m.ctx, m.creds, "root", overlay.Name, &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{
		InternalMount: true,
		InternalData: overlay.FilesystemOptions{
			UpperRoot:  vfs.MakeVirtualDentry(upper, upper.Root()),
			LowerRoots: []vfs.VirtualDentry{vfs.MakeVirtualDentry(lower, lower.Root())},
		},
	}})
}

// trees returns the donated trees, with what tells one from the others, whoever mounts them: a sandbox that is made, or one that is
// restored.
func (c *container) trees() ([]Tree, error) {
	trees := slices.Clone(c.Files)
	at := -1 // among the mounts of the configuration
	var parent mnt.Mount
	for i := range trees {
		t := &trees[i]
		path := "root"
		switch {
		case i == 0:
			t.readonly = c.Spec.Root.Readonly || c.Overlay
		case t.Below != "":
			t.readonly = attributes(&mnt.Mount{Attr: parent.Rec, Rec: parent.Rec})&unix.MOUNT_ATTR_RDONLY != 0
		default:
			for parent = (mnt.Mount{}); !parent.Bind; {
				if at++; at == len(c.Spec.Mounts) {
					return nil, errors.New("more trees than bind mounts")
				}
				var err error
				if parent, err = mnt.Parse(at, c.Spec.Mounts[at], c.Bundle); err != nil {
					return nil, err
				}
			}
			t.readonly = attributes(&parent)&unix.MOUNT_ATTR_RDONLY != 0
		}
		if at >= 0 {
			path = fmt.Sprintf("mounts[%d]", at)
		}
		t.id = checkpoint.ResourceID{ContainerName: c.name(), Path: path + ":" + t.Below}
	}
	return trees, nil
}

// nextTree returns the next of the donated trees. It is the container's until donated has it served.
func (m *mounter) nextTree() Tree { return m.Files[0] }

// mountBelow mounts the trees that were found on the host below the one before them.
func (m *mounter) mountBelow(parent *mnt.Mount, exclusive bool) error {
	for len(m.Files) > 0 && m.Files[0].Below != "" {
		t := m.nextTree()
		below := mnt.Mount{Destination: t.Below, Bind: true, Attr: parent.Rec, Rec: parent.Rec}
		if err := m.mountTree(&below, t, exclusive); err != nil {
			return fmt.Errorf("%q: %w", t.Below, err)
		}
	}
	return nil
}

// donated returns the options that mount what a donated descriptor is open at. Nobody but the container changes its root;
// directories that it shares with the host are looked at again each time.
func (m *mounter) donated(t Tree, exclusive bool) (*vfs.MountOptions, error) {
	socket, err := m.server.Serve(t.FD, t.readonly)
	if err != nil {
		return nil, err
	}
	m.Files = m.Files[1:]
	data := fmt.Sprintf("trans=fd,rfdno=%d,wfdno=%d,directfs", socket, socket)
	if !m.Fifos {
		data += ",disable_fifo_open"
	}
	if exclusive {
		data += ",overlayfs_stale_read"
	} else {
		data += ",cache=remote_revalidating"
	}
	return &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, Data: data,
		InternalData: gofer.InternalFilesystemOptions{UniqueID: t.id}}}, nil
}

// make makes a mount of one of the kernel's own file systems.
func (m *mounter) make(p *mnt.Mount) (*vfs.Mount, error) {
	fsType, data := p.Type, p.Data
	if fsType == devpts.Name {
		// What Linux gives to the terminals, this kernel would give to the directory that they are in.
		data = nil
	}
	if name, ok := kernelTypes[fsType]; ok {
		fsType = name
	}
	opts := &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, Data: strings.Join(data, ",")}, Flags: flags(p)}
	return m.kernel.VFS().MountDisconnected(m.ctx, m.creds, p.Source, fsType, opts)
}

// mount makes one mount of the configuration, which was made already if it is not of files of the host's.
func (m *mounter) mount(p *mnt.Mount, made madeMount) error {
	if p.Bind {
		if err := m.mountTree(p, m.nextTree(), m.ExclusiveMounts); err != nil {
			return err
		}
		return m.mountBelow(p, m.ExclusiveMounts)
	}
	if err := m.makePath(&p.Destination, false); err != nil {
		return err
	}
	if made.error != nil {
		return made.error
	}
	if p.CopyUp {
		if err := m.copyUp(p, made.Mount); err != nil {
			return err
		}
	}
	return m.attach(p, made.Mount)
}

// mountTree mounts what a donated descriptor is open at.
func (m *mounter) mountTree(p *mnt.Mount, t Tree, exclusive bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(t.FD, &st); err != nil {
		return err
	}
	if err := m.makePath(&p.Destination, st.Mode&unix.S_IFMT != unix.S_IFDIR); err != nil {
		return err
	}
	opts, err := m.donated(t, exclusive)
	if err != nil {
		return err
	}
	opts.Flags = flags(p)
	mount, err := m.kernel.VFS().MountDisconnected(m.ctx, m.creds, "none", gofer.Name, opts)
	if err != nil {
		return err
	}
	defer mount.DecRef(m.ctx)
	return m.attach(p, mount)
}

// flags are the attributes that the mount of p has from the start.
func flags(p *mnt.Mount) vfs.MountFlags {
	set := attributes(p)
	return vfs.MountFlags{
		NoExec:  set&unix.MOUNT_ATTR_NOEXEC != 0,
		NoSUID:  set&unix.MOUNT_ATTR_NOSUID != 0,
		NoDev:   set&unix.MOUNT_ATTR_NODEV != 0,
		NoATime: set&unix.MOUNT_ATTR_NOATIME != 0,
	}
}

// attach attaches a mount at the destination of p, which is there.
func (m *mounter) attach(p *mnt.Mount, mount *vfs.Mount) error {
	if err := m.kernel.VFS().ConnectMountAt(m.ctx, m.creds, mount, m.at(p.Destination)); err != nil {
		return err
	}
	if attributes(p)&unix.MOUNT_ATTR_RDONLY != 0 {
		m.readonly = append(m.readonly, mount)
	}
	return nil
}

// attributes are those that a mount has, of itself and as the first of a tree.
func attributes(p *mnt.Mount) uint64 { return p.Attr.Set&^p.Rec.Clear | p.Rec.Set }

// at is a path in the container's files. Links in it lead where they do for the container's programs.
func (m *mounter) at(p string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: m.root, Start: m.root, Path: fspath.Parse(p), FollowFinalSymlink: true}
}

// makePath makes what is missing of *name, which becomes a mount point: in the memory of the kernel where the file system is
// one of the host's that can't be written to, else as in native isolation. Links lead where they do inside; *name is then
// where that is.
func (m *mounter) makePath(name *string, file bool) error {
	v := m.kernel.VFS()
	done, rest := "/", strings.Split(strings.Trim(path.Clean(*name), "/"), "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(done, rest[0])
		at := m.at(next)
		at.FollowFinalSymlink = false
		if target, err := v.ReadlinkAt(m.ctx, m.creds, at); err == nil {
			if links++; links > linux.MaxSymlinkTraversals {
				return &fault.Error{Step: fmt.Sprintf("make the mount point %q", *name), Err: unix.ELOOP}
			}
			if !path.IsAbs(target) {
				target = path.Join(done, target)
			}
			done, rest = "/", append(strings.Split(strings.Trim(path.Clean(target), "/"), "/"), rest[1:]...)
			continue
		}
		done, rest = next, rest[1:]
		if m.exists(at) {
			continue
		}
		// Only directories can be made in memory there. One serves for a file, too: who looks finds the file that covers it, and
		// unlike mount(2) the kernel doesn't compare. In the list of its directory it has a directory's type.
		var err error
		asFile := file && len(rest) == 0
		if asFile {
			err = v.MknodAt(m.ctx, m.creds, at, &vfs.MknodOptions{Mode: linux.S_IFREG | 0o644})
		}
		if !asFile || err != nil && m.Spec.Root.Readonly {
			err = v.MkdirAt(m.ctx, m.creds, at, &vfs.MkdirOptions{Mode: 0o755, ForSyntheticMountpoint: m.Spec.Root.Readonly})
		}
		if err != nil {
			return &fault.Error{Step: fmt.Sprintf("make the mount point %q", done), Err: errno.Of(err)}
		}
	}
	*name = done
	return nil
}

// cover makes the paths that are to be masked or read-only so, where they exist.
func (m *mounter) cover() error {
	v := m.kernel.VFS()
	for i, p := range m.Spec.Linux.ReadonlyPaths {
		at := m.at(path.Clean("/" + p))
		if !m.exists(at) {
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

func (m *mounter) exists(at *vfs.PathOperation) bool {
	_, err := m.kernel.VFS().StatAt(m.ctx, m.creds, at, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	return err == nil
}

// freeze makes the mount at a path read-only.
func (m *mounter) freeze(at *vfs.PathOperation) error {
	d, err := m.kernel.VFS().GetDentryAt(m.ctx, m.creds, at, &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer d.DecRef(m.ctx)
	return m.kernel.VFS().SetMountReadOnly(d.Mount(), true)
}

// mask covers a directory with an empty one and any other file with the null device, as in native isolation, or with an
// empty file where /dev is none of the kernel's.
func (m *mounter) mask(at *vfs.PathOperation) error {
	v := m.kernel.VFS()
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
func (m *mounter) isNull(at *vfs.PathOperation) bool {
	st, err := m.kernel.VFS().StatAt(m.ctx, m.creds, at, &vfs.StatOptions{Mask: linux.STATX_TYPE})
	return err == nil && linux.FileMode(st.Mode).FileType() == linux.S_IFCHR && st.RdevMajor == 1 && st.RdevMinor == 3
}

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
func (m *mounter) devices() error {
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
		if err := m.kernel.VFS().SymlinkAt(m.ctx, m.creds, at, l[1]); err != nil && errno.Of(err) != error(unix.EEXIST) {
			return fmt.Errorf("%s: %w", l[0], err)
		}
	}
	return nil
}

func (m *mounter) makeDevice(n device) error {
	v := m.kernel.VFS()
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
