package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// In a user namespace nobody can make a device node, and nodes of a file system mounted there don't work (mknod(2),
// SB_I_NODEV in include/linux/fs.h). Binding the host's does, but they keep the host's owner, which the namespace has no
// id for, and its permissions. So where the parent may make nodes, it makes the tmpfs for /dev as well, both with ids
// of the namespace, and passes it to the stub as a detached mount.

// devFS is the tmpfs for /dev that the parent makes.
type devFS struct {
	mount *mount
	nodes []*device
}

// errNotMade means that the parent can't make the nodes either; they are bound then.
var errNotMade = errors.New("device nodes can't be made")

// planDevFS decides whether the parent makes /dev. What the container's configuration mounts there or inside must leave
// the nodes where they are.
func (p *Plan) planDevFS() {
	if !p.cfg.UserNS || p.cfg.Rootless || p.cfg.HostNS {
		return
	}
	var dev *mount
	for i := range p.mounts {
		if m := &p.mounts[i]; m.Destination == "/dev" {
			if dev != nil || !parentCanMount(m) {
				return
			}
			dev = m
		}
	}
	if dev == nil {
		return
	}
	fs := &devFS{mount: dev}
	for i := range p.devices {
		if d := &p.devices[i]; d.mode&unix.S_IFMT != unix.S_IFIFO && p.onlyInDev(d.path) {
			d.made = true
			fs.nodes = append(fs.nodes, d)
		}
	}
	// The last, so that it can be dropped without changing the numbers of others.
	dev.source = len(p.sources)
	p.sources = append(p.sources, source{field: dev.Field, dev: fs})
}

// parentCanMount tells whether a mount at /dev is the same when the parent makes it. Ids in its options are the user
// namespace's; and nodev would be for the nodes in it, which it is not for nodes that are bound.
func parentCanMount(m *mount) bool {
	return m.Type == "tmpfs" && !m.Bind && !m.Remount && !m.CopyUp && m.Super == 0 && !needsMount2(m) &&
		!m.Has("uid") && !m.Has("gid") && m.Attr.Set&unix.MOUNT_ATTR_NODEV == 0
}

// onlyInDev tells whether a path is in /dev, and nothing is mounted on the way to it.
func (p *Plan) onlyInDev(path string) bool {
	for i := range p.mounts {
		if d := p.mounts[i].Destination; d != "/dev" && below(d, "/dev") && (below(path, d) || below(d, path)) {
			return false
		}
	}
	return path != "/dev" && below(path, "/dev")
}

// dropDevFS has the stub mount /dev, and bind the nodes.
func (p *Plan) dropDevFS() {
	last := len(p.sources) - 1
	fs := p.sources[last].dev
	fs.mount.source = -1
	for _, d := range fs.nodes {
		d.made = false
	}
	p.sources = p.sources[:last]
}

// make returns the file system, detached. errNotMade means that nothing is wrong but that it can't be had.
func (fs *devFS) make(p *Plan) (*os.File, error) {
	ids, err := p.mappedIDs()
	if err != nil {
		return nil, err
	}
	uid, gid, ok := ids.host(0, 0)
	if !ok {
		return nil, errNotMade
	}
	dir, err := fs.tmpfs(p, uid, gid)
	if err != nil {
		return nil, err
	}
	for _, d := range fs.nodes {
		if err := d.make(dir, ids); err != nil {
			dir.Close()
			if errors.Is(err, unix.EPERM) {
				err = errNotMade // in a user namespace itself, or by its device cgroup
			}
			return nil, err
		}
	}
	return dir, nil
}

