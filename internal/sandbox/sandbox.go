// Package sandbox is the engine that isolates containers with an application kernel of their own.
//
// The kernel is a program, hull-sandbox, that runs as one process of the host: in a jail which is a container itself, made
// by package native. Package wire says what the two say to each other.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/install"
	"hull/internal/linux"
	"hull/internal/native"
	"hull/internal/overlay"
	"hull/internal/sandbox/wire"
	"hull/internal/stub"
)

// bootTimeout bounds how long a sandbox takes to create its container, if it doesn't do anything meanwhile.
const bootTimeout = 30 * time.Second

// Engine isolates with an application kernel.
type Engine struct {
	// Program is the path of hull-sandbox. Empty means the one that is installed with the running program.
	Program string
	// Release is that of the running program: hull-sandbox must be of the same.
	Release string
	// Pool is the state directory whose pool sandboxes are taken from, if there is one. Empty means that none is.
	Pool string
	Options

	trialTime time.Duration // of tests; or 0
}

var _ engine.HostFiles = Engine{}

// Check implements engine.Engine.
func (e Engine) Check(s *specs.Spec) error {
	if err := e.Options.Check(); err != nil {
		return err
	}
	if err := checkUser(); err != nil {
		return err
	}
	if e.hostSockets() && len(network(s)) == 0 {
		return &fault.Error{Step: "host-uds " + e.HostUDS, Kind: fault.Unsupported,
			Err:  errors.New("not with the host's network, whose abstract sockets a kernel that was taken over would reach"),
			Hint: `{"type": "network"} in linux.namespaces gives the container a network of its own`}
	}
	return Engine{}.CheckHostFiles(s)
}

// Available returns why the caller can't have containers in sandboxes on this host, or nil.
func (e Engine) Available() error {
	program, err := e.open()
	if err != nil {
		return err
	}
	program.Close()
	return errors.Join(checkUser(), checkKernel())
}

func checkUser() error {
	if os.Geteuid() != 0 {
		return &fault.Error{Kind: fault.Unsupported,
			Err: errors.New("a container in a sandbox needs root: other users can't give it its files yet, but for hull do")}
	}
	return nil
}

func checkKernel() error {
	if !linux.HaveMountSetattr() {
		return &fault.Error{Kind: fault.Unsupported,
			Err: errors.New("a sandbox needs mount_setattr(2), Linux 5.12: its files are detached copies of mounts")}
	}
	return nil
}

// CheckHostFiles implements engine.HostFiles. The jail makes the files of such a container, which any user can do.
func (e Engine) CheckHostFiles(s *specs.Spec) error {
	if err := checkKernel(); err != nil {
		return err
	}
	return Check(s)
}

// Begin does nothing: the jail is made in one go.
func (Engine) Begin(*specs.Spec, engine.IO, func(string)) engine.Beginning { return nil }

// BeginInit does nothing either.
func (Engine) BeginInit(context.Context, engine.IO, func(string)) (engine.InitBeginning, error) {
	return nil, nil
}

// creation is one call of Create.
type creation struct {
	*engine.CreateRequest
	inside  *specs.Spec       // the configuration that boot is given
	saved   *savedImage       // or nil
	donated *overlay.Donation // or nil
	// overlaid says that the sandbox keeps what is written to the root, which then needs no right to change that.
	overlaid bool
	files    []*os.File // descriptors of boot, from 3 on
	trees    []string   // the numbers of those that are files of the host's
	below    []string   // and where each is mounted, if it was found below the one before it; or ""
	flags    []string
	fifo     *os.File // by which the program is started; or nil
	log      *os.File // of a container without a state directory; or nil
	report   *os.File // our end of the socket that boot reports to
	theirs   *os.File // the other one
}

// Create makes the sandbox and its container, and starts the container's program or leaves it waiting for Start.
func (e Engine) Create(ctx context.Context, r *engine.CreateRequest) (*engine.Process, error) {
	return e.create(ctx, r, nil)
}

