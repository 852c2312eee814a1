package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/proc"
	"hull/internal/sandbox/image"
	"hull/internal/sandbox/wire"
)

// imageRate is how much of an image is saved or restored in a second, at the very least, in bytes. What takes longer is over.
const imageRate = 10 << 20

// checkImage refuses what CRIU can and a sandbox can't. The rest of the options makes no difference to it: connections inside, locks
// and terminals are saved in any case, and its network is always a new one.
func checkImage(i *engine.Image) error {
	k := &checker{}
	k.refuse(i.LazyPages, "", "--lazy-pages: its memory is there when it goes on")
	k.refuse(i.ManageCgroups == "full" || i.ManageCgroups == "strict", "", fmt.Sprintf("--manage-cgroups-mode %s: they are made as config.json says", i.ManageCgroups))
	return errors.Join(k.errs...)
}

// Checkpoint saves a container: it has the kernel write its state and its memory into files, and adds a header. An image is there
// when that has got its name, all or nothing; whatever goes wrong before, the container goes on, or stays paused.
func (e Engine) Checkpoint(ctx context.Context, r *engine.CheckpointRequest) error {
	k := &checker{}
	k.take(checkImage(&r.Image))
	k.refuse(r.PreDump, "", "--pre-dump, which saves the memory beforehand")
	k.refuse(r.ParentPath != "", "", "--parent-path, an image on top of another one")
	k.refuse(r.PageServer != "", "", "--page-server")
	k.refuse(r.StatusFD != nil, "", "--status-fd, which is for lazy pages")
	k.refuse(r.Pod != nil, "", "a container that shares the sandbox of another")
	_, serr := os.Stat(filepath.Join(r.Dir, "notify"))
	k.refuse(serr == nil, "", "a container with a notify socket, whose other end is hull's")
	if err := errors.Join(k.errs...); err != nil {
		return err
	}
	w, err := openWriting(r.Image.Dir)
	if err != nil {
		return err
	}
	defer w.abandon()
	conn, err := dial(&r.Container)
	if err != nil {
		return err
	}
	defer conn.Close() // without another word: the container goes on, if it is there
	saved, err := w.save(ctx, conn, r)
	if err != nil {
		return err
	}
	header := image.Image{Release: e.Release, Architecture: runtime.GOARCH, Contents: *saved, Spec: image.Digest(r.Spec), Overlaid: r.Overlaid}
	if err := w.commit(&header); err != nil {
		return err
	}
	if r.LeaveRunning {
		return nil
	}
	return endSandbox(ctx, r.Init)
}

// endSandbox kills the process of a sandbox and waits for its end.
func endSandbox(ctx context.Context, init engine.Init) error {
	pidfd, err := proc.Open(init)
	if errors.Is(err, fault.BadState) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pidfd.Close()
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bootTimeout)
	defer cancel()
	return proc.WaitEnded(ctx, init, pidfd)
}

// writing is an image that is being written, under names of its own.
type writing struct {
	dir   *os.File
	files [len(image.Files)]*os.File
	made  []string // names that are there, and shall not stay
}

// temporary is the name that a file has until the image is complete.
func temporary(name string) string { return "." + name + ".new" }

