package hull

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/checkpoint"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/hook"
	"hull/internal/linux"
	"hull/internal/oci"
	"hull/internal/proc"
	"hull/internal/rdt"
	"hull/internal/sdnotify"
	"hull/internal/store"
	"hull/internal/stub"
)

// Runtime manages the containers below one state directory. The zero value is ready to use.
type Runtime struct {
	// Root is the directory of the states. Empty means DefaultRoot().
	Root string
	// SystemdCgroup lets systemd make the cgroups; linux.cgroupsPath is then slice:prefix:name.
	SystemdCgroup bool
	// Rootless says whether cgroups that can't be made are tolerated. Nil means: if the caller isn't root, or root only of a user
	// namespace.
	Rootless *bool
	// Isolation is that of the containers that are made. Empty means the one that the annotation run.hull.isolation of
	// their configuration names, or else Native.
	Isolation Isolation
	// SandboxProgram is the path of hull-sandbox, for Isolation Sandbox. Empty looks for it beside the running program and
	// in its ../libexec/hull.
	SandboxProgram string
	// Sandbox is what is chosen for Isolation Sandbox. With another there can be nothing.
	Sandbox SandboxOptions
	// CRIU is the path of the program that saves and restores containers of native isolation. Empty looks for criu in PATH.
	CRIU string
	// Trace is told a line for every step: each system call made for a container, with the field of config.json it
	// comes from, its result and its time. Nil means none.
	Trace func(line string)
	// Warn is told what was tolerated and should be known. Nil means none.
	Warn func(line string)
}

// DefaultRoot is /run/hull for root. For others, and for root of a user namespace with an ordinary user's environment, it is
// $XDG_RUNTIME_DIR/hull; if that is not set, /run/user/UID/hull where the user has a /run/user/UID.
func DefaultRoot() string { return store.DefaultRoot() }

// Stdio are the standard streams of a process without a terminal. Nil means /dev/null.
type Stdio struct {
	In, Out, Err *os.File
}

// Console takes the master of a terminal, which it has to close. It is called before the program at the other end runs,
// and is the place to set the terminal's size and modes. An error keeps the program from running.
type Console func(master *os.File) error

// CreateOptions say how a container is made. A container with a terminal needs a Console or a ConsoleSocket.
type CreateOptions struct {
	Bundle        string      // directory of config.json; empty means the working directory
	Spec          *specs.Spec // instead of the bundle's config.json
	Stdio         Stdio
	ConsoleSocket string     // unix socket that gets the terminal's master, if process.terminal is true
	Console       Console    // gets the terminal's master, if there is no ConsoleSocket
	PidfdSocket   string     // unix socket that gets a pidfd of the container's init
	PidFile       string     // file that gets the pid of the container's init
	NoPivot       bool       // MS_MOVE and chroot instead of pivot_root
	NoNewKeyring  bool       // the session keyring of the caller stays
	ExtraFiles    []*os.File // descriptors 3, 4, … of the container, as in os/exec
	Env           []string   // added to process.env
	Notify        bool       // the program gets a NOTIFY_SOCKET of its own, see package sdnotify and Container.Dir
}

// Create makes a container whose init waits for Start.
func (r *Runtime) Create(ctx context.Context, id string, o CreateOptions) (*Container, error) {
	c, err := r.create(ctx, id, making{CreateOptions: o, park: true})
	return c, fault.In("create", id, explainRights(r.explainTaken(id, err)))
}

// Run makes a container and starts it, in fewer steps than Create and Start.
func (r *Runtime) Run(ctx context.Context, id string, o CreateOptions) (*Container, error) {
	c, err := r.create(ctx, id, making{CreateOptions: o})
	return c, fault.In("run", id, explainRights(r.explainTaken(id, err)))
}

