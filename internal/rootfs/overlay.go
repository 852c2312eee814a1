package rootfs

import (
	"fmt"
	"path"
	"strconv"
	"strings"

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
	e.makeUpper(p)
	e.root = b.OpenTree(e.stage, e.upper("/"), unix.OPEN_TREE_CLONE)
	b.Note("the container's root")
	b.MoveMount(e.root, b.Openat(e.stage, stageRoot, openDir, 0))
	works := 0
	for _, m := range p.Entries {
		switch {
		case m.Kind == overlay.Overlay:
			works++
			e.overlay(p, m, works)
		case m.Kind == overlay.Dir && m.Over:
			e.reveal(m)
		case m.Kind == overlay.File:
			e.showFile(m)
		}
	}
	e.made.root = kept{b, e.root}
}

// Names in the stage.
const (
	stageRoot  = "root"
	stageKept  = "kept"
	stageUpper = "upper"
	stageWork  = "work"
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
				mkdirat(b, e.stage, name, 0o700)
			}
			// An owner who has no id here stays the container's user.
			b.Ignore(fchownat(b, e.stage, name, m.UID, m.GID), unix.EINVAL)
			b.Call(unix.SYS_FCHMODAT, e.stage.Arg(), b.String(name).Arg(), stub.Int(m.Mode))
			b.Note(strconv.Quote(name))
		}
	}
}

// overlay mounts the overlay of a directory. What makes changes hard to read as plain files stays off.
func (e *emitter) overlay(p *overlay.Plan, m overlay.Entry, n int) {
	b := e.b
	work := path.Join(e.stageDir, stageWork, strconv.Itoa(n))
	mkdirat(b, e.stage, work, 0o700)
	fs := b.Fsopen("overlay")
	b.FsconfigString(fs, "source", "hull")
	b.FsconfigString(fs, "lowerdir", escape(m.Source, `\:`))
	b.FsconfigString(fs, "upperdir", escape(e.upper(m.Path), `\`))
	b.FsconfigString(fs, "workdir", work)
	b.FsconfigString(fs, "index", "off")
	b.FsconfigString(fs, "metacopy", "off")
	if p.UserNS {
		b.FsconfigFlag(fs, "userxattr") // which leaves redirect_dir off
	} else {
		b.FsconfigString(fs, "redirect_dir", "off")
	}
	if p.Upper == "" {
		// Nothing of it survives a crash anyway (Linux 5.10).
		b.Ignore(b.FsconfigFlag(fs, "volatile"), unix.EINVAL)
	}
	b.FsconfigCreate(fs, fmt.Sprintf("overlay over %q", m.Source))
	fd := b.Fsmount(fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "overlay")
	if m.Path == "/" {
		// It covers the mount that is the root so far, and is the root from now on.
		b.MoveMount(fd, e.root)
		e.root = fd
		return
	}
	b.MoveMount(fd, e.open(m.Path, openDir, noLinks))
}

// reveal mounts an empty directory in an overlay: a part of the upper directory alone.
func (e *emitter) reveal(m overlay.Entry) {
	fd := e.b.OpenTree(e.stage, e.upper(m.Path), unix.OPEN_TREE_CLONE)
	e.b.MoveMount(fd, e.open(m.Path, openDir, noLinks))
}

// showFile binds a file of the host, read-only.
func (e *emitter) showFile(m overlay.Entry) {
	fd := e.b.OpenTree(stub.CWD, m.Source, unix.OPEN_TREE_CLONE)
	e.setAttr(fd, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	e.b.MoveMount(fd, e.open(m.Path, openPath, noLinks))
	e.setAttrLate(fd, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
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