// Examine implements engine.Engine.
func (e Engine) Examine(_ context.Context, r *engine.CreateRequest) error {
	for _, w := range unheldLimits(r.Spec.Process) {
		r.Warn(w)
	}
	if r.Pod != nil {
		return e.checkMember(r.Pod)
	}
	if checkUser() != nil {
		return nil // Check has said so
	}
	return e.Available()
}

// checkMember refuses options for a container that joins others: their sandbox has its own.
func (e Engine) checkMember(pod *engine.Pod) error {
	if e.Options == (Options{}) {
		return nil
	}
	return &fault.Error{Kind: fault.Unsupported,
		Err: fmt.Errorf("options of a sandbox's files: those of container %q hold, in whose sandbox it would be", pod.ID)}
}

// create makes a container, or restores one that was saved, whose files it takes over.
func (e Engine) create(ctx context.Context, r *engine.CreateRequest, saved *savedImage) (*engine.Process, error) {
	c := &creation{CreateRequest: r, inside: withOwnSys(r.Spec), saved: saved}
	defer c.close()
	k := &checker{}
	k.refuse(len(r.Extra) > 0, "", "descriptors beside the standard streams")
	k.streams(r.Stdio)
	if err := errors.Join(k.errs...); err != nil {
		return nil, err
	}
	for _, w := range unheldLimits(r.Spec.Process) {
		c.Warn(w)
	}
	if r.Pod != nil {
		if err := e.checkMember(r.Pod); err != nil {
			return nil, err
		}
		return c.join(ctx)
	}
	taken := e.take(c)
	if taken == nil {
		program, err := e.open()
		if err != nil {
			return nil, err
		}
		c.give("", program)
	} else {
		defer taken.Close()
	}
	c.flags = append(c.flags, "--release", e.Release+" "+wire.Version, "--id", c.ID, "--bundle", c.Bundle)
	options := func() error { return c.giveOptions(e.Options) }
	platform := func() error { return c.givePlatform(e) }
	for _, step := range []func() error{c.giveLog, platform, c.giveImage, options, c.giveFiles, c.giveSpec, c.giveLimits, c.giveLinks, c.giveControl, c.giveFifo, c.giveReport} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	jailed := c.jailed(ctx, e)
	slave, release, err := c.giveTerminal(jailed)
	if err != nil {
		return nil, err
	}
	defer release()
	var p *engine.Process
	if taken != nil {
		p, err = c.settle(ctx, taken, slave, jailed)
	} else if p, err = (native.Engine{}).Create(ctx, jailed); err != nil {
		err = explain(err)
	}
	if err != nil {
		return nil, err
	}
	if err := c.bringUp(ctx, &e, p); err != nil {
		ws, werr := kill(p)
		if werr == nil {
			err = explainLost(err, ws)
		}
		return nil, err
	}
	p.Steps = nil // the jail's; none of them is left
	if taken != nil {
		p.Wait = c.waitAdopted(p)
		return p, nil
	}
	p.Ended = c.ended()
	return p, nil
}

// jailed returns how the process is made that the sandbox is.
func (c *creation) jailed(ctx context.Context, e Engine) *engine.CreateRequest {
	r := *c.CreateRequest
	r.Spec = jail(c.Spec, append([]string{"hull-sandbox", "boot"}, c.flags...))
	if e.Platform == KVM {
		// Or Go's scheduler interrupts threads by signals at any point, also where they enter the machine.
		r.Spec.Process.Env = append(r.Spec.Process.Env, "GODEBUG=asyncpreemptoff=1")
	}
	r.Extra = c.files
	r.Program, r.NoDev = 1, true
	r.Overlay, r.Donated = emptyRoot(), c.donated
	r.Park, r.BeforeStart = false, nil
	r.Hooks = c.hooks(ctx)
	r.Prepared = func(p *engine.Process) error {
		if err := c.checkJoined(p.Pid); err != nil {
			return err
		}
		p.Overlaid = c.overlaid
		return c.Prepared(p)
	}
	return &r
}

// bringUp goes on with a sandbox that was started, until its container is there, or runs.
func (c *creation) bringUp(ctx context.Context, e *Engine, p *engine.Process) error {
	if err := c.wait(ctx, p.Pid); err != nil {
		return err
	}
	if c.saved != nil {
		if err := c.fill(ctx, p); err != nil {
			return err
		}
	}
	if c.waits() {
		return c.pass(e, p)
	}
	return nil
}

