package hull

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/cgroup"
	"hull/internal/checkpoint"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/hook"
	"hull/internal/oci"
	"hull/internal/rdt"
	"hull/internal/sdnotify"
	"hull/internal/store"
	"hull/internal/stub"
)

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
	c, err := r.configured(id, o)
	if err != nil {
		return nil, err
	}
	// The engine makes what it takes longest for, while the rest is looked at and made.
	io := engine.IO{Stdio: [3]*os.File{o.Stdio.In, o.Stdio.Out, o.Stdio.Err}, Extra: o.ExtraFiles}
	var begun engine.Beginning
	if o.saved == nil {
		begun = c.engine.Begin(c.spec, io, r.Trace)
	}
	if begun != nil {
		defer begun.Abandon()
	}
	if err := c.locate(); err != nil {
		return nil, err
	}
	lock, err := c.register(io)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if err := c.start(ctx, o, io, begun); err != nil {
		return nil, errors.Join(err, c.abandon())
	}
	return c, nil
}

// configured returns a container of which nothing is there yet, once it is known that its configuration can be had. Its record lacks
// what is found out later.
func (r *Runtime) configured(id string, o making) (*Container, error) {
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
	c, err := r.placed(id, bundle, cfg, o)
	if err != nil {
		return nil, err
	}
	if err := c.engine.Check(c.spec); err != nil {
		return nil, err
	}
	return c, nil
}

// placed returns a container with the isolation that its configuration asks for, of which the engine has not been asked yet.
func (r *Runtime) placed(id, bundle string, cfg *oci.Config, o making) (*Container, error) {
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
	c := &Container{runtime: r, engine: r.engine(isolation), spec: cfg.Spec, raw: cfg.Raw, record: &store.Record{
		ID: id, Isolation: isolation.recorded(), Bundle: bundle, Rootless: r.rootless(), Systemd: r.SystemdCgroup, NoKeyring: o.NoNewKeyring,
		Restored: o.saved != nil, Overlaid: r.Sandbox.Overlaid(), Annotations: cfg.Spec.Annotations,
	}}
	if pod != nil {
		c.joined, c.record.Pod = pod.asPod(), pod.ID()
	}
	return c, nil
}

// locate finds out where the container's cgroup and its resctrl group will be.
func (c *Container) locate() (err error) {
	c.group, err = cgroup.New(c.cgroupConfig())
	if err != nil {
		// The cgroup that is in use may be the one of the container that has this id already: then that is the mistake.
		return cmp.Or(c.runtime.store().Taken(c.ID()), err)
	}
	c.rdt, err = rdt.New(c.ID(), c.spec.Linux.IntelRdt)
	return err
}

// cgroupConfig is what the configuration says of the container's cgroup.
func (c *Container) cgroupConfig() cgroup.Config {
	l := c.spec.Linux
	return cgroup.Config{
		Path: l.CgroupsPath, ID: c.ID(), Systemd: c.runtime.SystemdCgroup, Rootless: c.record.Rootless,
		Resources: l.Resources, Annotations: c.spec.Annotations,
	}
}

// register makes the container's directory, by which its id is taken, and completes the record, which is not written yet.
func (c *Container) register(io engine.IO) (_ *store.Lock, err error) {
	dir, lock, err := c.runtime.store().Create(c.ID())
	if err != nil {
		return nil, err
	}
	c.dir = dir
	c.record.Created, c.record.Cgroup, c.record.RDT = time.Now().UTC(), c.group.State(), c.rdt.State()
	if p := c.spec.Process; p != nil && !p.Terminal && recordedIsolation(c.record) == Native {
		c.record.Streams = checkpoint.DescribeStreams(io.Stdio)
	}
	view := c.engineView()
	c.record.Rootfs = view.Root()
	return lock, nil
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