func (fs *devFS) tmpfs(p *Plan, uid, gid uint32) (*os.File, error) {
	m := fs.mount
	fail := func(call string, err error) error {
		switch err {
		case unix.ENOSYS, unix.EPERM:
			return errNotMade // the stub tries, and says why if it can't
		}
		return &fault.Error{Field: m.Field, Step: call, Err: err}
	}
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fail("fsopen tmpfs", err)
	}
	defer unix.Close(ctx)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(ctx, key, value); err != nil {
				err = fail("fsconfig "+key+"="+value, err)
			}
		}
	}
	if m.Source != "" {
		set("source", m.Source)
	}
	if !m.Has("mode") {
		if mode := newGuide(p.root).mode(m.Destination); mode != "" {
			set("mode", mode)
		}
	}
	set("uid", strconv.FormatUint(uint64(uid), 10))
	set("gid", strconv.FormatUint(uint64(gid), 10))
	params, _ := m.Params()
	for _, o := range params {
		if !o.Flag {
			set(o.Key, o.Value)
		} else if err == nil {
			if err = unix.FsconfigSetFlag(ctx, o.Key); err != nil {
				err = fail("fsconfig "+o.Key, err)
			}
		}
	}
	if p.label != "" && !m.Has("context") {
		set("context", p.label)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, fail("fsconfig tmpfs", err)
	}
	attr := m.Attr.Set
	if m.late {
		attr &^= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return nil, fail("fsmount tmpfs", err)
	}
	return os.NewFile(uintptr(fd), "/dev"), nil
}

// make makes the node in dir, which nobody else has yet, and the directories to it.
func (d *device) make(dir *os.File, ids idMaps) error {
	fail := func(call string, err error) error { return &fault.Error{Field: d.field, Step: call, Err: err} }
	fd := int(dir.Fd())
	name := strings.TrimPrefix(d.path, "/dev/")
	rootUID, rootGID, _ := ids.host(0, 0)
	for _, sub := range prefixes(path.Dir("/" + name)) {
		sub = sub[1:]
		err := unix.Mkdirat(fd, sub, dirMode)
		if err == unix.EEXIST {
			continue
		}
		if err == nil {
			err = own(fd, sub, rootUID, rootGID, dirMode)
		}
		if err != nil {
			return fail("mkdirat", err)
		}
	}
	uid, gid, ok := ids.host(d.uid, d.gid)
	if !ok {
		d.made = false // an owner that can't be: it stays the host's
		return nil
	}
	err := unix.Mknodat(fd, name, d.mode, int(d.dev))
	if err == unix.EEXIST {
		return nil // listed twice: the first counts, as without a user namespace
	}
	if err == nil {
		err = own(fd, name, uid, gid, d.mode&0o7777)
	}
	if err != nil {
		return fail("mknodat", err)
	}
	return nil
}

// own sets a file's owner, and its mode whatever the umask is, which is the whole program's.
func own(dir int, name string, uid, gid, mode uint32) error {
	if err := unix.Fchownat(dir, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(dir, name, mode, 0)
}

// idMaps are the maps of a user namespace.
type idMaps struct{ uid, gid []specs.LinuxIDMapping }

// host returns what ids of the namespace are outside.
func (m idMaps) host(uid, gid uint32) (hostUID, hostGID uint32, ok bool) {
	hostUID, uok := hostID(m.uid, uid)
	hostGID, gok := hostID(m.gid, gid)
	return hostUID, hostGID, uok && gok
}

func hostID(maps []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// mappedIDs returns the maps of the container's user namespace.
func (p *Plan) mappedIDs() (idMaps, error) {
	join := p.userNamespacePath()
	if join == "" {
		return idMaps{p.cfg.Spec.Linux.UIDMappings, p.cfg.Spec.Linux.GIDMappings}, nil
	}
	// A user namespace tells its maps only by a process in it.
	h, err := stub.Start(stub.Config{})
	if err != nil {
		return idMaps{}, err
	}
	defer h.Kill()
	b := new(stub.Batch)
	fd := b.Openat(stub.CWD, join, unix.O_RDONLY, 0)
	b.Call(unix.SYS_SETNS, fd.Arg(), stub.Int(unix.CLONE_NEWUSER))
	if h.Do(b) != nil {
		return idMaps{}, errNotMade // the container's first process joins it, too, and says why if it can't
	}
	var ids idMaps
	for _, m := range []struct {
		file string
		to   *[]specs.LinuxIDMapping
	}{{"uid_map", &ids.uid}, {"gid_map", &ids.gid}} {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(h.Pid) + "/" + m.file)
		if err != nil {
			return idMaps{}, err
		}
		*m.to = parseIDMap(string(text))
	}
	return ids, nil
}

// parseIDMap reads a map as the kernel writes it (user_namespaces(7)).
func parseIDMap(text string) (maps []specs.LinuxIDMapping) {
	for line := range strings.Lines(text) {
		var m specs.LinuxIDMapping
		if n, _ := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); n == 3 {
			maps = append(maps, m)
		}
	}
	return maps
}
