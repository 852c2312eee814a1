package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/containerd"
	"hull/internal/engine"
	"hull/internal/ttrpc"
)

// oomPatience is how long the end of a container waits for the kernel's word that it ran out of memory, which comes by another
// way.
const oomPatience = 20 * time.Millisecond

// task is a container.
type task struct {
	service   *service
	id        string
	kept      *kept
	container *hull.Container // nil as long as it is to be restored; changed with init.mu
	restore   func() error    // makes it then; or nil
	init      *process
	ownPids   bool

	mu    sync.Mutex
	execs map[string]*process
	live  sync.WaitGroup // execs whose end has not been told
	gone  bool           // the first process has ended: no exec begins any more
	ooms  sync.WaitGroup // the watch for OOM
}

// create makes a container whose process waits. One that goes on from a checkpoint is made by start: it runs at once.
func (s *service) create(ctx context.Context, r *containerd.CreateRequest) (_ *task, err error) {
	o, err := s.options(&r.Options)
	if err != nil {
		return nil, err
	}
	t := &task{service: s, id: r.ID, init: newProcess("", r.Streams), execs: make(map[string]*process),
		kept: &kept{Root: o.runtime.Root, Bundle: r.Bundle}}
	if err := t.kept.save(); err != nil {
		return nil, err
	}
	if err := mountRootfs(r.Bundle, r.Rootfs); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unmountRootfs(r.Bundle))
		}
	}()
	spec, err := s.inPod(r.Bundle)
	if err != nil {
		return nil, err
	}
	create := hull.CreateOptions{
		Bundle: r.Bundle, Spec: spec, Console: t.init.consoleOf(), NoPivot: o.noPivot, NoNewKeyring: o.noNewKeyring,
	}
	if r.Checkpoint != "" {
		t.restore = func() error { // which is called again when it fails
			stdio, err := t.init.open(r.ID, s.namespace)
			if err != nil {
				return err
			}
			create.Stdio = stdio
			return t.made(o.runtime.Restore(ctx, r.ID, hull.RestoreOptions{
				CreateOptions: create, ImageOptions: hull.ImageOptions{Path: r.Checkpoint, WorkPath: o.workPath, TCPConnected: true},
			}))
		}
		return t, nil
	}
	if create.Stdio, err = t.init.open(r.ID, s.namespace); err != nil {
		return nil, err
	}
	if err := t.made(o.runtime.Create(ctx, r.ID, create)); err != nil {
		return nil, ociError("create", err)
	}
	return t, nil
}

// made notes the container that hull has made, or that it couldn't.
func (t *task) made(c *hull.Container, err error) error {
	if err != nil {
		t.init.abandon()
		return err
	}
	pids, ok := engine.Namespace(c.Spec(), specs.PIDNamespace)
	t.ownPids = ok && pids.Path == ""
	if err := t.begin(c); err != nil {
		t.init.abandon()
		return errors.Join(err, c.Delete(context.Background(), hull.DeleteOptions{Force: true}))
	}
	return nil
}

func (t *task) begin(c *hull.Container) error {
	t.init.mu.Lock()
	defer t.init.mu.Unlock()
	if err := t.init.begin(c.Init(), containerd.Created); err != nil {
		t.init.hull.Store(nil)
		return err
	}
	t.container = c
	return nil
}

// wantMade returns an error if there is no more of the container than an image that start restores.
func (t *task) wantMade() error {
	t.init.mu.Lock()
	defer t.init.mu.Unlock()
	if t.container == nil {
		return failed("the container is still to be restored")
	}
	return nil
}

// watch tells of the container's OOMs and of its end. Its creation has been told.
func (t *task) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	if ooms, err := t.container.OOMEvents(ctx); err == nil {
		t.ooms.Go(func() {
			for range ooms {
				t.service.events.publish(&containerd.TaskOOM{ID: t.id})
			}
		})
	}
	go func() {
		defer cancel()
		if err := t.init.wait(); err != nil {
			t.service.log.error(fmt.Errorf("%s: %w", t.id, err))
		}
		t.mu.Lock()
		t.gone = true
		t.mu.Unlock()
		// The end of the first process is the last that is told of a container. Without a pid namespace of its own, others
		// have to be ended.
		if !t.ownPids {
			if err := t.container.Signal(unix.SIGKILL, true); err != nil && !errors.Is(err, hull.ErrBadState) {
				t.service.log.error(err)
			}
		}
		t.live.Wait()
		t.awaitOOM(cancel)
		t.kept.Exit = &t.init.exit
		if err := t.kept.save(); err != nil {
			t.service.log.error(err)
		}
		t.service.tell(t, t.init)
	}()
}