// openWriting makes the files of an image in a directory that has none. Nobody else writes one there meanwhile.
func openWriting(dir *os.File) (_ *writing, err error) {
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err == unix.EWOULDBLOCK {
			return nil, &fault.Error{Step: "image " + dir.Name(), Kind: fault.Exist, Err: errors.New("another checkpoint is being written there")}
		}
		return nil, &os.PathError{Op: "flock", Path: dir.Name(), Err: err}
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(int(dir.Fd()), image.Header, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case nil:
		return nil, &fault.Error{Step: "image " + dir.Name(), Kind: fault.Exist, Err: errors.New("there is one already"), Hint: "name another directory (--image-path), or delete that one"}
	case unix.ENOENT:
	default:
		return nil, &os.PathError{Op: "stat", Path: filepath.Join(dir.Name(), image.Header), Err: err}
	}
	w := &writing{dir: dir}
	defer func() {
		if err != nil {
			w.abandon()
		}
	}()
	for i, name := range image.Files {
		if w.files[i], err = w.create(name); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// create makes a file. What has its name was left by a hull that was killed.
func (w *writing) create(name string) (*os.File, error) {
	name = temporary(name)
	path := filepath.Join(w.dir.Name(), name)
	if err := unix.Unlinkat(int(w.dir.Fd()), name, 0); err != nil && err != unix.ENOENT {
		return nil, &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	fd, err := unix.Openat(int(w.dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	w.made = append(w.made, name)
	return os.NewFile(uintptr(fd), path), nil
}

// abandon closes all and takes away what is not in place.
func (w *writing) abandon() {
	for _, f := range w.files {
		if f != nil {
			f.Close()
		}
	}
	for _, name := range w.made {
		_ = unix.Unlinkat(int(w.dir.Fd()), name, 0)
	}
	w.made = nil
}

// save has the kernel write.
func (w *writing) save(ctx context.Context, conn *os.File, r *engine.CheckpointRequest) (*image.Contents, error) {
	memory := int64(0)
	if s, err := r.Cgroup.Stats(); err == nil && s.Memory.Usage.Usage < 1<<50 {
		memory = int64(s.Memory.Usage.Usage)
	}
	if err := patience(conn, memory); err != nil {
		return nil, err
	}
	fds := make([]int, len(w.files))
	for i, f := range w.files {
		fds[i] = int(f.Fd())
	}
	reply, err := askWithin(ctx, conn, wire.Request{Op: wire.Checkpoint, Container: r.ID, Leave: r.LeaveRunning}, fds...)
	if err != nil {
		return nil, &fault.Error{Step: "save the sandbox", Err: err}
	}
	if reply.Saved == nil {
		return nil, errors.New("the sandbox does not say what it has saved")
	}
	for i, f := range w.files {
		fi, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if fi.Size() != reply.Saved.Files[i].Length {
			return nil, fmt.Errorf("the sandbox says that %s has %d bytes, and it has %d", image.Files[i], reply.Saved.Files[i].Length, fi.Size())
		}
	}
	return reply.Saved, nil
}

// askWithin is ask until ctx ends, whose cause it returns then: how long the answer is waited for is by the image's size, which may be
// any that somebody has made up.
func askWithin(ctx context.Context, conn *os.File, r wire.Request, fds ...int) (wire.Reply, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return wire.Reply{}, err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	})
	reply, err := ask(conn, r, fds...)
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	return reply, err
}

// patience sets how long an answer is waited for that depends on so many bytes.
func patience(conn *os.File, size int64) error {
	wait := unix.NsecToTimeval(int64(bootTimeout + time.Duration(size/imageRate)*time.Second))
	return os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
}

// commit puts the image in place, when all of it is on the disk; the header last.
func (w *writing) commit(i *image.Image) error {
	b, err := i.Encode()
	if err != nil {
		return err
	}
	header, err := w.create(image.Header)
	if err != nil {
		return err
	}
	defer header.Close()
	if _, err := header.Write(b); err != nil {
		return err
	}
	names := append(image.Files[:len(image.Files):len(image.Files)], image.Header)
	for n, f := range append(w.files[:len(w.files):len(w.files)], header) {
		if err := f.Sync(); err != nil {
			return err
		}
		if n == len(w.files) {
			break
		}
		if err := w.rename(names[n]); err != nil {
			return err
		}
	}
	if err := w.rename(image.Header); err != nil {
		return err
	}
	w.made = nil
	return w.dir.Sync()
}

func (w *writing) rename(name string) error {
	if err := unix.Renameat(int(w.dir.Fd()), temporary(name), int(w.dir.Fd()), name); err != nil {
		return &os.PathError{Op: "rename", Path: filepath.Join(w.dir.Name(), name), Err: err}
	}
	return nil
}

// Restore makes a container that goes on where another was saved: a sandbox as for a new one, whose kernel is filled with what
// the image has.
func (e Engine) Restore(ctx context.Context, r *engine.RestoreRequest) (*engine.Process, error) {
	k := &checker{}
	k.take(checkImage(&r.Image))
	k.refuse(r.LSMProfile != "", "", "a security profile: its kernel has no AppArmor and no SELinux")
	k.refuse(r.Pod != nil, "", "a container that shares the sandbox of another")
	k.refuse(e.Options != (Options{}), "", "options of a sandbox: those count which it was saved with")
	k.refuse(r.LSMMountContext != "", "", "a security context of mounts: its kernel has no SELinux")
	if err := errors.Join(k.errs...); err != nil {
		return nil, err
	}
	saved, files, err := e.openImage(r)
	if err != nil {
		return nil, &fault.Error{Step: "image " + r.Image.Path, Err: err}
	}
	return e.create(ctx, &r.CreateRequest, &savedImage{saved, files})
}

// savedImage is an image that a sandbox is made of.
type savedImage struct {
	*image.Image
	files []*os.File
}

// HasImage tells whether a directory has the image of a sandbox.
func HasImage(dir *os.File) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), image.Header, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// openImage reads the header of an image, and opens its files. Nothing is a link, and nothing else than a regular file.
func (e Engine) openImage(r *engine.RestoreRequest) (_ *image.Image, files []*os.File, err error) {
	header, err := openRegular(r.Image.Dir, image.Header)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = &fault.Error{Err: err, Hint: "a directory without that file has no image of a sandbox, or one that was not completed"}
		}
		return nil, nil, err
	}
	defer header.Close()
	b, err := io.ReadAll(io.LimitReader(header, image.MaxHeader+1))
	if err != nil {
		return nil, nil, err
	}
	i, err := image.Decode(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", image.Header, err)
	}
	if err := i.Usable(e.Release, runtime.GOARCH, image.Digest(r.Spec)); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	for n, name := range image.Files {
		f, err := openRegular(r.Image.Dir, name)
		if err != nil {
			return nil, files, err
		}
		files = append(files, f)
		fi, err := f.Stat()
		if err != nil {
			return nil, files, err
		}
		if fi.Size() != i.Files[n].Length {
			return nil, files, fmt.Errorf("%s is damaged: it has %d bytes, and not %d", name, fi.Size(), i.Files[n].Length)
		}
	}
	return i, files, nil
}

