package shim_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/events"
	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	forward "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"hull/hulltest"
)

// daemon plays containerd.
type daemon struct {
	t      testing.TB
	binary string
	dir    string // for sockets, FIFOs and states; paths of sockets are short
	events chan proto.Message
	ttrpc  string        // address of the service that takes events
	server *ttrpc.Server // of that service
	logged chan string   // lines of shims' logs, for who wants them
}

func newDaemon(t testing.TB) *daemon {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &daemon{t: t, binary: hulltest.ShimBinary(t), dir: dir, events: make(chan proto.Message, 100000), ttrpc: filepath.Join(dir, "events")}
	d.serveEvents()
	return d
}

func (d *daemon) serveEvents() {
	d.t.Helper()
	l, err := net.Listen("unix", d.ttrpc)
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		d.t.Fatal(err)
	}
	forward.RegisterTTRPCEventsService(s, d)
	go s.Serve(context.Background(), l)
	d.server = s
	d.t.Cleanup(func() { s.Close() })
}

// Forward takes an event.
func (d *daemon) Forward(_ context.Context, r *forward.ForwardRequest) (*emptypb.Empty, error) {
	e := r.Envelope
	m, err := anypb.UnmarshalNew(&anypb.Any{TypeUrl: "type.googleapis.com/" + e.Event.TypeUrl, Value: e.Event.Value}, proto.UnmarshalOptions{})
	if err != nil {
		d.t.Errorf("event %s: %v", e.Topic, err)
	}
	if e.Namespace != "ns" || e.Timestamp.AsTime().IsZero() {
		d.t.Errorf("envelope %v", e)
	}
	d.events <- m
	return &emptypb.Empty{}, nil
}

// event waits for the next event, which has to be of type E.
func event[E proto.Message](d *daemon) E {
	d.t.Helper()
	select {
	case m := <-d.events:
		e, ok := m.(E)
		if !ok {
			d.t.Fatalf("event %T %v, want %T", m, m, e)
		}
		return e
	case <-time.After(20 * time.Second):
		var e E
		d.t.Fatalf("no event, want %T", e)
		return e
	}
}

// shim is a shim with one container.
type shim struct {
	*daemon
	task.TTRPCTaskService
	id, bundle string
	conn       *ttrpc.Client
	socket     string
}

// start has a shim started for a bundle, in the form of the newest containerd.
func (d *daemon) start(id, bundle string) *shim { return d.startWith(id, bundle, "") }

// startWith is start with options of the runtime, as they are in containerd's configuration.
func (d *daemon) startWith(id, bundle, config string) *shim {
	d.t.Helper()
	if config == "" {
		return d.startOptions(id, bundle, nil)
	}
	return d.startOptions(id, bundle, &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: generic(d.t, config)})
}

func (d *daemon) startOptions(id, bundle string, o *anypb.Any) *shim {
	d.t.Helper()
	d.openLog(bundle)
	sockets := filepath.Join(d.dir, "s")
	b := &bootstrap.BootstrapParams{InstanceID: id, Namespace: "ns", SocketDir: &sockets,
		ContainerdGrpcAddress: filepath.Join(d.dir, "grpc"), ContainerdTtrpcAddress: d.ttrpc}
	if o != nil {
		b.Extensions = []*bootstrap.Extension{{Value: o}}
	}
	params, err := proto.Marshal(b)
	if err != nil {
		d.t.Fatal(err)
	}
	var result bootstrap.BootstrapResult
	if err := proto.Unmarshal(d.command(id, bundle, params, "start"), &result); err != nil {
		d.t.Fatal(err)
	}
	if result.Version != 3 || result.Protocol != "ttrpc" {
		d.t.Fatalf("answer %v", &result)
	}
	return d.connect(id, bundle, result.Address)
}

func generic(t testing.TB, config string) []byte {
	t.Helper()
	b, err := proto.Marshal(&runtimeoptions.Options{ConfigBody: []byte(config)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openLog makes the FIFO that shims log to, and shows what comes out of it.
func (d *daemon) openLog(bundle string) {
	d.t.Helper()
	path := filepath.Join(bundle, "log")
	if err := unix.Mkfifo(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		d.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			d.t.Log(lines.Text())
			if d.logged != nil {
				d.logged <- lines.Text()
			}
		}
	}()
	d.t.Cleanup(func() { f.Close(); <-done })
}

// command calls the shim's program in a bundle.
func (d *daemon) command(id, bundle string, stdin []byte, args ...string) []byte {
	d.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(d.binary, append([]string{"-namespace", "ns", "-id", id, "-address", filepath.Join(d.dir, "grpc")}, args...)...)
	cmd.Dir, cmd.Stdin, cmd.Stderr = bundle, bytes.NewReader(stdin), &stderr
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+d.ttrpc)
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", args, err, &stderr)
	}
	return out
}