// awaitOOM waits until the last OOM is told: on v2 the watch ends with the last process, on v1 a moment has to do.
func (t *task) awaitOOM(cancel context.CancelFunc) {
	timer := time.AfterFunc(oomPatience, cancel)
	defer timer.Stop()
	t.ooms.Wait()
}

// start lets the container's program run.
func (t *task) start(ctx context.Context) (int, error) {
	p := t.init
	p.start.Lock()
	defer p.start.Unlock()
	if status, _ := p.state(); status != containerd.Created {
		return 0, failed("the container's process has been started")
	}
	if t.restore != nil {
		if err := t.restore(); err != nil {
			return 0, ociError("restore", err)
		}
		t.restore = nil
		t.watch()
	} else if err := t.container.Start(ctx); err != nil {
		return 0, ociError("start", err)
	}
	p.mu.Lock()
	p.status = containerd.Running
	pid := p.exit.Pid
	p.mu.Unlock()
	t.service.forwardLoopback(t.container, p.ended)
	t.service.events.publish(&containerd.TaskStart{ID: t.id, Pid: pid})
	return pid, nil
}

// checkpoint saves the container. With Exit it ends, and containerd deletes it as any that has ended.
func (t *task) checkpoint(ctx context.Context, r *containerd.CheckpointRequest) error {
	var o containerd.CheckpointOptions
	if name := typeName(&r.Options); name == containerd.RuncCheckpointOptions {
		if err := containerd.Unmarshal(r.Options.Value, &o); err != nil {
			return err
		}
	} else if name != "" {
		return &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "options of type " + r.Options.TypeURL + " are none of a checkpoint"}
	}
	path := r.Path
	if o.ImagePath != "" {
		path = o.ImagePath
	}
	if path == "" {
		return &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "path: missing: it is the directory that the container's state is written to"}
	}
	err := t.container.Checkpoint(ctx, hull.CheckpointOptions{
		ImageOptions: hull.ImageOptions{
			Path: path, WorkPath: o.WorkPath, TCPConnected: o.TCPConnected, UnixSockets: o.UnixSockets, ShellJob: o.ShellJob,
			FileLocks: o.FileLocks, EmptyNS: o.EmptyNS, ManageCgroups: o.ManageCgroups,
		},
		LeaveRunning: !o.Exit, ParentPath: o.ParentPath,
	})
	if err != nil {
		return ociError("checkpoint", err)
	}
	t.service.events.publish(&containerd.TaskCheckpointed{ID: t.id, Path: path})
	return nil
}

// announce notes a process that start is to start.
func (t *task) announce(r *containerd.ExecRequest) error {
	var spec specs.Process
	if err := json.Unmarshal(r.Spec.Value, &spec); err != nil {
		return &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "process: " + err.Error()}
	}
	spec.Terminal = r.Streams.Terminal
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case r.ExecID == "":
		return &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "exec_id: missing"}
	case t.execs[r.ExecID] != nil:
		return &ttrpc.Error{Code: ttrpc.AlreadyExists, Message: "id " + r.ExecID + ": already exists"}
	case t.gone:
		return failed("the container's process has ended")
	}
	p := newProcess(r.ExecID, r.Streams)
	p.spec = &spec
	t.execs[r.ExecID] = p
	t.service.events.publish(&containerd.TaskExecAdded{ID: t.id, ExecID: r.ExecID})
	return nil
}

// startExec starts a process that was announced.
func (t *task) startExec(ctx context.Context, p *process) (_ int, err error) {
	p.start.Lock()
	defer p.start.Unlock()
	if status, _ := p.state(); status != containerd.Created {
		return 0, failed("the process has been started")
	}
	t.mu.Lock()
	if t.gone {
		t.mu.Unlock()
		return 0, failed("the container's process has ended")
	}
	t.live.Add(1)
	t.mu.Unlock()
	defer func() {
		if err != nil {
			t.live.Done()
		}
	}()
	stdio, err := p.open(t.id, t.service.namespace)
	if err != nil {
		return 0, err
	}
	h, err := t.container.Exec(ctx, hull.ExecOptions{Process: p.spec, Stdio: stdio, Console: p.consoleOf()})
	if err != nil {
		p.abandon()
		return 0, ociError("exec", err)
	}
	p.spec = nil // no longer needed, and it may be large
	p.mu.Lock()
	if err := p.begin(h, containerd.Running); err != nil {
		t.service.log.error(err)
	}
	p.mu.Unlock()
	t.service.events.publish(&containerd.TaskExecStarted{ID: t.id, ExecID: p.id, Pid: h.Pid})
	go func() {
		defer t.live.Done()
		if err := p.wait(); err != nil {
			t.service.log.error(fmt.Errorf("%s, exec %s: %w", t.id, p.id, err))
		}
		t.service.tell(t, p)
	}()
	return h.Pid, nil
}

