package rootfs

import (
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/stub"
)

// Resolution of paths of the container, for openat2(2).
const (
	inRoot   = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	noLinks  = inRoot | unix.RESOLVE_NO_SYMLINKS
	openPath = unix.O_PATH | unix.O_CLOEXEC
	openDir  = openPath | unix.O_DIRECTORY
	dirMode  = 0o755
	fileMode = 0o644
)

// emitter emits the batch of Prepare.
type emitter struct {
	*Plan
	b       *stub.Batch
	root    stub.FD // the container's root, as attached
	sources []stub.FD
	fresh   []freshMount
	guide   *guide

	stage    stub.FD // see layRoot
	stageDir string  // directory of the stage that changes go to
	hidden   map[string]stub.Result
}

// freshMount is a mount of this plan. Nobody but the plan makes anything in the new, empty file systems among them.
type freshMount struct {
	destination string
	fd          stub.FD
	empty       bool
}

// nearest returns the mount of this plan that path is in, if it is an empty file system, and the path within.
func (e *emitter) nearest(path string) (m freshMount, rel string, ok bool) {
	for _, f := range e.fresh {
		if below(path, f.destination) && len(f.destination) >= len(m.destination) {
			m = f
		}
	}
	if !m.empty || path == m.destination {
		return freshMount{}, "", false
	}
	return m, strings.TrimPrefix(path[len(m.destination):], "/"), true
}

// open opens a path of the container.
func (e *emitter) open(p string, flags, resolve uint64) stub.FD {
	return e.openOr(p, flags, resolve, 0)
}

// openOr is open with a place to go on if what stands on the way does not exist, or is no directory. Only walk needs it;
// whether the path itself exists is for the caller to see.
func (e *emitter) openOr(p string, flags, resolve uint64, missing stub.Label) stub.FD {
	if !e.cfg.Kernel.Openat2 && resolve&unix.RESOLVE_NO_SYMLINKS == 0 {
		p = e.guide.follow(p)
	}
	rel := strings.TrimPrefix(p, "/")
	if rel == "" {
		rel = "."
	}
	if !e.cfg.Kernel.Openat2 {
		return e.walk(rel, flags, missing)
	}
	return e.b.Openat2(e.root, rel, unix.OpenHow{Flags: flags, Resolve: resolve})
}

// walk is openat2(2) for kernels before 5.6: a descriptor a component. It takes no symbolic links at all, since a
// batch can't tell where they lead: those that there are, the guide has followed.
func (e *emitter) walk(rel string, flags uint64, missing stub.Label) stub.FD {
	dir := e.root
	for {
		name, rest, more := strings.Cut(rel, "/")
		if !more {
			return e.b.Openat(dir, name, int(flags)|unix.O_NOFOLLOW, 0)
		}
		if missing == 0 {
			dir = e.b.Openat(dir, name, openDir|unix.O_NOFOLLOW, 0)
		} else {
			dir = e.b.Openat(dir, name, openPath|unix.O_NOFOLLOW, 0)
			e.b.OnErr(dir.Result(), unix.ENOENT, missing)
			e.refuseLink(dir)
			is := e.b.Assert(fileType(e.b, dir).Arg(), unix.S_IFMT, unix.S_IFDIR, unix.ENOTDIR, name)
			e.b.OnErr(is, 0, missing)
		}
		rel = rest
	}
}

// refuseLink fails if walk has opened a link itself: that is what O_PATH without O_DIRECTORY does.
func (e *emitter) refuseLink(fd stub.FD) {
	if e.cfg.Kernel.Openat2 {
		return
	}
	ok := e.b.Label()
	link := e.b.Label()
	mode := fileType(e.b, fd)
	jumpIf(e.b, mode.Arg(), unix.S_IFMT, unix.S_IFLNK, link)
	e.b.Goto(ok)
	e.b.Mark(link)
	fail(e.b, unix.ELOOP, "symbolic link (following it needs Linux 5.6)")
	e.b.Mark(ok)
}

// attach attaches a detached mount at a path, which is made if it is missing: for a bind mount of a file as a file,
// else as a directory.
func (e *emitter) attach(fd stub.FD, p string, bind bool) {
	if m, rel, ok := e.nearest(p); ok && !bind {
		e.b.MoveMount(fd, e.makeDirs(m.fd, rel))
		return
	}
	b := e.b
	attached, slow := b.Label(), b.Label()
	// Most mount points exist and have no link on the way. Then the path can't lead into proc, see checkMount.
	real := e.guide.follow(p)
	if real == p && e.cfg.Kernel.Openat2 {
		target := e.open(p, openPath, noLinks)
		b.OnErr(target.Result(), 0, slow)
		b.OnOK(b.MoveMount(fd, target), attached)
	}
	b.Mark(slow)
	if bind {
		e.attachMade(fd, real, attached)
	} else {
		b.MoveMount(fd, e.makePath(real))
	}
	b.Mark(attached)
}

// attachMade attaches a bind mount at a path that may be missing.
func (e *emitter) attachMade(fd stub.FD, p string, attached stub.Label) {
	b := e.b
	isDir, create := b.Label(), b.Label()
	mode := fileType(b, fd)
	jumpIf(b, mode.Arg(), unix.S_IFMT, unix.S_IFDIR, isDir)

	dir := e.makePath(parent(p))
	target := e.open(p, openPath, inRoot)
	b.OnErr(target.Result(), 0, create)
	e.refuseLink(target)
	e.refuseProc(target)
	b.OnOK(b.MoveMount(fd, target), attached)
	b.Mark(create)
	// O_EXCL: not through a link that was made meanwhile, nor through a dangling one.
	file := b.Openat(dir, base(p), unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, fileMode)
	b.OnOK(b.MoveMount(fd, file), attached)

	b.Mark(isDir)
	b.MoveMount(fd, e.makePath(p))
}

// makePath opens a directory of the container and makes what is missing of it, a component at a time: each is made
// in a directory that was opened inside the root, under a plain name.
func (e *emitter) makePath(p string) stub.FD {
	dir := e.root
	for _, prefix := range prefixes(p) {
		e.b.Ignore(mkdirat(e.b, dir, base(prefix), dirMode), unix.EEXIST)
		dir = e.open(prefix, openDir, inRoot)
	}
	if p != "/" {
		e.refuseProc(dir)
	}
	return dir
}

// refuseProc fails if a link has led into a proc file system: see checkMount.
func (e *emitter) refuseProc(fd stub.FD) {
	proc, ok := e.b.Label(), e.b.Label()
	jumpIf(e.b, fileSystem(e.b, fd).Arg(), all, unix.PROC_SUPER_MAGIC, proc)
	e.b.Goto(ok)
	e.b.Mark(proc)
	fail(e.b, unix.EPERM, "the path leads into proc")
	e.b.Mark(ok)
}

// makeDirs makes the directories of a relative path below dir and returns the last. Nothing of the path may be a link.
func (e *emitter) makeDirs(dir stub.FD, rel string) stub.FD {
	for _, name := range strings.Split(rel, "/") {
		e.b.Ignore(mkdirat(e.b, dir, name, dirMode), unix.EEXIST)
		dir = e.b.Openat(dir, name, openDir|unix.O_NOFOLLOW, 0)
	}
	return dir
}
