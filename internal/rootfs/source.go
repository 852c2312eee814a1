package rootfs

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/stub"
)

// source is something that the parent opens, with its rights, and passes to the stub.
type source struct {
	field string
	tree  *mnt.Mount // a detached copy of the source of this bind mount, idmapped if it is to be; or nil
	ids   *mnt.IDMap // a user namespace with these maps
	join  string     // a user namespace by its path
	serve *mnt.Mount // a socket: what the stub sends over it is idmapped as this mount is to be
	dev   *devFS     // the file system for /dev
	root  *os.File   // the root, of a plan that has one served
}

// maxSources is what one message can carry: SCM_MAX_FD, less some. Whatever comes after that the stub opens itself,
// if it may.
const maxSources = 250

// planSources decides what the parent must open.
//
// A user namespace's root can't open what only the host's root may reach, and can't idmap the host's file systems: the
// parent does it. Without a user namespace the stub may do all that, and does it at the right moment, since a source
// can be what an earlier mount has made; it lacks only the user namespace that says which ids to map. Where both are
// wanted, the stub opens the source and has the parent map it.
func (p *Plan) planSources() (errs []error) {
	for i := range p.mounts {
		m := &p.mounts[i]
		if !m.Bind || m.Remount {
			continue
		}
		if m.IDMap != nil {
			if err := p.resolveIDMap(m); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		switch mapped, inside := m.IDMap != nil, below(m.Source, p.root); {
		case mapped && !p.cfg.UserNS:
			m.userns = p.addSource(p.userNamespace(&m.Mount))
		case mapped && inside:
			m.served = p.addSource(source{field: m.Field, serve: &m.Mount})
		case mapped || p.cfg.UserNS && !p.cfg.Rootless && !inside && len(p.sources) < maxSources:
			m.source = p.addSource(source{field: m.Field, tree: &m.Mount})
			p.detach(&m.Mount)
		}
	}
	return errs
}

// detach makes a tree that the parent opens what it were if the stub had opened it: a slave of the host's mounts, with
// what linux.rootfsPropagation gives to all. As a copy made in the host's namespace it is their peer, and whatever the
// container mounted below it would show on the host, and stay there.
func (p *Plan) detach(m *mnt.Mount) {
	if len(m.Propagation) == 1 && m.Propagation[0] == unix.MS_PRIVATE|unix.MS_REC {
		return // which is what most configurations have
	}
	propagation := []uint64{unix.MS_SLAVE | unix.MS_REC}
	switch p.propagation {
	case unix.MS_PRIVATE | unix.MS_REC, unix.MS_SHARED | unix.MS_REC:
		propagation = append(propagation, p.propagation)
	}
	m.Propagation = append(propagation, m.Propagation...)
}

// addSource returns the index of s; an equal one serves for both.
func (p *Plan) addSource(s source) int {
	for i, o := range p.sources {
		if s.tree == nil && o.tree == nil && s.serve == nil && o.serve == nil && o.join == s.join && reflect.DeepEqual(o.ids, s.ids) {
			return i
		}
	}
	p.sources = append(p.sources, s)
	return len(p.sources) - 1
}

func (p *Plan) userNamespace(m *mnt.Mount) source {
	if m.IDMap.UID != nil {
		return source{field: m.Field, ids: &mnt.IDMap{UID: m.IDMap.UID, GID: m.IDMap.GID}}
	}
	return source{field: m.Field, join: p.userNamespacePath()}
}

// resolveIDMap gives a mount without maps those of the container.
func (p *Plan) resolveIDMap(m *mount) error {
	switch l := p.cfg.Spec.Linux; {
	case !p.cfg.Kernel.MountSetattr:
		return &fault.Error{Field: m.Field, Kind: fault.Unsupported, Err: errors.New("idmapped mounts need Linux 5.12")}
	case p.cfg.Rootless:
		return &fault.Error{Field: m.Field, Kind: fault.Unsupported, Err: errors.New("idmapped mounts need root"),
			Hint: "only root of the user namespace that a file system belongs to may map its ids"}
	case m.IDMap.UID != nil:
		return nil
	case !p.cfg.UserNS || l == nil:
		return fault.Spec(m.Field+": options", "idmap needs uidMappings and gidMappings, here or of a user namespace of the container")
	case p.userNamespacePath() == "":
		m.IDMap.UID, m.IDMap.GID = l.UIDMappings, l.GIDMappings
	}
	return nil
}

func (p *Plan) userNamespacePath() string {
	for _, ns := range p.cfg.Spec.Linux.Namespaces {
		if ns.Type == specs.UserNamespace {
			return ns.Path
		}
	}
	return ""
}

// Sources opens what the stub could not, to be passed to it in this order. The caller closes the files.
func (p *Plan) Sources() (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	for _, s := range p.sources {
		f, err := p.open(s)
		if s.dev != nil && errors.Is(err, errNotMade) {
			p.dropDevFS()
			break // it is the last
		}
		if _, explained := err.(*fault.Error); explained {
			return files, err
		}
		if err != nil {
			return files, &fault.Error{Field: s.field, Step: stepOf(err), Err: cause(err)}
		}
		files = append(files, f)
	}
	return files, nil
}

func (p *Plan) open(s source) (*os.File, error) {
	switch {
	case s.root != nil:
		return s.root, nil
	case s.dev != nil:
		return s.dev.make(p)
	case s.serve != nil:
		return p.serve(s.serve)
	case s.tree == nil:
		return openUserNamespace(s)
	}
	f, err := openTree(s.tree.Source, s.tree.Recursive)
	if err != nil || s.tree.IDMap == nil {
		return f, err
	}
	ns, err := openUserNamespace(p.userNamespace(s.tree))
	if err != nil {
		f.Close()
		return nil, err
	}
	defer ns.Close()
	if err := idmap(f, ns, s.tree.IDMap.Recursive); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// serve returns a socket; the one mount that the stub sends over it is idmapped. The parent's end is closed, and the
// goroutine ends, at the latest when the stub has closed its own.
func (p *Plan) serve(m *mnt.Mount) (*os.File, error) {
	ns, err := openUserNamespace(p.userNamespace(m))
	if err != nil {
		return nil, err
	}
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		ns.Close()
		return nil, os.NewSyscallError("socketpair", err)
	}
	go func() {
		defer ns.Close()
		defer unix.Close(sp[0])
		tree := receiveFile(sp[0], m.Source)
		if tree == nil {
			return
		}
		defer tree.Close()
		if idmap(tree, ns, m.IDMap.Recursive) == nil {
			unix.Write(sp[0], []byte{0})
		}
	}()
	return os.NewFile(uintptr(sp[1]), "socket"), nil
}

// receiveFile takes one descriptor from a socket; nil if none comes.
func receiveFile(socket int, name string) *os.File {
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			return nil
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			return nil
		}
		return os.NewFile(uintptr(fds[0]), name)
	}
}

