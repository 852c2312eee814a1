package shim

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/containerd"
	"hull/internal/linux"
	"hull/internal/ttrpc"
)

// service answers the calls of the task service, for all containers of one shim, and of the sandbox service.
type service struct {
	namespace      string
	debug, sandbox bool
	log            *logFile
	events         *publisher
	over           chan struct{} // closed, with mu, when the shim is no longer needed

	making sync.Mutex // held while the pod is made or taken away; locked before mu

	mu       sync.Mutex
	tasks    map[string]*task
	creating map[string]bool // ids
	pod      *pod            // that containerd has had this shim make, or nil
	end      sync.Once

	idle *time.Timer
}

// idleAfter is how long after a call the shim gives back the memory that calls have taken: it waits most of its life.
const idleAfter = 300 * time.Millisecond

// lastAnswers is how long a shim that is no longer needed goes on answering what it was asked.
const lastAnswers = 2 * time.Second

// features are the runtime's, as JSON.
func features() ([]byte, error) { return json.Marshal(hull.Features()) }

// serve is the shim itself, until containerd has no container here any more.
func (c *command) serve() error {
	// A third of Go's usual garbage: a shim waits most of its life.
	debug.SetGCPercent(30)
	// A containerd that restarts is no reason to end, nor is a reader of a log that has gone. Ignored signals would be inherited.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGPIPE, unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	go func() {
		for range signals {
		}
	}()
	log, err := openLog()
	if err != nil {
		return err
	}
	log.on = c.debug
	socket := os.NewFile(socketFD, "socket")
	l, err := net.FileListener(socket)
	socket.Close()
	if err != nil {
		return err
	}
	path := l.Addr().String()
	s := &service{
		namespace: c.namespace, debug: c.debug, sandbox: c.sandbox, log: log, over: make(chan struct{}),
		tasks: make(map[string]*task), creating: make(map[string]bool),
		events: newPublisher(os.Getenv("TTRPC_ADDRESS"), c.namespace, log.error),
	}
	s.idle = time.AfterFunc(idleAfter, func() {
		if err := linux.ReleaseMemory(); err != nil {
			log.error(err)
		}
	})
	server := &ttrpc.Server{Handler: s.handle, Log: log.error}
	go func() {
		<-s.over
		// The name first: a container that comes now gets a shim of its own.
		os.Remove(path)
		l.Close()
	}()
	err = server.Serve(l)
	s.events.flush(lastEvents)
	server.Close(lastAnswers)
	return err
}

// openLog opens the bundle's FIFO log as standard error, too, for what Go says of a panic.
func openLog() (*logFile, error) {
	// For reading, too: so it isn't an error when nobody reads.
	fd, err := unix.Open("log", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return &logFile{file: os.Stderr}, nil // nobody wants it, as in tests
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "log", Err: err}
	}
	if err := unix.Dup2(fd, int(os.Stderr.Fd())); err != nil {
		return nil, os.NewSyscallError("dup2", err)
	}
	return &logFile{file: os.NewFile(uintptr(fd), "log")}, nil
}

// made returns a container by its id, if there is more of it than an image that Start restores.
func (s *service) made(id string) (*task, error) {
	t, err := s.task(id)
	if err == nil {
		err = t.wantMade()
	}
	return t, err
}

// wantStaying returns an error if the shim is about to end: what is made now would stay without one. The caller has mu.
func (s *service) wantStaying() error {
	select {
	case <-s.over:
		return &ttrpc.Error{Code: ttrpc.Unavailable, Message: "the shim ends"}
	default:
		return nil
	}
}

// all returns the containers.
func (s *service) all() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.tasks))
}

// task returns a container by its id.
func (s *service) task(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t != nil {
		return t, nil
	}
	return nil, &ttrpc.Error{Code: ttrpc.NotFound, Message: "container not created"}
}

// handle answers a call.
func (s *service) handle(ctx context.Context, service, method string, payload []byte) ([]byte, error) {
	all := methods
	switch service {
	case containerd.TaskV2, containerd.TaskV3:
	case containerd.Sandbox:
		all = sandboxMethods
	default:
		return nil, &ttrpc.Error{Code: ttrpc.Unimplemented, Message: "service " + service}
	}
	h, ok := all[method]
	if !ok {
		return nil, &ttrpc.Error{Code: ttrpc.Unimplemented, Message: "method " + method}
	}
	m, err := h(s, ctx, payload)
	s.idle.Reset(idleAfter)
	if err != nil {
		return nil, err
	}
	return containerd.Marshal(m), nil
}