// pass goes on with a sandbox whose program waits for its start: to the start, or it leaves the sandbox alone.
func (c *creation) pass(e *Engine, p *engine.Process) error {
	if !c.Park && c.BeforeStart != nil {
		if err := c.BeforeStart(p); err != nil {
			return err
		}
	}
	c.lastWord("sandbox")
	if err := c.take(); err != nil || c.Park {
		return err
	}
	c.fifo.Close() // whose end is that of the sandbox's wait, if nobody else has it
	return e.Start(&c.Container, p.Init, nil)
}

// lastWord does what there is left to do before something is there without hull: Taken, or the stub of a container of a pod that is
// left alone, is what says so, and in one step. A hull that is killed after that and before its end leaves a container that its caller
// doesn't know of, and to close a detached mount can take a grace period of RCU: so it is done now.
func (c *creation) lastWord(what string) {
	if c.Park {
		for _, f := range c.files {
			f.Close()
		}
		c.files = nil
	}
	c.trace("the " + what + " is there, and ends with hull up to here")
}

// waits tells whether the program waits for Start.
func (c *creation) waits() bool {
	return c.saved == nil && (c.Park || c.Dir != "" && (networkIsFilled(c.Spec) || hasStartHooks(c.Spec)))
}

func hasStartHooks(s *specs.Spec) bool { return s.Hooks != nil && len(s.Hooks.StartContainer) > 0 }

// kill ends a sandbox that was started, and returns how it has ended, as end does.
func kill(p *engine.Process) (unix.WaitStatus, error) {
	if p.Upper != nil {
		p.Upper.Close()
	}
	if p.Supervisor == nil {
		return end(p.PidFD)
	}
	defer p.Supervisor.Program.Close()
	_ = p.Supervisor.Kill()
	ended, err := p.Supervisor.Wait(nil, nil)
	return ended.Status, err
}

// emptyRoot is a root with nothing in it but a directory to mount on, and one to go to then.
func emptyRoot() *overlay.Plan {
	return &overlay.Plan{Entries: []overlay.Entry{
		{Kind: overlay.Dir, Path: "/", Mode: 0o555}, {Kind: overlay.Dir, Path: "/proc", Mode: 0o555},
		{Kind: overlay.Dir, Path: wire.Nowhere, Mode: 0o555},
	}, Size: "4k"}
}

// open opens hull-sandbox.
func (e Engine) open() (*os.File, error) {
	const step = "look for the program hull-sandbox"
	if e.Program != "" {
		f, err := openProgram(e.Program)
		if err != nil {
			return nil, &fault.Error{Step: step, Err: err}
		}
		return f, nil
	}
	return install.Find(step, "hull-sandbox", openProgram)
}

// openProgram opens a copy of the mount that the program is on, where nothing can be changed: a process in the jail has its own
// program in /proc, and the right to give away whatever file it reaches.
func openProgram(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f, err := cloneMount(fd, path, unix.MOUNT_ATTR_RDONLY)
	if errors.Is(err, unix.EPERM) {
		return os.NewFile(uintptr(fd), path), nil // who can't copy a mount has no more rights than the jail would have
	}
	unix.Close(fd)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return f, nil
}

func (c *creation) close() {
	files := append(c.files, c.report, c.theirs, c.log)
	if c.saved != nil {
		files = append(files, c.saved.files...)
	}
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// Start lets the program of a created container run.
func (Engine) Start(c *engine.Container, init engine.Init, _ []stub.Step) error {
	if c.Pod != nil {
		return native.Engine{}.Start(c, init, nil)
	}
	if err := giveNetwork(c, init, nil); err != nil {
		return err
	}
	return native.Engine{}.Start(c, init, nil)
}

// Leave waits until nothing is left in its sandbox of a container that is not the first there: the host's files above all. All
// mounts of a sandbox are its own.
func (Engine) Leave(c *engine.Container) error {
	if c.Pod == nil {
		return nil
	}
	return discard(c)
}