// tell tells of the end of a process.
func (s *service) tell(t *task, p *process) {
	id := p.id
	if id == "" {
		id = t.id
	}
	close(p.ended)
	s.events.publish(&containerd.TaskExit{ID: t.id, ProcessID: id, Exit: p.exit})
}

// process returns the container's first process, or one of Exec.
func (t *task) process(execID string) (*process, error) {
	if execID == "" {
		return t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.execs[execID]; p != nil {
		return p, nil
	}
	return nil, &ttrpc.Error{Code: ttrpc.NotFound, Message: "process " + execID + ": not found"}
}

// kill sends a signal to a process, or to all of the container's.
func (t *task) kill(p *process, sig unix.Signal, all bool) error {
	if p != t.init {
		p.awaitStart() // it is killed then
	}
	status, _ := p.state()
	if status == containerd.Stopped && !all {
		return alreadyEnded()
	}
	var err error
	if p == t.init {
		if err := t.wantMade(); err != nil {
			return err
		}
		err = t.container.Signal(sig, all)
	} else if h := p.hull.Load(); h == nil {
		return failed("the process has not been started")
	} else {
		err = h.Signal(sig)
	}
	if errors.Is(err, hull.ErrBadState) || errors.Is(err, unix.ESRCH) || isDone(err) {
		return alreadyEnded()
	}
	return ociError("kill", err)
}

// delete takes away a process that has ended or was not started; with the first, the container.
func (t *task) delete(ctx context.Context, p *process) (containerd.Exit, error) {
	status, exit := p.retire()
	if status == containerd.Running {
		return exit, failed("the process runs")
	}
	if p != t.init {
		t.mu.Lock()
		delete(t.execs, p.id)
		t.mu.Unlock()
		<-p.ended
		if !p.made() {
			exit.Status = 0 // of what has never run, as runc's shim tells it
		}
		return exit, nil
	}
	if t.container != nil {
		if err := t.container.Delete(ctx, hull.DeleteOptions{Force: true}); err != nil && !errors.Is(err, hull.ErrNotExist) {
			return exit, ociError("delete", err)
		}
		<-t.init.ended // also of one that was not started: it was killed now
	}
	if err := unmountRootfs(t.kept.Bundle); err != nil {
		return exit, err
	}
	t.mu.Lock()
	execs := slices.Collect(maps.Values(t.execs))
	t.mu.Unlock()
	for _, e := range execs {
		e.retire()
	}
	_, exit = t.init.state()
	t.service.events.publish(&containerd.TaskDelete{ID: t.id, Exit: exit})
	return exit, nil
}

// status returns what the container's process does, and whether it is paused.
func (t *task) status() containerd.Status {
	status, _ := t.init.state()
	if status == containerd.Running {
		if s, err := t.container.State(); err == nil && s.Status == hull.Paused {
			return containerd.Paused
		}
	}
	return status
}

// pids lists the container's processes.
func (t *task) pids() (containerd.PidsResponse, error) {
	pids, err := t.container.Processes()
	if err != nil {
		return nil, err
	}
	ids := make(map[int]string)
	t.mu.Lock()
	for id, p := range t.execs {
		if h := p.hull.Load(); h != nil {
			ids[h.Pid] = id
		}
	}
	t.mu.Unlock()
	list := make(containerd.PidsResponse, len(pids))
	for i, pid := range pids {
		list[i] = containerd.ProcessInfo{Pid: pid, ExecID: ids[pid]}
	}
	return list, nil
}

// update changes the container's limits.
func (t *task) update(r *containerd.Any) error {
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Value, &resources); err != nil {
		return &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "resources: " + err.Error()}
	}
	return ociError("update", t.container.Update(hull.UpdateOptions{Resources: &resources}))
}

// rootOf is where hull's states of a namespace of containerd's are.
func rootOf(base, namespace string) string {
	if base == "" {
		base = "/run/containerd/hull"
	}
	return filepath.Join(base, namespace)
}