// explainTaken says of an id that a container has how it gets free.
func (r *Runtime) explainTaken(id string, err error) error {
	e, ok := err.(*fault.Error)
	if !ok || !errors.Is(err, ErrExist) || e.Hint != "" {
		return err
	}
	c, oerr := r.open(id)
	if oerr != nil {
		e.Hint = fault.Hint(oerr) // a hull that was killed while it made the container has left a directory alone
		return e
	}
	switch status, serr := c.status(); {
	case serr != nil:
	case status == Stopped:
		e.Hint = "it has stopped: hull delete " + id + " takes it away"
	default:
		e.Hint = fmt.Sprintf("it is %s: choose another id, or take it away with hull delete --force %s", status, id)
	}
	return e
}

// making says what create does.
type making struct {
	CreateOptions
	park  bool                   // the init waits for Start
	saved *engine.RestoreRequest // of a container that goes on where another was saved, as far as the caller has said it; or nil
}

func (r *Runtime) create(ctx context.Context, id string, o making) (_ *Container, err error) {
	if err := store.CheckID(id); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return nil, err
	}
	cfg, err := r.load(bundle, o.Spec)
	if err != nil {
		return nil, err
	}
	if err := oci.Startable(cfg); err != nil {
		return nil, err
	}
	if err := o.handover().check(cfg.Spec.Process); err != nil {
		return nil, err
	}
	isolation, pod, err := r.place(id, cfg.Spec)
	if err != nil {
		return nil, err
	}
	if pod != nil && o.saved != nil {
		return nil, &fault.Error{Kind: fault.Unsupported, Err: errors.New("a container that joins others in a sandbox can't be restored")}
	}
	if err := r.checkOptions(isolation); err != nil {
		return nil, err
	}
	eng := r.engine(isolation)
	if err := eng.Check(cfg.Spec); err != nil {
		return nil, err
	}
	io := engine.IO{Stdio: [3]*os.File{o.Stdio.In, o.Stdio.Out, o.Stdio.Err}, Extra: o.ExtraFiles}
	var begun engine.Beginning
	if o.saved == nil {
		begun = eng.Begin(cfg.Spec, io, r.Trace)
	}
	if begun != nil {
		defer begun.Abandon()
	}
	rootless := r.rootless()
	group, err := cgroup.New(cgroup.Config{
		Path: cfg.Spec.Linux.CgroupsPath, ID: id, Systemd: r.SystemdCgroup, Rootless: rootless,
		Resources: cfg.Spec.Linux.Resources, Annotations: cfg.Spec.Annotations,
	})
	if err != nil {
		// The cgroup that is in use may be the one of the container that has this id already: then that is the mistake.
		return nil, cmp.Or(r.store().Taken(id), err)
	}
	resctrl, err := rdt.New(id, cfg.Spec.Linux.IntelRdt)
	if err != nil {
		return nil, err
	}
	dir, lock, err := r.store().Create(id)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	c := &Container{
		runtime: r, engine: eng, dir: dir, spec: cfg.Spec, raw: cfg.Raw, group: group, rdt: resctrl,
		record: &store.Record{ID: id, Isolation: isolation.recorded(), Bundle: bundle, Created: time.Now().UTC(), Cgroup: group.State(), RDT: resctrl.State(), Rootless: rootless,
			Systemd: r.SystemdCgroup, NoKeyring: o.NoNewKeyring, Restored: o.saved != nil, Overlaid: r.Sandbox.Overlaid(), Annotations: cfg.Spec.Annotations},
	}
	if p := cfg.Spec.Process; p != nil && !p.Terminal && isolation == Native {
		c.record.Streams = checkpoint.DescribeStreams(io.Stdio)
	}
	if pod != nil {
		c.joined, c.record.Pod = pod.asPod(), pod.ID()
	}
	view := c.engineView()
	c.record.Rootfs = view.Root()
	if err := c.start(ctx, o, io, begun); err != nil {
		return nil, errors.Join(err, c.abandon())
	}
	return c, nil
}

// load reads and checks the configuration: the bundle's file, or the one that was given, by the same rules.
func (r *Runtime) load(bundle string, s *specs.Spec) (*oci.Config, error) {
	var cfg *oci.Config
	var err error
	if s == nil {
		cfg, err = oci.Load(bundle)
	} else {
		var raw []byte
		if raw, err = json.Marshal(s); err != nil {
			return nil, err
		}
		cfg, err = oci.Parse("spec", raw)
	}
	if err != nil {
		return nil, err
	}
	for _, w := range cfg.Warnings {
		r.warn(w)
	}
	return cfg, nil
}