// methods of the task service. What changes a container is done to its end, whether or not the caller is still there: ctx is
// only for waiting.
var methods = map[string]func(*service, context.Context, []byte) (containerd.Message, error){
	"Create":     with((*service).callCreate),
	"Start":      with((*service).callStart),
	"Exec":       with((*service).callExec),
	"Delete":     with((*service).callDelete),
	"State":      with((*service).callState),
	"Wait":       with((*service).callWait),
	"Kill":       with((*service).callKill),
	"Pids":       with((*service).callPids),
	"Pause":      with((*service).callPause),
	"Resume":     with((*service).callResume),
	"Stats":      with((*service).callStats),
	"Update":     with((*service).callUpdate),
	"ResizePty":  with((*service).callResize),
	"CloseIO":    with((*service).callClose),
	"Checkpoint": with((*service).callCheckpoint),
	"Connect":    with((*service).callConnect),
	"Shutdown":   with((*service).callShutdown),
}

// with makes a method of a function of the message that it takes.
func with[T any, P interface {
	*T
	containerd.Incoming
}](f func(*service, context.Context, P) (containerd.Message, error)) func(*service, context.Context, []byte) (containerd.Message, error) {
	return func(s *service, ctx context.Context, payload []byte) (containerd.Message, error) {
		r := P(new(T))
		if err := containerd.Unmarshal(payload, r); err != nil {
			return nil, &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: err.Error()}
		}
		return f(s, ctx, r)
	}
}

func (s *service) callCreate(ctx context.Context, r *containerd.CreateRequest) (containerd.Message, error) {
	s.mu.Lock()
	if err := s.wantStaying(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	if s.tasks[r.ID] != nil || s.creating[r.ID] {
		s.mu.Unlock()
		return nil, &ttrpc.Error{Code: ttrpc.AlreadyExists, Message: "container " + r.ID + ": already exists"}
	}
	s.creating[r.ID] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.creating, r.ID)
		s.mu.Unlock()
	}()
	t, err := s.create(context.WithoutCancel(ctx), r)
	if err != nil {
		return nil, err
	}
	pid, made := t.init.exit.Pid, t.container != nil // before another call can restore it
	s.mu.Lock()
	s.tasks[r.ID] = t
	s.mu.Unlock()
	s.events.publish(&containerd.TaskCreate{ID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Streams: r.Streams, Pid: pid})
	if made {
		t.watch()
	}
	return &containerd.PidResponse{Pid: pid}, nil
}

func (s *service) callStart(ctx context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	t, p, err := s.find(r)
	if err != nil {
		return nil, err
	}
	var pid int
	if p == t.init {
		pid, err = t.start(context.WithoutCancel(ctx))
	} else {
		pid, err = t.startExec(context.WithoutCancel(ctx), p)
	}
	if err != nil {
		return nil, err
	}
	return &containerd.PidResponse{Pid: pid}, nil
}

// find returns what a call is about.
func (s *service) find(r *containerd.ProcessRequest) (*task, *process, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, nil, err
	}
	p, err := t.process(r.ExecID)
	return t, p, err
}

func (s *service) callExec(_ context.Context, r *containerd.ExecRequest) (containerd.Message, error) {
	t, err := s.made(r.ID)
	if err != nil {
		return nil, err
	}
	return containerd.Empty{}, t.announce(r)
}

func (s *service) callDelete(ctx context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	t, p, err := s.find(r)
	if err != nil {
		return nil, err
	}
	exit, err := t.delete(context.WithoutCancel(ctx), p)
	if err != nil {
		return nil, err
	}
	if p == t.init {
		s.mu.Lock()
		delete(s.tasks, r.ID)
		s.mu.Unlock()
	}
	return (*containerd.DeleteResponse)(&exit), nil
}

