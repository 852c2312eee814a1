package rootfs

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/overlay"
	"hull/internal/stub"
)

// layRoot makes a root that shows the host's files by overlays, as package overlay has it.
//
// The stage is a file system that the container never sees: the upper directories, the directories that overlayfs works
// in, and the mount point of the root, which is the upper directory itself. It is attached over the root of this mount
// namespace, where it hides nothing from the stub: a process doesn't look above its own root directory.
func (e *emitter) layRoot(p *overlay.Plan) {
	b := e.b
	b.In("")
	e.stage = e.makeStage(p)
	e.made.stage = kept{b, e.stage}
	if p.Served != nil {
		e.makeFiles(p)
		e.root = e.sources[e.served]
		b.MoveMount(e.root, b.Openat(e.stage, stageRoot, openDir, 0))
		e.made.root = kept{b, e.root}
		return
	}
	e.makeUpper(p)
	e.makeFiles(p)
	e.root = b.OpenTree(e.stage, e.upper("/"), unix.OPEN_TREE_CLONE)
	b.Note("the container's root")
	b.MoveMount(e.root, b.Openat(e.stage, stageRoot, openDir, 0))
	if p.Serve {
		e.makeServed()
	}
	laid := e.makeOverlays(p)
	for i, m := range p.Entries {
		switch {
		case m.Kind == overlay.Overlay:
			e.showOverlay(m, laid[i])
		case m.Kind == overlay.Dir && m.Over:
			e.reveal(m, p, laid)
		case m.Kind == overlay.File:
			e.showFile(m)
		}
	}
	if p.Send {
		b.In("")
		b.SendFDs(b.Openat(e.stage, e.upper("/"), openDir, 0).Arg())
	}
	e.made.root = kept{b, e.root}
}

