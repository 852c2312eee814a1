// Package sandbox is the engine that isolates containers with an application kernel of their own.
//
// The kernel is a program, hull-sandbox, that runs as one process of the host: in a jail which is a container itself, made
// by package native. Package wire says what the two say to each other.
package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/install"
	"hull/internal/linux"
	"hull/internal/native"
	"hull/internal/oci"
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
		return &fault.Error{Step: "host-uds " + e.HostUDS, Kind: fault.Unsupported, Err: errors.New("not with the host's network, whose abstract sockets a kernel that was taken over would reach"),
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
		return &fault.Error{Kind: fault.Unsupported, Err: errors.New("a container in a sandbox needs root: other users can't give it its files yet, but for hull do")}
	}
	return nil
}

func checkKernel() error {
	if !linux.HaveMountSetattr() {
		return &fault.Error{Kind: fault.Unsupported, Err: errors.New("a sandbox needs mount_setattr(2), Linux 5.12: its files are detached copies of mounts")}
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
		if e.Options != (Options{}) {
			return nil, &fault.Error{Kind: fault.Unsupported, Err: fmt.Errorf("options of a sandbox's files: those of container %q hold, in whose sandbox it would be", r.Pod.ID)}
		}
		return c.join(ctx)
	}
	if err := c.checkJoined(); err != nil {
		return nil, err
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
	for _, step := range []func() error{c.giveLog, platform, c.giveImage, options, c.giveFiles, c.giveSpec, c.giveLinks, c.giveControl, c.giveFifo, c.giveReport} {
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
		kill(p)
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
		p.Overlaid = c.overlaid
		return c.Prepared(p)
	}
	return &r
}

// giveTerminal makes the host's side of the container's terminal, if it has one: the slave is the sandbox's, and the master is told when all
// is prepared. release closes what was not given away.
func (c *creation) giveTerminal(jailed *engine.CreateRequest) (slave *os.File, release func(), err error) {
	if !c.Spec.Process.Terminal {
		return nil, func() {}, nil
	}
	master, slave, err := openTerminal(c.Spec.Process.ConsoleSize)
	if err != nil {
		return nil, nil, err
	}
	jailed.Stdio = [3]*os.File{slave}
	prepared := jailed.Prepared
	jailed.Prepared = func(p *engine.Process) error {
		p.Console, master = master, nil
		return prepared(p)
	}
	return slave, func() {
		slave.Close()
		master.Close() // nothing, if it was given away
	}, nil
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
	if c.Park {
		// Now: to close a detached mount can take a grace period of RCU, and a hull that is killed after Taken and before its end
		// leaves a container that its caller doesn't know of.
		for _, f := range c.files {
			f.Close()
		}
		c.files = nil
	}
	if c.Trace != nil {
		c.Trace("the sandbox is there, and ends with hull up to here")
	}
	if err := c.take(); err != nil || c.Park {
		return err
	}
	c.fifo.Close() // whose end is that of the sandbox's wait, if nobody else has it
	return e.Start(&c.Container, p.Init, nil)
}

// waits tells whether the program waits for Start.
func (c *creation) waits() bool {
	return c.saved == nil && (c.Park || c.Dir != "" && (networkIsFilled(c.Spec) || hasStartHooks(c.Spec)))
}

func hasStartHooks(s *specs.Spec) bool { return s.Hooks != nil && len(s.Hooks.StartContainer) > 0 }

// kill ends a sandbox that was started.
func kill(p *engine.Process) {
	if p.Upper != nil {
		p.Upper.Close()
	}
	if p.Supervisor == nil {
		end(p.PidFD)
		return
	}
	_ = p.Supervisor.Kill()
	_, _ = p.Supervisor.Wait(nil, nil)
	p.Supervisor.Program.Close()
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

// give passes a file to boot, and tells it the number in a flag.
func (c *creation) give(flag string, f *os.File) (number int) {
	c.files = append(c.files, f)
	number = 2 + len(c.files)
	if flag != "" {
		c.flags = append(c.flags, "--"+flag, strconv.Itoa(number))
	}
	return number
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

// giveLog passes the file that the kernel in the sandbox writes to.
func (c *creation) giveLog() error {
	if c.Dir == "" {
		fd, err := unix.MemfdCreate(wire.Log, unix.MFD_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("memfd_create", err)
		}
		c.log = os.NewFile(uintptr(fd), wire.Log)
		theirs, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
		}
		c.give("log-fd", os.NewFile(uintptr(theirs), wire.Log))
		return nil
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, wire.Log), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	c.give("log-fd", f)
	return nil
}

// giveSpec passes the configuration, which boot has no bundle to read from, and which must not change meanwhile.
func (c *creation) giveSpec() error {
	return c.giveSealed("spec-fd", "config.json", oci.Encode(c.inside))
}

// giveLinks passes devices.
func (c *creation) giveLinks() error {
	if len(c.Links) == 0 {
		return nil
	}
	var links []wire.Link
	for _, l := range c.Links {
		links = append(links, l.Link)
		c.flags = append(c.flags, "--socket", strconv.Itoa(c.give("", l.Socket)))
	}
	raw, err := json.Marshal(links)
	if err != nil {
		return err
	}
	return c.giveSealed("links-fd", "links", raw)
}

// giveSealed passes something in a file that can't change.
func (c *creation) giveSealed(flag, name string, raw []byte) error {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	c.give(flag, f)
	if _, err := f.WriteAt(raw, 0); err != nil {
		return err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	return os.NewSyscallError("fcntl F_ADD_SEALS", err)
}

// giveControl passes the socket at which other commands reach the sandbox: in the state directory, which only the caller
// may enter.
func (c *creation) giveControl() error {
	if c.Dir == "" {
		return nil // nobody finds it
	}
	f, err := listen(c.Dir)
	if err != nil {
		return err
	}
	c.give("controller-fd", f)
	return nil
}

// giveFifo passes the fifo by which Start lets the program run.
func (c *creation) giveFifo() error {
	if !c.waits() {
		return nil
	}
	var err error
	if c.fifo, err = native.MakeFifo(c.Dir); err != nil {
		return err
	}
	c.give("start-fd", c.fifo)
	return nil
}

func (c *creation) giveReport() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	c.theirs = os.NewFile(uintptr(fds[1]), "report")
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that it has deadlines
		unix.Close(fds[0])
		return os.NewSyscallError("fcntl F_SETFL", err)
	}
	c.report = os.NewFile(uintptr(fds[0]), "report")
	c.give("report-fd", c.theirs)
	return nil
}

// take tells boot that its container, which waits for its start, is there.
func (c *creation) take() error {
	if _, err := c.report.WriteString(wire.Taken); err != nil {
		return c.lost()
	}
	return nil
}

// giveFiles passes what is mounted from the host's files.
func (c *creation) giveFiles() error {
	var err error
	if c.Overlay != nil {
		err = c.giveHostFiles()
	} else if err = c.giveRoot(); err == nil {
		err = c.giveBinds(c.inside.Mounts)
	}
	c.flags = append(c.flags, "--io-fds", strings.Join(c.trees, ","))
	return err
}

// wait waits for the report of boot, which is the process pid.
func (c *creation) wait(ctx context.Context, pid int) error {
	c.theirs.Close() // the end of boot is the end of the file only if nobody else has it
	c.theirs = nil
	report := &patientReader{File: c.report, pid: pid, timeout: bootTimeout}
	defer context.AfterFunc(ctx, report.giveUp)()
	text := make([]byte, len(wire.Ready))
	n, err := io.ReadFull(report, text)
	if err == nil && string(text) != wire.Ready || err == io.ErrUnexpectedEOF {
		var more []byte
		more, err = io.ReadAll(io.LimitReader(report, wire.MaxMessage))
		text = append(text[:n], more...)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cmp.Or(context.Cause(ctx), report.late())
	case err == io.EOF:
		return c.lost()
	case err != nil:
		return err
	}
	return told(text)
}

// told returns what a sandbox's first report says.
func told(text []byte) error {
	if string(text) == wire.Ready {
		return nil
	}
	var f wire.Failure
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("the sandbox's report: %w", err)
	}
	return f.Err()
}

