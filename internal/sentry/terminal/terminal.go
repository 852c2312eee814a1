// Package terminal gives processes in a sandbox a terminal of its kernel's, and copies between that one and the host's. Package boot
// makes one for each process that wants one, and has the copying end while the kernel is saved.
package terminal

import (
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// Terminal is that of a process: a pseudo terminal in the container's devpts, which the process and those it starts have open
// and can find by its name, as in native isolation. What it shows is copied to one of the host's, and what is typed there is
// typed here:
//
//	caller ── master ═ slave of the host ── Terminal ── master ═ slave in the sandbox ── process
//
// Editing, signals and job control are those of the one in the sandbox. The host's only passes bytes on (EXTPROC, see package
// sandbox), and has the modes of the other, for the caller to see and to set.
type Terminal struct {
	ctx    context.Context // of nobody's
	task   *kernel.Task    // of the process: calls of ioctl(2) are made in its name
	host   *os.File
	master *vfs.FileDescription
	name   string // in the directory of terminals

	mu    sync.Mutex
	size  unix.Winsize
	modes unix.Termios // of the host's, as they were set last

	copying sync.WaitGroup
	stop    chan struct{} // closed to end the copying; nil if it has not begun
	typed   []byte        // what the process's terminal had no room for yet; of copyIn
	shown   []byte        // what nobody took yet; of copyOut

	ended   chan struct{} // closed when the process has ended
	drained chan struct{} // closed when then all is copied that it has written
	closed  chan struct{}
	emptied sync.Once // for drained
	once    sync.Once // for Close
	among   *Set
}

// Process is one that gets a terminal, and was not started yet.
type Process struct {
	Group *kernel.ThreadGroup
	Table *kernel.FDTable
	// Mounts are those of its container, and Bundle is where sources of them are looked for: a devpts among them says whose
	// terminals are.
	Mounts []specs.Mount
	Bundle string
}

// New makes the terminal of a process, which becomes its controlling terminal and its descriptors 0, 1 and 2. It takes over the
// host's slave.
func (ts *Set) New(k *kernel.Kernel, p Process, slave int) (_ *Terminal, err error) {
	t := newCopier(k.SupervisorContext(), p.Group)
	err = unix.SetNonblock(slave, true) // nobody else has this description
	t.host = os.NewFile(uintptr(slave), "terminal")
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	ctx := t.task.AsyncContext()
	dir, err := openPts(ctx, k)
	if err != nil {
		return nil, err
	}
	defer dir.DecRef(ctx)
	root := auth.NewRootCredentials(k.RootUserNamespace())
	at := func(name string) *vfs.PathOperation {
		return &vfs.PathOperation{Root: dir, Start: dir, Path: fspath.Parse(name)}
	}
	v := k.VFS()
	if t.master, err = v.OpenAt(ctx, root, at("ptmx"), &vfs.OpenOptions{Flags: linux.O_RDWR | linux.O_NOCTTY | linux.O_NONBLOCK}); err != nil {
		return nil, err
	}
	var n primitive.Uint32
	if err := t.ioctl(linux.TIOCGPTN, &n); err != nil {
		return nil, err
	}
	t.name = strconv.FormatUint(uint64(n), 10)
	if err := v.SetStatAt(ctx, root, at(t.name), &vfs.SetStatOptions{Stat: p.owner(t.task.Credentials())}); err != nil {
		return nil, err
	}
	replica, err := v.OpenAt(ctx, root, at(t.name), &vfs.OpenOptions{Flags: linux.O_RDWR})
	if err != nil {
		return nil, err
	}
	defer replica.DecRef(ctx)
	for fd := range int32(3) {
		if _, err := p.Table.NewFDAt(ctx, fd, replica, kernel.FDFlags{}); err != nil {
			return nil, err
		}
	}
	ts.add(t)
	return t, nil
}

// Adopt makes a terminal of one that was restored, for the first process. It takes over the host's slave.
func (ts *Set) Adopt(k *kernel.Kernel, tg *kernel.ThreadGroup, had *Saved, slave int) (*Terminal, error) {
	t := newCopier(k.SupervisorContext(), tg)
	if err := unix.SetNonblock(slave, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	t.host, t.master, t.name = os.NewFile(uintptr(slave), "terminal"), had.master, had.terminal
	ts.add(t)
	return t, nil
}

// Path returns where the container's programs find it.
func (t *Terminal) Path() string { return path.Join(Dir, t.name) }

func newCopier(ctx context.Context, tg *kernel.ThreadGroup) *Terminal {
	return &Terminal{ctx: ctx, task: tg.Leader(), ended: make(chan struct{}), drained: make(chan struct{}), closed: make(chan struct{})}
}

// Begin gives the process's terminal the size and modes that the host's has got, and begins to copy. It comes right before the
// process's first instruction.
func (t *Terminal) Begin() {
	t.Resize()
	if modes, err := t.hostModes(); err == nil && t.ioctl(linux.TCSETS, insideModes(modes)) == nil {
		t.setHost(modes)
	}
	t.among.begin(t)
}

// GoOn is Begin for a terminal that was restored: that has the modes, and the host's gets them.
func (t *Terminal) GoOn() {
	t.Resize()
	var in linux.Termios
	if t.ioctl(linux.TCGETS, &in) == nil {
		t.setHost(outsideModes(&in))
	}
	t.among.begin(t)
}

// attach begins the copying, unless it is over.
func (t *Terminal) attach() {
	select {
	case <-t.closed:
		return
	default:
	}
	if t.stop == nil {
		return
	}
	t.stop = make(chan struct{})
	_ = t.host.SetDeadline(time.Time{})
	t.master.IncRef() // copyIn's
	t.copying.Add(2)
	go t.copyIn(t.stop)
	go t.copyOut(t.stop)
}

// detach ends the copying: the kernel can't save what waits for its files.
func (t *Terminal) detach() {
	if t.stop == nil {
		return
	}
	close(t.stop)
	_ = t.host.SetDeadline(time.Unix(1, 0))
	t.copying.Wait()
}

// Close gives the terminal up. Who has the other end finds a hangup.
func (t *Terminal) Close() {
	t.once.Do(func() {
		close(t.closed)
		if t.among != nil {
			t.among.remove(t)
		}
		t.host.Close()
		if t.master != nil {
			t.master.DecRef(t.ctx)
		}
	})
}
