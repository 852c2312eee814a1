package sandbox

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/pool"
	"hull/internal/proc"
	"hull/internal/sandbox/wire"
)

// take takes a sandbox out of the pool of the container's state directory. It is nil if there is no pool, or none that can be
// used; the trace says why.
func (e Engine) take(c *creation) *pool.Taken {
	if e.Pool == "" {
		return nil
	}
	why := e.needsOwn(c)
	if why == "" {
		who, err := e.Who()
		var t *pool.Taken
		if err == nil {
			t, err = pool.Take(e.Pool, who)
		}
		switch {
		case err == nil:
			c.trace("pool: took the sandbox of process " + strconv.Itoa(t.Pid))
			return t
		case errors.Is(err, pool.ErrNone):
			return nil
		}
		why = err.Error()
	} else if !pool.Exists(e.Pool) {
		return nil
	}
	c.trace("pool: not used: " + why)
	return nil
}

func (c *creation) trace(line string) {
	if c.Trace != nil {
		c.Trace(line)
	}
}

// needsOwn says what of a container can't be had from a sandbox that was started before; or "".
func (e Engine) needsOwn(c *creation) string {
	s := c.Spec
	for _, ns := range s.Linux.Namespaces {
		switch {
		case ns.Type == specs.UserNamespace:
			return "linux.namespaces: the ids of a user namespace are mapped when it is made"
		case ns.Path != "":
			return "linux.namespaces: a namespace by its path is joined at the start"
		}
	}
	r := s.Linux.Resources
	switch {
	case len(network(s)) == 0:
		return "linux.namespaces: the host's network, for which the jail and its filter are others"
	case r != nil && r.CPU != nil && r.CPU.Cpus != "":
		return "linux.resources.cpu.cpus: how many processors there are is looked at when a kernel starts"
	case s.Linux.IntelRdt != nil:
		return "linux.intelRdt: its group is joined at the start"
	case e.hostSockets():
		return "--host-uds: the filter is another"
	case e.Platform == KVM:
		return "--platform kvm: those of a pool have another one"
	case strings.HasPrefix(e.Overlay, dirPrefix):
		return "--overlay dir=DIR: its file is opened when a kernel starts"
	case s.Annotations["run.oci.keep_original_groups"] != "":
		return "annotations.run.oci.keep_original_groups: they are those of the caller"
	case c.saved != nil:
		return "what was saved is restored in a kernel of its own"
	case c.Cgroup.EndsWithProcesses():
		return "systemd makes the cgroup"
	case c.Rootless:
		return "the caller is not root"
	case c.NoPivot:
		return "--no-pivot is for the start of a process"
	case c.WantsChild:
		return "--pid-file: who asks for it waits for a child of this process"
	case c.Overlay != nil, c.Dir == "":
		return "the container has no state directory"
	}
	return ""
}

// settle makes the container in a sandbox that was taken, instead of in one of the process that r would start. Its descriptors are
// the streams, then those of c. Until it has reported that the container is there, it ends with this process.
func (c *creation) settle(ctx context.Context, t *pool.Taken, terminal *os.File, r *engine.CreateRequest) (_ *engine.Process, err error) {
	p := &engine.Process{Init: engine.Init{Pid: t.Pid}, PidFD: t.PidFD}
	t.PidFD = nil
	defer func() {
		if err != nil {
			_, _ = kill(p)
		}
	}()
	if p.StartTime, err = proc.StartTime(p.Pid); err != nil {
		return nil, err
	}
	// The pool reaps it if it has ended, and the pid may be another's then: whose time was read is told by the pidfd.
	if err := unix.PidfdSendSignal(int(p.PidFD.Fd()), 0, nil, 0); err != nil {
		return nil, c.lost()
	}
	if err := c.Cgroup.Adopt(ctx, t.Cgroup); err != nil {
		return nil, err
	}
	if err := c.Cgroup.Limit(ctx); err != nil {
		return nil, err
	}
	if adj := c.Spec.Process.OOMScoreAdj; adj != nil {
		if err := giveScore(p.Pid, *adj); err != nil {
			return nil, err
		}
	}
	if r.Forked != nil {
		if err := r.Forked(p.Init); err != nil {
			return nil, err
		}
	}
	if r.Hooks != nil {
		if err := r.Hooks(p.Pid); err != nil {
			return nil, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if r.Prepared != nil {
		if err := r.Prepared(p); err != nil {
			return nil, err
		}
	}
	if err := t.Kept(); err != nil {
		c.trace("pool: " + err.Error()) // it has ended, and the sandbox is this one's all the same
	}
	if err := c.tellContainer(t.Conn, terminal); err != nil {
		return nil, err
	}
	return p, nil
}

// tellContainer says to a sandbox what its container is.
func (c *creation) tellContainer(conn, terminal *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	streams := c.Stdio[:]
	if terminal != nil {
		streams = []*os.File{terminal}
	}
	var same wire.Request
	fds := streamFDs(&same, null, streams)
	words := []string{strconv.Itoa(len(fds))}
	for i := range fds {
		words = append(words, strconv.Itoa(same.Same[i]))
	}
	for _, f := range c.files {
		fds = append(fds, int(f.Fd()))
	}
	err = wire.SendContainer(int(conn.Fd()), append(words, c.flags...), fds)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return c.lost()
	}
	return err
}

// waitAdopted returns what waits for the end of a sandbox that is another's child. How it has ended it tells itself; of one that
// was killed the kernel does, until its parent has reaped it or from Linux 6.15 on, or else it is taken to have been.
func (c *creation) waitAdopted(p *engine.Process) func() (unix.WaitStatus, error) {
	ended := c.ended()
	return func() (unix.WaitStatus, error) {
		if err := awaitEnd(p.PidFD); err != nil {
			return 0, err
		}
		ws, err := proc.ExitCode(p.Init, p.PidFD)
		if err != nil {
			ws = unix.WaitStatus(unix.SIGKILL)
		}
		return ended(ws), nil
	}
}

// awaitEnd waits until a process has ended, or its pidfd is closed, which is an error. Go's poller waits for it: poll(2) would go on
// after a close, and, once interrupted, wait for nothing, or for what has got the number then.
func awaitEnd(pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if err != unix.EINTR {
				perr = os.NewSyscallError("poll", err)
				return n > 0 || err != nil
			}
		}
	})
	return cmp.Or(err, perr)
}