func openRegular(dir *os.File, name string) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	at, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(at)
	// Before it is opened: that of a device may do something.
	var st unix.Stat_t
	err = unix.Fstat(at, &st)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ELOOP}
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// giveImage passes the files of an image.
func (c *creation) giveImage() error {
	if c.saved == nil {
		return nil
	}
	var numbers []string
	for _, f := range c.saved.files {
		numbers = append(numbers, strconv.Itoa(c.give("", f)))
	}
	c.saved.files = nil
	if c.saved.Overlaid {
		c.overlaid = true
		c.flags = append(c.flags, "--overlay", wire.OverlayMemory)
	}
	c.flags = append(c.flags, "--restore-fds", strings.Join(numbers, ","))
	return nil
}

// fill has a sandbox that was made for it go on where another was saved.
func (c *creation) fill(ctx context.Context, p *engine.Process) error {
	if err := giveNetwork(&c.Container, p.Init, nil); err != nil {
		return err
	}
	conn, err := dial(&c.Container)
	if err != nil {
		return err
	}
	defer conn.Close()
	size := int64(0)
	for _, f := range c.saved.Files {
		size += min(f.Length, 1<<50)
	}
	if err := patience(conn, size); err != nil {
		return err
	}
	_, err = askWithin(ctx, conn, wire.Request{Op: wire.Restore, Container: c.ID, Image: &c.saved.Contents})
	if errors.Is(err, fault.BadState) {
		if why := lastWords(c.readLog()); why != "" {
			err = errors.New(why)
		}
	}
	if err != nil {
		return &fault.Error{Step: "restore the sandbox", Err: err}
	}
	return nil
}