// ended returns what tells how the container's program has ended: the process of the sandbox, which is the first of its pid
// namespace, can't end itself by a signal. It takes over what c has of report and log.
func (c *creation) ended() func(unix.WaitStatus) unix.WaitStatus {
	report, kept := c.report, &creation{CreateRequest: c.CreateRequest, log: c.log}
	c.report, c.log = nil, nil
	return func(ws unix.WaitStatus) unix.WaitStatus {
		defer kept.close()
		defer report.Close()
		_ = report.SetReadDeadline(time.Now().Add(time.Second))
		text, err := io.ReadAll(io.LimitReader(report, 16))
		if err != nil {
			return ws
		}
		if n, err := strconv.ParseUint(string(text), 10, 16); err == nil {
			if told := unix.WaitStatus(n); told.Exited() || told.Signaled() {
				return told
			}
		}
		kept.explainEnd(ws)
		return ws
	}
}

// explainEnd says why a sandbox has ended whose program had not, if nobody has killed it.
func (c *creation) explainEnd(ws unix.WaitStatus) {
	why := ""
	switch log := c.readLog(); {
	case ws.Signaled() && ws.Signal() == unix.SIGSYS:
		why = "it made a system call that its jail forbids; the host's kernel has logged which one"
	case ws.Exited():
		c.traceLog(log)
		if why = lastWords(log); why == "" {
			why = fmt.Sprintf("exit status %d", ws.ExitStatus())
		}
	default:
		return
	}
	if c.Warn != nil {
		c.Warn("the sandbox ended by itself, and the container with it: " + why)
	}
}

func (c *creation) traceLog(log []byte) {
	if c.Trace == nil {
		return
	}
	for line := range strings.Lines(string(log)) {
		c.Trace("hull-sandbox: " + wire.Printable(strings.TrimSuffix(line, "\n")))
	}
}

// lost is the error of a sandbox that ended without a word, but perhaps with one in its log.
func (c *creation) lost() error {
	log := c.readLog()
	c.traceLog(log)
	err := errors.New("the sandbox ended while it was being made")
	if last := lastWords(log); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	e := &fault.Error{Err: err}
	if r := c.Spec.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 && *r.Memory.Limit < smallMemory {
		e.Hint = "linux.resources.memory.limit may be too small: the sandbox's kernel needs some itself"
	}
	return e
}

// smallMemory is what a kernel and its first program have room in, in bytes.
const smallMemory = 64 << 20

// explain makes of an error of the jail's one of the sandbox.
func explain(err error) error {
	var e *fault.Error
	if !errors.As(err, &e) || !strings.HasPrefix(e.Step, "execve") {
		return err
	}
	hint := ""
	switch {
	case errors.Is(err, unix.EACCES):
		hint = "the program hull-sandbox must be executable, and on a file system that is not mounted noexec"
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ENOENT):
		hint = "the program hull-sandbox is none of this machine's architecture, or not static"
	}
	return &fault.Error{Step: "start hull-sandbox", Err: e.Err, Hint: hint}
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