func openTree(path string, rec bool) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive(rec))
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func idmap(f, ns *os.File, rec bool) error {
	err := unix.MountSetattr(int(f.Fd()), "", recursive(rec)|unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd()),
	})
	runtime.KeepAlive(ns)
	if err != nil {
		return &os.PathError{Op: "mount_setattr idmap", Path: f.Name(), Err: err}
	}
	return nil
}

// MapIDs makes a detached mount an idmapped one.
func MapIDs(mount *os.File, ids *mnt.IDMap) error {
	ns, err := openUserNamespace(source{ids: ids})
	if err != nil {
		return err
	}
	defer ns.Close()
	return idmap(mount, ns, false)
}

// openUserNamespace opens a user namespace, if need be a new one: its only process ends at once, the descriptor keeps
// it.
func openUserNamespace(s source) (*os.File, error) {
	if s.join != "" {
		return os.Open(s.join)
	}
	h, err := stub.Start(stub.Config{})
	if err != nil {
		return nil, err
	}
	defer h.Kill()
	b := new(stub.Batch)
	b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWUSER))
	b.Note("user namespace")
	if err := h.Do(b); err != nil {
		return nil, err
	}
	proc := "/proc/" + strconv.Itoa(h.Pid)
	if err := os.WriteFile(proc+"/uid_map", idMap(s.ids.UID), 0); err != nil {
		return nil, err
	}
	if err := os.WriteFile(proc+"/gid_map", idMap(s.ids.GID), 0); err != nil {
		return nil, err
	}
	return os.Open(proc + "/ns/user")
}

// idMap returns the text of a map, see user_namespaces(7).
func idMap(m []specs.LinuxIDMapping) []byte {
	var s strings.Builder
	for _, e := range m {
		fmt.Fprintf(&s, "%d %d %d\n", e.ContainerID, e.HostID, e.Size)
	}
	return []byte(s.String())
}

// stepOf and cause take apart what the standard library says of a call.
func stepOf(err error) string {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return e.Op + " " + strconv.Quote(e.Path)
	}
	return ""
}

func cause(err error) error {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