func (r *Runtime) rootless() bool {
	if r.Rootless != nil {
		return *r.Rootless
	}
	switch {
	case os.Geteuid() != 0:
		return true
	case r.SystemdCgroup: // systemd is the user's, or root's of a container
		return linux.OrdinaryRoot()
	}
	return linux.InUserNamespace()
}

func (r *Runtime) store() store.Store {
	if r.Root == "" {
		return store.Store{Root: DefaultRoot()}
	}
	return store.Store{Root: r.Root}
}

func (r *Runtime) trace(line string) {
	if r.Trace != nil {
		r.Trace(line)
	}
}

func (r *Runtime) warn(line string) {
	if r.Warn != nil {
		r.Warn(line)
	}
}

// start does all of a creation that needs the container's directory.
func (c *Container) start(ctx context.Context, o making, io engine.IO, begun engine.Beginning) (err error) {
	h := o.handover()
	defer h.takeBack(&err)
	if err := c.dir.SaveConfig(c.raw); err != nil {
		return err
	}
	if p := c.spec.Process; p != nil {
		p.Env = append(p.Env, o.Env...)
	}
	if o.Notify {
		if err := c.addNotifySocket(); err != nil {
			return err
		}
	}
	if err := c.dir.Save(c.record); err != nil {
		return err
	}
	if err := c.rdt.Create(ctx); err != nil {
		return err
	}
	req := &engine.CreateRequest{
		Container:    c.engineView(),
		IO:           io,
		Begun:        begun,
		NoPivot:      o.NoPivot,
		NoNewKeyring: o.NoNewKeyring,
		Park:         o.park,
		WantsChild:   o.PidFile != "",
		Prepared:     func(p *engine.Process) error { return c.prepared(p, h) },
		Trace:        c.runtime.Trace,
		Warn:         c.runtime.warn,
	}
	if h := c.spec.Hooks; h != nil && len(h.Prestart)+len(h.CreateRuntime) > 0 {
		req.Hooks = func(pid int) error { return c.createHooks(ctx, pid) }
	}
	if !o.park && o.saved == nil {
		req.BeforeStart = func(*engine.Process) error {
			return c.engine.StartHooks(ctx, c.execRequest(c.spec.Process))
		}
	}
	// A parked init's record needs more than is known then. And mounts on the host are taken away by the record: it must
	// not name an init before they are made.
	if !o.park && c.ownMounts() {
		req.Forked = func(i engine.Init) error { return c.recordInit(i, nil) }
	}
	p, err := c.make(ctx, req, o.saved)
	c.warnOfCgroup()
	if err != nil {
		return err
	}
	c.init = newProcess(p)
	if o.park || o.saved != nil { // as with runc, there are no hooks after a restore
		return nil
	}
	return c.started(ctx)
}

// make has the engine make the container: as its configuration says, or as it was saved.
func (c *Container) make(ctx context.Context, req *engine.CreateRequest, saved *engine.RestoreRequest) (*engine.Process, error) {
	if saved == nil {
		return c.engine.Create(ctx, req)
	}
	saved.CreateRequest = *req
	return c.engine.Restore(ctx, saved)
}

// addNotifySocket lets the container's program tell a service manager that it is ready (sd_notify(3)).
func (c *Container) addNotifySocket() error {
	m, env, err := sdnotify.Setup(c.dir.Path)
	if err != nil {
		return err
	}
	c.spec.Mounts = append(c.spec.Mounts, m)
	c.spec.Process.Env = append(c.spec.Process.Env, env)
	return nil
}