// makeServed makes the file system that the program is to serve, and sends its mount. FUSE takes requests of none but the user
// that it is mounted for, and asks who has opened the device, in this user namespace (Linux 4.18).
func (e *emitter) makeServed() {
	b := e.b
	device := stub.Fd(stub.FirstExtra)
	dup3(b, b.Openat(stub.CWD, "/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0), device)
	fs := b.Fsopen("fuse")
	b.FsconfigString(fs, "source", "hull")
	b.FsconfigString(fs, "fd", strconv.Itoa(stub.FirstExtra))
	b.FsconfigString(fs, "rootmode", strconv.FormatInt(unix.S_IFDIR, 8))
	u := e.cfg.Spec.Process.User
	b.FsconfigString(fs, "user_id", strconv.FormatUint(uint64(u.UID), 10))
	b.FsconfigString(fs, "group_id", strconv.FormatUint(uint64(u.GID), 10))
	b.FsconfigFlag(fs, "default_permissions")
	b.FsconfigCreate(fs, "fuse")
	b.SendFDs(b.Fsmount(fs, hostAttr, "fuse").Arg())
}

// Names in the stage.
const (
	stageRoot  = "root"
	stageKept  = "kept"
	stageUpper = "upper"
	stageWork  = "work"
	stageMade  = "made"
	stageJoint = "joint"
)

// makeStage mounts the stage.
func (e *emitter) makeStage(p *overlay.Plan) stub.FD {
	b := e.b
	var kept stub.FD
	if p.Upper != "" {
		kept = b.OpenTree(stub.CWD, p.Upper, unix.OPEN_TREE_CLONE)
	}
	fs := b.Fsopen("tmpfs")
	b.FsconfigString(fs, "mode", "0755")
	if p.Size != "" {
		b.FsconfigString(fs, "size", p.Size)
	}
	b.FsconfigCreate(fs, "tmpfs")
	stage := b.Fsmount(fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "tmpfs")
	b.MoveMount(stage, b.Openat(stub.CWD, "/", openDir, 0))
	mkdirat(b, stage, stageRoot, dirMode)
	if p.Upper != "" {
		mkdirat(b, stage, stageKept, dirMode)
		b.MoveMount(kept, b.Openat(stage, stageKept, openDir, 0))
		e.stageDir = stageKept
	}
	mkdirat(b, stage, path.Join(e.stageDir, stageUpper), dirMode)
	mkdirat(b, stage, path.Join(e.stageDir, stageWork), 0o700)
	// Overlayfs takes its directories as strings: relative to the stage they need no name for it.
	fchdir(b, stage)
	return stage
}

// upper returns the name in the stage of what holds the changes to a path of the container.
func (e *emitter) upper(p string) string { return path.Join(e.stageDir, stageUpper, p) }

// makeUpper makes what has to be in the upper directories before they are used. The umask is 0.
func (e *emitter) makeUpper(p *overlay.Plan) {
	b := e.b
	oneOwner := p.UserNS && e.oneID()
	for _, m := range p.Entries {
		name := e.upper(m.Path)
		switch m.Kind {
		case overlay.Link:
			symlinkat(b, m.Source, e.stage, name)
		case overlay.File:
			if !m.Over {
				mknodat(b, e.stage, name, unix.S_IFREG|fileMode, 0)
			}
		default:
			if m.Path != "/" {
				mkdirat(b, e.stage, name, m.Mode)
			}
			if m.Kind == overlay.Dir && m.Over && e.hidesByMark(p) {
				e.markEmpty(m.Path, p.UserNS)
			}
			// On a tmpfs nothing is inherited from the directory above: most are as they should be when they are made.
			fresh := p.Upper == "" && m.Path != "/"
			if fresh && !p.UserNS && m.UID == 0 && m.GID == 0 {
				continue
			}
			if !oneOwner {
				// An owner who has no id here stays the container's user.
				b.Ignore(fchownat(b, e.stage, name, m.UID, m.GID), unix.EINVAL)
			}
			if fresh {
				continue
			}
			b.Call(unix.SYS_FCHMODAT, e.stage.Arg(), b.String(name).Arg(), stub.Int(m.Mode))
			b.Note(strconv.Quote(name))
		}
	}
}

// oneID tells whether the user namespace has one user and one group, which all that is made there belongs to already.
func (e *emitter) oneID() bool {
	one := func(m []specs.LinuxIDMapping) bool { return len(m) == 1 && m[0].Size == 1 }
	l := e.cfg.Spec.Linux
	return l != nil && one(l.UIDMappings) && one(l.GIDMappings)
}

// laid is an overlay that is not to be seen yet. If overlayfs has refused it, its mount is -EBADF.
type laid struct {
	lower, mount     stub.FD
	lowerdir, create stub.Result // by which it may be refused
	joint            bool        // it is over all of the root
}

// makeOverlays makes the overlays of a plan and returns them by the indexes of their entries. One that lies in others comes
// before these, and last the joint one: overlayfs warns of an upper directory that lies in another's which is in use already.
func (e *emitter) makeOverlays(p *overlay.Plan) map[int]*laid {
	made := make(map[int]*laid, len(p.Entries))
	var joint []int
	for i, m := range slices.Backward(p.Entries) {
		switch {
		case m.Kind != overlay.Overlay:
		case m.Joint && p.Upper == "" && e.cfg.Kernel.Openat2:
			joint = append(joint, i)
		default:
			made[i] = e.makeOverlay(p, m.Path, m.Source, i, m.Path != "/")
		}
	}
	if len(joint) == 0 {
		return made
	}
	b := e.b
	o := e.makeOverlay(p, "/", p.Root, len(p.Entries), true)
	o.joint = true
	// Parts of a mount that is attached nowhere can't be copied before Linux 6.15. It goes with the stage.
	mkdirat(b, e.stage, stageJoint, 0o700)
	b.Ignore(b.MoveMount(o.mount, b.Openat(e.stage, stageJoint, openDir, 0)), unix.EBADF)
	for _, i := range joint {
		made[i] = o
	}
	return made
}

// makeOverlay makes an overlay over a directory of the host for a path of the container. What makes changes hard to read as
// plain files stays off.
//
// The directory is opened once, through no link, and overlayfs gets the descriptor: what the plan has seen is what is
// shown, and mountinfo, which the container can read, has no path of the host.
func (e *emitter) makeOverlay(p *overlay.Plan, name, source string, n int, mayFail bool) *laid {
	b := e.b
	work := path.Join(e.stageDir, stageWork, strconv.Itoa(n))
	mkdirat(b, e.stage, work, 0o700)
	o := &laid{lower: e.openHost(source, openDir)}
	refused := b.Label()
	if mayFail {
		b.OnErr(o.lower.Result(), unix.ENOENT, refused) // gone since it was planned: a mount of the host that ended
	}
	fs := b.Fsopen("overlay")
	b.FsconfigString(fs, "source", "hull")
	o.lowerdir = b.FsconfigString(fs, "lowerdir", at(b, o.lower))
	b.OnErr(o.lowerdir, 0, refused)
	b.FsconfigString(fs, "upperdir", escape(e.upper(name), `\`))
	b.FsconfigString(fs, "workdir", work)
	b.FsconfigString(fs, "index", "off")
	b.FsconfigString(fs, "metacopy", "off")
	if p.UserNS {
		b.FsconfigFlag(fs, "userxattr") // which leaves redirect_dir off
	} else {
		b.FsconfigString(fs, "redirect_dir", "off")
	}
	if p.Upper == "" || p.Volatile {
		// Nothing of it survives a crash anyway (Linux 5.10).
		b.Ignore(b.FsconfigFlag(fs, "volatile"), unix.EINVAL)
	}
	o.create = b.FsconfigCreate(fs, fmt.Sprintf("overlay over %q", source))
	if mayFail {
		b.OnErr(o.create, 0, refused)
	}
	o.mount = b.Fsmount(fs, hostAttr, "overlay")
	b.Mark(refused)
	return o
}

// showOverlay mounts an overlay where it is to be seen; or what it is over, read-only, if overlayfs has refused it.
func (e *emitter) showOverlay(m overlay.Entry, o *laid) {
	b := e.b
	if m.Path == "/" {
		// It covers the mount that is the root so far, and is the root from now on.
		b.MoveMount(o.mount, e.root)
		e.root = o.mount
		return
	}
	refused, shown := b.Label(), b.Label()
	lower := o.lower
	if o.joint {
		// Through no link: one could lead out of the overlay.
		how := unix.OpenHow{Flags: openDir, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
		part := b.Openat2(o.mount, m.Path[1:], how)
		b.OnErr(part.Result(), unix.EBADF, refused)
		b.MoveMount(b.OpenTree(part, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH), e.open(m.Path, openDir, noLinks))
		b.Goto(shown)
		b.Mark(refused)
		lower = e.openHost(m.Source, openDir)
	} else {
		jumpIf(b, lower.Arg(), all, errnoResult(unix.ENOENT), shown)
		r := b.MoveMount(o.mount, e.open(m.Path, openDir, noLinks))
		b.OnOK(r, shown)
		b.OnErr(r, unix.EBADF, refused)
		b.Mark(refused)
	}
	fd := b.OpenTree(lower, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	b.Note(strconv.Quote(m.Source))
	// Gone since it was opened: to remove the directory that it was on, in the caller's namespace, takes it out of this one.
	b.OnErr(fd.Result(), unix.EINVAL, shown)
	e.attachHost(fd, e.open(m.Path, openDir, noLinks))
	b.Mark(shown)
	e.made.overlays = append(e.made.overlays, madeOverlay{m.Path, b, [2]stub.Result{o.lowerdir, o.create}})
}

// attachHost attaches a copy of a mount of the host's, read-only and private: what the host mounts there later would appear in it as it is there, and
// could be written to.
func (e *emitter) attachHost(fd, where stub.FD) {
	const attr = unix.MOUNT_ATTR_RDONLY | hostAttr
	if e.cfg.Kernel.MountSetattr {
		e.b.MountSetattr(fd, 0, unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE})
		e.b.MoveMount(fd, where)
		return
	}
	e.b.MoveMount(fd, where)
	e.setAttrLate(fd, attr)
	e.b.Mount("", at(e.b, fd), "", unix.MS_PRIVATE, "")
}

// hostAttr are the attributes of all that is shown of the host.
const hostAttr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// madeOverlay are the calls by which an overlay may be refused.
type madeOverlay struct {
	path  string
	b     *stub.Batch
	calls [2]stub.Result
}

// Refused returns, when the batch has been executed, a warning for each directory that overlayfs could not take: it is
// there, but can't be written.
func (p *Plan) Refused() (warnings []string) {
	for _, o := range p.made.overlays {
		for _, call := range o.calls {
			if errno := o.b.Errno(call); errno != 0 {
				warnings = append(warnings, fmt.Sprintf("%s is read-only: overlayfs does not take the file system that it is on: %v", o.path, errno))
				break
			}
		}
	}
	return warnings
}

// openHost opens a file of the host by a path without symbolic links.
func (e *emitter) openHost(p string, flags uint64) stub.FD {
	if e.cfg.Kernel.Openat2 {
		return e.b.Openat2(stub.CWD, p, unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_NO_SYMLINKS})
	}
	return e.b.Openat(stub.CWD, p, int(flags)|unix.O_NOFOLLOW, 0)
}

// bindHost mounts what is shown as it is. It comes after the mounts of the configuration, so that it can be in /dev.
func (e *emitter) bindHost(p *overlay.Plan) {
	for _, m := range p.Binds {
		e.b.In(fmt.Sprintf("bind %q", m.Path))
		flags := uint(unix.OPEN_TREE_CLONE | unix.AT_EMPTY_PATH)
		var attrFlags uint
		if m.Recursive {
			flags |= unix.AT_RECURSIVE
			attrFlags = unix.AT_RECURSIVE
		}
		attr := uint64(unix.MOUNT_ATTR_NOSUID)
		if !m.Device {
			attr |= unix.MOUNT_ATTR_NODEV
		}
		if m.ReadOnly {
			attr |= unix.MOUNT_ATTR_RDONLY
		}
		fd := e.b.OpenTree(e.openHost(m.Source, openPath), "", flags)
		e.b.Note(strconv.Quote(m.Source))
		var propagation uint64 // a slave's, as all mounts are
		if m.ReadOnly {
			propagation = unix.MS_PRIVATE // what the host mounts in it later could be written to
		}
		if e.cfg.Kernel.MountSetattr {
			e.b.MountSetattr(fd, attrFlags, unix.MountAttr{Attr_set: attr, Propagation: propagation})
		}
		e.attach(fd, m.Path, true)
		if e.setAttrLate(fd, attr); m.ReadOnly && !e.cfg.Kernel.MountSetattr {
			e.b.Mount("", at(e.b, fd), "", unix.MS_PRIVATE, "")
		}
		e.guide.mounted(m.Path, m.Source)
	}
	e.b.In("")
}

// makeFiles makes the files that the host doesn't have.
func (e *emitter) makeFiles(p *overlay.Plan) {
	b := e.b
	if len(p.Files) > 0 {
		mkdirat(b, e.stage, stageMade, dirMode)
	}
	for i, m := range p.Files {
		fd := b.Openat(e.stage, path.Join(stageMade, strconv.Itoa(i)), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, fileMode)
		r := b.Call(unix.SYS_WRITE, fd.Arg(), b.Const(m.Content).Arg(), stub.Int(len(m.Content)))
		b.Note(strconv.Quote(m.Path))
		b.Assert(r.Arg(), all, uint64(len(m.Content)), unix.ENOSPC, m.Path)
		b.Close(fd)
	}
}

// bindMade mounts the files that makeFiles has made.
func (e *emitter) bindMade(p *overlay.Plan) {
	const attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOEXEC | hostAttr
	b := e.b
	b.In("")
	for i, m := range p.Files {
		fd := b.OpenTree(e.stage, path.Join(stageMade, strconv.Itoa(i)), unix.OPEN_TREE_CLONE)
		e.setAttr(fd, attr)
		attached := b.Label()
		e.attachMade(fd, m.Path, attached)
		b.Mark(attached)
		e.setAttrLate(fd, attr)
	}
}

// hidesByMark tells whether a directory that is empty in an overlay gets overlayfs' mark that nothing below it is meant. That is
// a third of the calls that a mount takes. But in changes that somebody reads it would say that the command has emptied it, and
// a program that gets trees gets each of one mount alone.
func (e *emitter) hidesByMark(p *overlay.Plan) bool {
	return p.Upper == "" && !p.Send && !p.Serve && e.cfg.Donated == nil
}

// markEmpty makes a directory of the upper layer opaque (Documentation/filesystems/overlayfs.rst). The container can't take it back:
// what it does to such attributes overlayfs does to others.
func (e *emitter) markEmpty(p string, userNS bool) {
	b, prefix := e.b, "trusted"
	if userNS {
		prefix = "user"
	}
	r := b.Call(unix.SYS_LSETXATTR, b.String(e.upper(p)).Arg(), b.String(prefix+".overlay.opaque").Arg(), b.Const([]byte("y")).Arg(), stub.Int(1), stub.Int(0))
	b.Note(strconv.Quote(p))
	b.Ignore(r, 0)
	if e.hidden == nil {
		e.hidden = make(map[string]stub.Result)
	}
	e.hidden[p] = r
}

// reveal shows an empty directory in an overlay. Unless that hides what is below it, or if overlayfs has refused it, a part of
// the upper directory alone is mounted.
func (e *emitter) reveal(m overlay.Entry, p *overlay.Plan, made map[int]*laid) {
	b := e.b
	shown := b.Label()
	if marked, ok := e.hidden[m.Path]; ok {
		mount := b.Label()
		b.OnErr(b.Assert(marked.Arg(), all, 0, unix.EINVAL, "opaque"), 0, mount)
		jumpIf(b, covering(m.Path, p, made).mount.Arg(), all, errnoResult(unix.EBADF), mount)
		b.Goto(shown)
		b.Mark(mount)
	}
	fd := b.OpenTree(e.stage, e.upper(m.Path), unix.OPEN_TREE_CLONE)
	b.MoveMount(fd, e.open(m.Path, openDir, noLinks))
	b.Mark(shown)
}

// covering returns the innermost overlay that a path of the container lies in.
func covering(name string, p *overlay.Plan, made map[int]*laid) *laid {
	var o *laid
	for i, m := range p.Entries { // those above come before
		if m.Kind == overlay.Overlay && (m.Path == "/" || strings.HasPrefix(name, m.Path+"/")) {
			o = made[i]
		}
	}
	return o
}

// showFile binds a file of the host, read-only.
func (e *emitter) showFile(m overlay.Entry) {
	file, gone := e.openHost(m.Source, openPath), e.b.Label()
	e.b.OnErr(file.Result(), unix.ENOENT, gone)
	fd := e.b.OpenTree(file, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	e.attachHost(fd, e.open(m.Path, openPath, noLinks))
	e.b.Mark(gone)
}

// escape puts a backslash before each of the characters that overlayfs takes for its own.
func escape(s, special string) string {
	var e strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte(special, c) >= 0 {
			e.WriteByte('\\')
		}
		e.WriteByte(c)
	}
	return e.String()
}