func (d *daemon) connect(id, bundle, address string) *shim {
	d.t.Helper()
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		d.t.Fatalf("address %q", address)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		d.t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	s := &shim{daemon: d, TTRPCTaskService: task.NewTTRPCTaskClient(c), id: id, bundle: bundle, conn: c, socket: path}
	d.t.Cleanup(s.end)
	return s
}

// end ends the container and the shim, whatever the test has come to.
func (s *shim) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	defer s.conn.Close()
	if _, err := s.Kill(ctx, &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGKILL)}); err == nil {
		s.Wait(ctx, &task.WaitRequest{ID: s.id})
	}
	s.Delete(ctx, &task.DeleteRequest{ID: s.id})
	if c, err := s.Connect(ctx, &task.ConnectRequest{ID: s.id}); err == nil {
		defer s.awaitEnd(int(c.ShimPid))
	}
	s.Shutdown(ctx, &task.ShutdownRequest{ID: s.id})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := net.Dial("unix", s.socket); err != nil {
			break
		}
		if time.Now().After(deadline) {
			s.t.Error("the shim doesn't end")
			return
		}
	}
	if _, err := os.Lstat(s.socket); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("the socket is left: %v", err)
	}
}

// awaitEnd waits until a shim has ended that was told to: it tells its last events before.
func (s *shim) awaitEnd(pid int) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has
	}
	defer unix.Close(pidfd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000); n != 1 {
		s.t.Errorf("the shim doesn't end: %v", err)
	}
}

// fifo is one end of a FIFO.
func (d *daemon) fifo(name string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := unix.Mkfifo(path, 0o700); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// reader collects what comes out of a FIFO until its end.
func (d *daemon) reader(path string) <-chan string {
	d.t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	ch := make(chan string, 1)
	go func() {
		defer f.Close()
		// The end of file before there is a writer is none.
		for {
			b, err := io.ReadAll(f)
			if len(b) > 0 || err != nil {
				ch <- string(b)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return ch
}

func (s *shim) options() *anypb.Any {
	b, err := proto.Marshal(&options.Options{Root: filepath.Join(s.dir, "root")})
	if err != nil {
		s.t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: b}
}

// create makes the container, and takes its event.
func (s *shim) create(r *task.CreateTaskRequest) uint32 {
	s.t.Helper()
	r.ID, r.Bundle, r.Options = s.id, s.bundle, s.options()
	answer, err := s.Create(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	if e := event[*events.TaskCreate](s.daemon); e.ContainerID != s.id || e.Pid != answer.Pid || e.Bundle != s.bundle {
		s.t.Fatalf("event %v", e)
	}
	return answer.Pid
}

func (s *shim) run(execID string) uint32 {
	s.t.Helper()
	answer, err := s.Start(s.t.Context(), &task.StartRequest{ID: s.id, ExecID: execID})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.Pid
}

func args(verb string, a ...string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = hulltest.Args(verb, a...) }
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// checkStats reads the statistics with the messages of the library that containerd reads them with.
func (s *shim) checkStats(pids uint64) {
	s.t.Helper()
	r, err := s.Stats(s.t.Context(), &task.StatsRequest{ID: s.id})
	if err != nil {
		s.t.Fatal(err)
	}
	var limit, current, memory, cpu uint64
	switch r.Stats.TypeUrl {
	case "io.containerd.cgroups.v1.Metrics":
		var m cgroup1.Metrics
		err = proto.Unmarshal(r.Stats.Value, &m)
		limit, current, memory, cpu = m.Pids.Limit, m.Pids.Current, m.Memory.Usage.Usage, m.CPU.Usage.Total
	case "io.containerd.cgroups.v2.Metrics":
		var m cgroup2.Metrics
		err = proto.Unmarshal(r.Stats.Value, &m)
		limit, current, memory, cpu = m.Pids.Limit, m.Pids.Current, m.Memory.Usage, m.CPU.UsageUsec
	default:
		s.t.Fatalf("statistics of type %s", r.Stats.TypeUrl)
	}
	if err != nil || limit != pids || current == 0 || memory == 0 || cpu == 0 {
		s.t.Errorf("pids %d of %d, memory %d, cpu %d; %v", current, limit, memory, cpu, err)
	}
}