// createHooks runs the hooks that see the namespaces made and the host's files still there. prestart, which is
// deprecated, comes first (config.md, "POSIX-platform Hooks").
func (c *Container) createHooks(ctx context.Context, pid int) error {
	view := c.engineView()
	// prestart is older than the status creating, and its hooks expect created.
	state := engine.HookState(&view, pid, specs.StateCreated)
	if err := hook.RunAll(ctx, c.record.Bundle, "prestart", c.spec.Hooks.Prestart, state); err != nil {
		return err
	}
	state = engine.HookState(&view, pid, specs.StateCreating)
	return hook.RunAll(ctx, c.record.Bundle, "createRuntime", c.spec.Hooks.CreateRuntime, state)
}

// prepared records the init and tells it to whoever asked, before its program can run.
func (c *Container) prepared(p *engine.Process, h *handover) error {
	overlaid := c.record.Overlaid || p.Overlaid
	if c.record.Init != p.Init || len(p.Steps) > 0 || c.record.Overlaid != overlaid {
		c.record.Overlaid = overlaid
		if err := c.recordInit(p.Init, p.Steps); err != nil {
			return err
		}
	}
	return h.make(p)
}

// recordInit makes the init known to other commands.
func (c *Container) recordInit(i engine.Init, steps []stub.Step) error {
	c.record.Init, c.record.Steps = i, steps
	c.record.Cgroup, c.record.RDT = c.group.State(), c.rdt.State()
	return c.dir.Save(c.record)
}

// handover is what a caller gets of a process before its program runs.
type handover struct {
	console       Console
	consoleSocket string
	pidfdSocket   string
	pidFile       string
	written       bool // the pid file
}

func (o *CreateOptions) handover() *handover {
	return &handover{console: o.Console, consoleSocket: o.ConsoleSocket, pidfdSocket: o.PidfdSocket, pidFile: o.PidFile}
}

// check tells whether somebody takes the terminal of a process, if it has one: its program would get a hangup at once.
func (h *handover) check(p *specs.Process) error {
	terminal := p != nil && p.Terminal
	switch {
	case terminal && h.console == nil && h.consoleSocket == "":
		return &fault.Error{Field: "process.terminal", Kind: fault.BadUsage,
			Err:  errors.New("a detached process with a terminal needs a console socket"),
			Hint: `leave the terminal out ("terminal" in config.json, or --tty of exec), or name a socket where a program waits for it (--console-socket)`}
	case !terminal && h.consoleSocket != "":
		return &fault.Error{Kind: fault.BadUsage, Err: errors.New("a console socket is for a process with a terminal")}
	}
	return nil
}

// make hands out the terminal and the pidfd, and writes the pid file.
func (h *handover) make(p *engine.Process) error {
	if err := h.giveConsole(p); err != nil {
		return err
	}
	if h.pidfdSocket != "" {
		if err := linux.SendFile(h.pidfdSocket, []byte("pidfd"), p.PidFD); err != nil {
			return &fault.Error{Step: "pidfd socket", Err: err}
		}
	}
	if h.pidFile != "" {
		if err := writePidFile(h.pidFile, p.Pid); err != nil {
			return &fault.Error{Step: "pid file", Err: err}
		}
		h.written = true
	}
	return nil
}

// takeBack removes the pid file if the process has come to nothing: by it conmon tells a command that has failed from one that could
// not be started.
func (h *handover) takeBack(err *error) {
	if *err != nil && h.written {
		if rerr := os.Remove(h.pidFile); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			*err = errors.Join(*err, rerr)
		}
	}
}

func (h *handover) giveConsole(p *engine.Process) error {
	master := p.Console
	if master == nil {
		return nil
	}
	p.Console = nil
	if h.consoleSocket == "" {
		if err := h.console(master); err != nil {
			return &fault.Error{Step: "terminal", Err: err}
		}
		return nil
	}
	defer master.Close()
	if err := linux.SendFile(h.consoleSocket, []byte("/dev/ptmx"), master); err != nil {
		return &fault.Error{Step: "console socket", Err: err}
	}
	return nil
}