func (s *service) callState(_ context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	t, p, err := s.find(r)
	if err != nil {
		return nil, err
	}
	status, exit := p.state()
	if p == t.init {
		status = t.status()
	}
	id := r.ID
	if r.ExecID != "" {
		id = r.ExecID
	}
	return &containerd.StateResponse{ID: id, Bundle: t.kept.Bundle, Status: status, Streams: p.want, Exit: exit, ExecID: r.ExecID}, nil
}

func (s *service) callWait(ctx context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	_, p, err := s.find(r)
	if err != nil {
		return nil, err
	}
	return awaitExit(ctx, p.ended, &p.exit)
}

// awaitExit answers with exit, which is known when ended is closed.
func awaitExit(ctx context.Context, ended <-chan struct{}, exit *containerd.Exit) (containerd.Message, error) {
	select {
	case <-ended:
		return (*containerd.WaitResponse)(exit), nil
	case <-ctx.Done():
		return nil, &ttrpc.Error{Code: ttrpc.Canceled, Message: context.Cause(ctx).Error()}
	}
}

func (s *service) callKill(_ context.Context, r *containerd.KillRequest) (containerd.Message, error) {
	t, p, err := s.find(&r.ProcessRequest)
	if err != nil {
		return nil, err
	}
	return containerd.Empty{}, t.kill(p, unix.Signal(r.Signal), r.All)
}

func (s *service) callPids(_ context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	t, err := s.made(r.ID)
	if err != nil {
		return nil, err
	}
	return t.pids()
}

func (s *service) callPause(_ context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	t, err := s.made(r.ID)
	if err != nil {
		return nil, err
	}
	if err := t.container.Pause(); err != nil {
		return nil, ociError("pause", err)
	}
	s.events.publish(&containerd.TaskPaused{ID: r.ID})
	return containerd.Empty{}, nil
}

func (s *service) callResume(_ context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	t, err := s.made(r.ID)
	if err != nil {
		return nil, err
	}
	if err := t.container.Resume(); err != nil {
		return nil, ociError("resume", err)
	}
	s.events.publish(&containerd.TaskResumed{ID: r.ID})
	return containerd.Empty{}, nil
}

func (s *service) callStats(_ context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	t, err := s.made(r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := t.container.Stats()
	if err != nil {
		return nil, ociError("events", err)
	}
	return &containerd.StatsResponse{Stats: containerd.Metrics(stats)}, nil
}

func (s *service) callUpdate(_ context.Context, r *containerd.UpdateRequest) (containerd.Message, error) {
	t, err := s.made(r.ID)
	if err != nil {
		return nil, err
	}
	return containerd.Empty{}, t.update(&r.Resources)
}

func (s *service) callResize(_ context.Context, r *containerd.ResizeRequest) (containerd.Message, error) {
	_, p, err := s.find(&r.ProcessRequest)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.want.Terminal || p.hull.Load() == nil || p.status == containerd.Stopped {
		return containerd.Empty{}, nil
	}
	return containerd.Empty{}, p.streams.Resize(r.Width, r.Height)
}

func (s *service) callClose(_ context.Context, r *containerd.CloseRequest) (containerd.Message, error) {
	_, p, err := s.find(&r.ProcessRequest)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Stdin && !p.want.Terminal && p.streams != nil {
		p.streams.EndIn()
	}
	return containerd.Empty{}, nil
}

func (s *service) callCheckpoint(ctx context.Context, r *containerd.CheckpointRequest) (containerd.Message, error) {
	t, err := s.made(r.ID)
	if err != nil {
		return nil, err
	}
	return containerd.Empty{}, t.checkpoint(context.WithoutCancel(ctx), r)
}

func (s *service) callConnect(_ context.Context, r *containerd.ProcessRequest) (containerd.Message, error) {
	answer := &containerd.ConnectResponse{ShimPid: os.Getpid()}
	if t, err := s.task(r.ID); err == nil {
		_, exit := t.init.state()
		answer.TaskPid = exit.Pid
	}
	return answer, nil
}

func (s *service) callShutdown(context.Context, *containerd.ProcessRequest) (containerd.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tasks) == 0 && len(s.creating) == 0 && s.pod == nil {
		s.end.Do(func() { close(s.over) })
	}
	return containerd.Empty{}, nil
}