// writePidFile replaces the file at once: whoever waits for it must not read half a number.
func writePidFile(path string, pid int) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	open := func() (*os.File, error) {
		f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o666)
		return f, named(err, path)
	}
	f, err := open()
	if errors.Is(err, os.ErrExist) && os.Remove(tmp) == nil {
		f, err = open() // one that was killed here has left it
	}
	if err != nil {
		return err
	}
	_, werr := fmt.Fprint(f, pid)
	err = errors.Join(werr, f.Close())
	if err == nil {
		err = named(os.Rename(tmp, path), path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// named has an error name the file that was asked for instead of the one that becomes it.
func named(err error, path string) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return &fs.PathError{Op: p.Op, Path: path, Err: p.Err}
	case errors.As(err, &l):
		return &fs.PathError{Op: l.Op, Path: path, Err: l.Err}
	}
	return err
}

// abandon removes what a failed creation has left.
func (c *Container) abandon() error {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	err := c.group.Kill(ctx)
	if c.init != nil && err == nil {
		_, _ = c.init.Wait() // a hook failed after it was started; nobody else knows of it
	}
	if derr := errors.Join(c.leave(), c.group.Destroy(ctx), c.rdt.Abandon()); derr != nil {
		err = errors.Join(err, derr)
	}
	if err != nil {
		// What is left is found by the record: delete can be tried again.
		return fmt.Errorf("clean up: %w", err)
	}
	c.runPoststop(ctx)
	return c.dir.Remove()
}

// Container returns the container with that id.
func (r *Runtime) Container(id string) (*Container, error) {
	c, err := r.open(id)
	return c, fault.In("", id, err)
}

func (r *Runtime) open(id string) (*Container, error) {
	dir, err := r.store().Open(id)
	if err != nil {
		return nil, err
	}
	return r.read(dir)
}

// read makes a Container of what a directory holds.
func (r *Runtime) read(dir *store.Dir) (*Container, error) {
	record, err := dir.Record()
	if errors.Is(err, os.ErrNotExist) {
		// Being made at this moment, or left by a creation that was killed: no container.
		return nil, &fault.Error{Kind: fault.NotExist, Err: fmt.Errorf("%w: %s has no state", fault.NotExist, dir.Path),
			Hint: "if no other command is creating it, delete --force removes what is left"}
	}
	if err != nil {
		return nil, damaged(err)
	}
	return r.recorded(dir, record)
}

// recorded makes a Container of its record and its configuration.
func (r *Runtime) recorded(dir *store.Dir, record *store.Record) (*Container, error) {
	raw, err := dir.Config()
	if err != nil {
		return nil, damaged(err)
	}
	cfg, err := oci.Parse(filepath.Join(dir.Path, "config.json"), raw)
	if err != nil {
		return nil, damaged(err)
	}
	group, err := cgroup.Open(record.Cgroup)
	if err != nil {
		return nil, damaged(err)
	}
	return &Container{runtime: r, engine: r.engine(recordedIsolation(record)), dir: dir, record: record, spec: cfg.Spec, raw: raw, group: group, rdt: rdt.Open(record.RDT)}, nil
}

func damaged(err error) error {
	return &fault.Error{Err: err, Hint: "delete --force takes away a container whose state is damaged"}
}

// Delete takes a container away. With Force it also removes what a creation that was killed has left, and a container
// that doesn't exist is no error.
func (r *Runtime) Delete(ctx context.Context, id string, o DeleteOptions) error {
	dir, err := r.store().Open(id)
	if err != nil {
		if o.Force && errors.Is(err, ErrNotExist) {
			return nil
		}
		return fault.In("delete", id, err)
	}
	c, err := r.read(dir)
	switch {
	case err == nil:
		return c.Delete(ctx, o)
	case !o.Force:
		return fault.In("delete", id, err)
	}
	return fault.In("delete", id, r.deleteRemains(ctx, dir))
}

// deleteRemains removes a container whose record or configuration is missing or damaged, with all of it that is known.
func (r *Runtime) deleteRemains(ctx context.Context, dir *store.Dir) error {
	lock, err := dir.Lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	record, err := dir.Record()
	if err != nil {
		if record, err = r.copied(dir, err); err != nil {
			err = r.destroyNamed(ctx, dir, err)
		}
		if err != nil {
			return err
		}
	}
	if record == nil {
		return dir.Remove()
	}
	c, err := r.recorded(dir, record)
	if err != nil {
		r.warn(err.Error())
		// Without a configuration nothing is known of mounts on the host and of poststop hooks.
		c = &Container{runtime: r, engine: r.engine(recordedIsolation(record)), dir: dir, record: record, spec: &specs.Spec{Linux: new(specs.Linux)}, group: cgroup.None(), rdt: rdt.Open(record.RDT)}
		if group, err := cgroup.Open(record.Cgroup); err == nil {
			c.group = group
		}
	}
	status, _ := c.status() // of one that can't be asked everything is killed
	return c.destroy(ctx, status)
}

// copied returns the copy of a record that can't be read, or nil if there is none: a creation was killed before its container had a
// process. It returns an error if the copy is damaged, too.
func (r *Runtime) copied(dir *store.Dir, why error) (*store.Record, error) {
	record, err := dir.Copy()
	switch {
	case err == nil:
		r.warn(why.Error())
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w; %w", why, err)
	case !errors.Is(why, os.ErrNotExist):
		r.warnOfLeft(why)
	}
	return record, nil
}

// creationTime is how long after its configuration was written a container's first process can be there on a busy host.
const creationTime = 10 * time.Second

// madeWith returns an error if all processes in a cgroup were made later than a container whose configuration is in a directory.
func madeWith(dir *store.Dir, group *cgroup.Group) error {
	written, err := os.Stat(filepath.Join(dir.Path, store.ConfigFile))
	if err != nil {
		return err
	}
	pids, err := group.Pids(true)
	if err != nil || len(pids) == 0 {
		return err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return os.NewSyscallError("clock_gettime", err)
	}
	var oldest time.Duration
	for _, pid := range pids {
		ticks, err := proc.StartTime(pid)
		if err != nil {
			continue // it has ended
		}
		const tick = time.Second / 100 // USER_HZ
		oldest = max(oldest, time.Duration(now.Nano())-time.Duration(ticks)*tick)
	}
	age := time.Since(written.ModTime())
	if oldest < age-creationTime { // it may be older: of a pool
		return fmt.Errorf("the oldest process of its cgroup is %v old, and the configuration %v", oldest.Round(time.Second), age.Round(time.Second))
	}
	return nil
}

func (r *Runtime) warnOfLeft(why error) {
	r.warn(fmt.Sprintf("%v; its process and its cgroup, if it has any, are left", why))
}

// destroyNamed kills what is in the cgroup that a configuration names whose record is damaged, and removes that. Of a path that is
// relative nobody knows any more whose cgroup it starts from; another container may have the cgroup since, also one whose record is in a
// directory that isn't known here.
func (r *Runtime) destroyNamed(ctx context.Context, dir *store.Dir, why error) error {
	leave := func(err error) error {
		r.warnOfLeft(fmt.Errorf("%w; %w", why, err))
		return nil
	}
	raw, err := dir.Config()
	if err != nil {
		return leave(err)
	}
	cfg, err := oci.Parse(filepath.Join(dir.Path, "config.json"), raw)
	if err != nil {
		return leave(err)
	}
	path := cfg.Spec.Linux.CgroupsPath
	group, err := cgroup.Named(path, r.rootless())
	if err != nil {
		return leave(err)
	}
	if !group.Exists() {
		return leave(fmt.Errorf("there is no cgroup %s", path))
	}
	if err := madeWith(dir, group); err != nil {
		return leave(err)
	}
	all, err := r.store().Dirs()
	if err != nil {
		return leave(err)
	}
	for _, d := range all {
		if d.ID == dir.ID {
			continue
		}
		other, err := d.Record()
		if err != nil {
			other, err = d.Copy()
		}
		if err == nil && group.Overlaps(other.Cgroup) {
			return leave(fmt.Errorf("container %s has the cgroup %s, too", d.ID, path))
		}
	}
	r.warn(fmt.Sprintf("%v; the processes of the cgroup %s, which config.json names, are killed, and it is removed", why, path))
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if err := group.Kill(ctx); err != nil {
		return err
	}
	return group.Destroy(ctx)
}
