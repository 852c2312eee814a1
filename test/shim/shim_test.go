// Package shim_test plays containerd to containerd-shim-hull-v1, with containerd's own client and messages.
//
// It is a module of its own, so that what these bring along is no dependency of hull's.
package shim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	status "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"hull/hulltest"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

func TestLife(t *testing.T) {
	d := newDaemon(t)
	s := d.start("life", hulltest.Bundle(t, args("echo", "hello")))
	ctx := t.Context()
	out := d.fifo("out")
	said := d.reader(out)
	pid := s.create(&task.CreateTaskRequest{Stdout: out})
	st, err := s.State(ctx, &task.StateRequest{ID: s.id})
	if err != nil || st.Status != status.Status_CREATED || st.Pid != pid || st.Bundle != s.bundle || st.Stdout != out {
		t.Fatalf("state %v, %v", st, err)
	}
	if got := s.run(""); got != pid {
		t.Errorf("start's pid %d, create's %d", got, pid)
	}
	if e := event[*events.TaskStart](d); e.Pid != pid {
		t.Errorf("event %v", e)
	}
	w, err := s.Wait(ctx, &task.WaitRequest{ID: s.id})
	if err != nil || w.ExitStatus != 0 || w.ExitedAt.AsTime().IsZero() {
		t.Fatalf("wait %v, %v", w, err)
	}
	if got := <-said; got != "hello\n" {
		t.Errorf("said %q", got)
	}
	if e := event[*events.TaskExit](d); e.ContainerID != s.id || e.ID != s.id || e.Pid != pid || e.ExitStatus != 0 {
		t.Errorf("event %v", e)
	}
	del, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id})
	if err != nil || del.Pid != pid || del.ExitStatus != 0 {
		t.Fatalf("delete %v, %v", del, err)
	}
	if e := event[*events.TaskDelete](d); e.ContainerID != s.id || e.Pid != pid {
		t.Errorf("event %v", e)
	}
	if _, err := s.State(ctx, &task.StateRequest{ID: s.id}); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("state of a deleted container: %v", err)
	}
}

func TestExec(t *testing.T) {
	d := newDaemon(t)
	s := d.start("exec", hulltest.Bundle(t, args("sleep", "100")))
	ctx := t.Context()
	s.create(&task.CreateTaskRequest{})
	s.run("")
	event[*events.TaskStart](d)
	in, out := d.fifo("in"), d.fifo("out")
	said := d.reader(out)
	spec, err := json.Marshal(&specs.Process{Args: hulltest.Args("cat"), Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	r := &task.ExecProcessRequest{ID: s.id, ExecID: "e", Stdin: in, Stdout: out, Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec}}
	if _, err := s.Exec(ctx, r); err != nil {
		t.Fatal(err)
	}
	if e := event[*events.TaskExecAdded](d); e.ExecID != "e" {
		t.Errorf("event %v", e)
	}
	if _, err := s.Exec(ctx, r); grpcstatus.Code(err) != codes.AlreadyExists {
		t.Errorf("the same exec again: %v", err)
	}
	pid := s.run("e")
	if e := event[*events.TaskExecStarted](d); e.Pid != pid || e.ExecID != "e" {
		t.Errorf("event %v", e)
	}
	pids, err := s.Pids(ctx, &task.PidsRequest{ID: s.id})
	if err != nil || len(pids.Processes) != 2 {
		t.Errorf("pids %v, %v", pids, err)
	}
	for _, p := range pids.GetProcesses() {
		if info := new(options.ProcessDetails); p.Pid == pid && (p.Info == nil || proto.Unmarshal(p.Info.Value, info) != nil || info.ExecID != "e") {
			t.Errorf("process %v", p)
		}
	}
	for _, line := range []string{"a\n", "b\n"} {
		if err := os.WriteFile(in, []byte(line), 0); err != nil { // two writers, one after the other: no end of file between
			t.Fatal(err)
		}
	}
	if _, err := s.CloseIO(ctx, &task.CloseIORequest{ID: s.id, ExecID: "e", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	w, err := s.Wait(ctx, &task.WaitRequest{ID: s.id, ExecID: "e"})
	if err != nil || w.ExitStatus != 0 {
		t.Errorf("wait %v, %v", w, err)
	}
	if got := <-said; got != "a\nb\n" {
		t.Errorf("said %q", got)
	}
	if e := event[*events.TaskExit](d); e.ID != "e" || e.Pid != pid {
		t.Errorf("event %v", e)
	}
	if del, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id, ExecID: "e"}); err != nil || del.Pid != pid {
		t.Errorf("delete %v, %v", del, err)
	}
	if _, err := s.State(ctx, &task.StateRequest{ID: s.id, ExecID: "e"}); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("state of a deleted exec: %v", err)
	}
}

// TestLateReader has nobody read yet when a process is to be started that ends at once.
func TestLateReader(t *testing.T) {
	d := newDaemon(t)
	s := d.start("late", hulltest.Bundle(t, args("echo", "hello")))
	out := d.fifo("out")
	said := make(chan string, 1)
	time.AfterFunc(200*time.Millisecond, func() { said <- <-d.reader(out) })
	s.create(&task.CreateTaskRequest{Stdout: out})
	s.run("")
	if got := <-said; got != "hello\n" {
		t.Errorf("said %q", got)
	}
}

// TestStdinToItsEnd has standard input closed while most of it is still on its way: it is read to its end.
func TestStdinToItsEnd(t *testing.T) {
	d := newDaemon(t)
	s := d.start("stdin", hulltest.Bundle(t, args("cat")))
	in, out := d.fifo("in"), d.fifo("out")
	idle, err := os.OpenFile(out, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.create(&task.CreateTaskRequest{Stdin: in, Stdout: out})
	s.run("")
	event[*events.TaskStart](d)
	const size = 150 << 10 // more than two of the pipes between here and the program take: nobody reads its output yet
	if err := os.WriteFile(in, bytes.Repeat([]byte("x"), size), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CloseIO(t.Context(), &task.CloseIORequest{ID: s.id, Stdin: true}); err != nil {
		t.Fatal(err)
	}
	said := d.reader(out)
	idle.Close()
	if got := <-said; len(got) != size {
		t.Errorf("%d bytes of %d came through", len(got), size)
	}
	event[*events.TaskExit](d)
}

// TestNeverStarted waits for what never runs: an exec whose start fails, and a container that is deleted before it is restored.
// containerd doesn't tell a shim that it has stopped waiting.
func TestNeverStarted(t *testing.T) {
	d := newDaemon(t)
	s := d.start("never", hulltest.Bundle(t, args("sleep", "100")))
	ctx := withTimeout(t, 20*time.Second)
	s.create(&task.CreateTaskRequest{})
	s.run("")
	spec, err := json.Marshal(&specs.Process{Args: []string{"nosuchprogram"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Exec(ctx, &task.ExecProcessRequest{ID: s.id, ExecID: "e", Spec: &anypb.Any{Value: spec}}); err != nil {
		t.Fatal(err)
	}
	// What has never been asked to run was not killed either.
	if _, err := s.Exec(ctx, &task.ExecProcessRequest{ID: s.id, ExecID: "created", Spec: &anypb.Any{Value: spec}}); err != nil {
		t.Fatal(err)
	}
	if del, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id, ExecID: "created"}); err != nil || del.ExitStatus != 0 {
		t.Errorf("delete of an exec that was not started: %v, %v", del, err)
	}
	never := func(s *shim, execID string) {
		t.Helper()
		waited := make(chan error, 1)
		go func() {
			_, err := s.Wait(ctx, &task.WaitRequest{ID: s.id, ExecID: execID})
			waited <- err
		}()
		time.Sleep(50 * time.Millisecond)
		if execID != "" {
			if _, err := s.Start(ctx, &task.StartRequest{ID: s.id, ExecID: execID}); err == nil {
				t.Error("the start of a program that isn't there succeeds")
			}
		}
		if _, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id, ExecID: execID}); err != nil {
			t.Error(err)
		}
		if err := <-waited; err != nil {
			t.Errorf("wait: %v", err)
		}
	}
	never(s, "e")
	saved := d.start("saved", hulltest.Bundle(t, args("sleep", "100")))
	if _, err := saved.Create(ctx, &task.CreateTaskRequest{ID: saved.id, Bundle: saved.bundle, Options: saved.options(), Checkpoint: "/nowhere"}); err != nil {
		t.Fatal(err)
	}
	never(saved, "")
}

// TestHangingStart kills a container whose start would take long, and asks about it before.
func TestHangingStart(t *testing.T) {
	d := newDaemon(t)
	s := d.start("hangs", hulltest.Bundle(t, args("sleep", "100"), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: s.Process.Args[0], Args: hulltest.Args("sleep", "100")}}}
	}))
	ctx := withTimeout(t, 10*time.Second)
	s.create(&task.CreateTaskRequest{})
	started := make(chan error, 1)
	go func() {
		_, err := s.Start(ctx, &task.StartRequest{ID: s.id})
		started <- err
	}()
	time.Sleep(300 * time.Millisecond)
	if st, err := s.State(ctx, &task.StateRequest{ID: s.id}); err != nil || st.Status != status.Status_CREATED {
		t.Fatalf("state %v, %v", st, err)
	}
	if _, err := s.Kill(ctx, &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err == nil || ctx.Err() != nil {
		t.Errorf("start: %v", err)
	}
	if w, err := s.Wait(ctx, &task.WaitRequest{ID: s.id}); err != nil || w.ExitStatus != 128+uint32(unix.SIGKILL) {
		t.Errorf("wait %v, %v", w, err)
	}
}

// TestControl pauses, resumes, updates, counts and kills.
func TestControl(t *testing.T) {
	d := newDaemon(t)
	s := d.start("control", hulltest.Bundle(t, args("sleep", "100")))
	ctx := t.Context()
	s.create(&task.CreateTaskRequest{})
	if _, err := s.Wait(withTimeout(t, 50*time.Millisecond), &task.WaitRequest{ID: s.id}); err == nil {
		t.Error("wait returned before the end")
	}
	s.run("")
	event[*events.TaskStart](d)
	if _, err := s.Start(ctx, &task.StartRequest{ID: s.id}); grpcstatus.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second start: %v", err)
	}
	if _, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id}); grpcstatus.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete of what runs: %v", err)
	}
	if _, err := s.Pause(ctx, &task.PauseRequest{ID: s.id}); err != nil {
		t.Fatal(err)
	}
	event[*events.TaskPaused](d)
	if st, err := s.State(ctx, &task.StateRequest{ID: s.id}); err != nil || st.Status != status.Status_PAUSED {
		t.Errorf("state %v, %v", st, err)
	}
	if _, err := s.Resume(ctx, &task.ResumeRequest{ID: s.id}); err != nil {
		t.Fatal(err)
	}
	event[*events.TaskResumed](d)
	limit := int64(64)
	resources, err := json.Marshal(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(ctx, &task.UpdateTaskRequest{ID: s.id, Resources: &anypb.Any{Value: resources}}); err != nil {
		t.Fatal(err)
	}
	s.checkStats(uint64(limit))
	if _, err := s.Kill(ctx, &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if w, err := s.Wait(ctx, &task.WaitRequest{ID: s.id}); err != nil || w.ExitStatus != 128+9 {
		t.Errorf("wait %v, %v", w, err)
	}
	event[*events.TaskExit](d)
	if _, err := s.Kill(ctx, &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGTERM)}); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("kill after the end: %v", err)
	}
	if c, err := s.Connect(ctx, &task.ConnectRequest{ID: s.id}); err != nil || c.ShimPid == 0 {
		t.Errorf("connect %v, %v", c, err)
	}
}

func TestTerminal(t *testing.T) {
	d := newDaemon(t)
	s := d.start("terminal", hulltest.Bundle(t, args("do", "tty", ",", "cat"), func(s *specs.Spec) { s.Process.Terminal = true }))
	ctx := t.Context()
	in, out := d.fifo("in"), d.fifo("out")
	said := d.reader(out)
	s.create(&task.CreateTaskRequest{Terminal: true, Stdin: in, Stdout: out})
	if _, err := s.ResizePty(ctx, &task.ResizePtyRequest{ID: s.id, Width: 123, Height: 45}); err != nil {
		t.Fatal(err)
	}
	s.run("")
	if err := os.WriteFile(in, []byte("typed\n\x04"), 0); err != nil {
		t.Fatal(err)
	}
	if w, err := s.Wait(ctx, &task.WaitRequest{ID: s.id}); err != nil || w.ExitStatus != 0 {
		t.Errorf("wait %v, %v", w, err)
	}
	got := <-said
	if strings.Count(got, "typed\r\n") != 2 || !strings.Contains(got, "123") || !strings.Contains(got, "45") {
		t.Errorf("the terminal showed %q", got)
	}
}

// TestTerminalNobodyReads asks about a process that has ended while its terminal's last output waits for a reader.
func TestTerminalNobodyReads(t *testing.T) {
	d := newDaemon(t)
	bundle := hulltest.Bundle(t, args("cat", "/much"), func(s *specs.Spec) { s.Process.Terminal = true })
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", "much"), bytes.Repeat([]byte("much\n"), 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	s := d.start("unread", bundle)
	out := d.fifo("out")
	idle, err := os.OpenFile(out, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.create(&task.CreateTaskRequest{Terminal: true, Stdout: out})
	s.run("")
	time.Sleep(200 * time.Millisecond)
	if _, err := s.Kill(t.Context(), &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if st, err := s.State(withTimeout(t, 2*time.Second), &task.StateRequest{ID: s.id}); err != nil || st.Status != status.Status_STOPPED {
		t.Errorf("state %v, %v", st, err)
	}
	said := d.reader(out)
	idle.Close()
	<-said
}

// TestOOM has a container run out of memory: that is told before its end.
func TestOOM(t *testing.T) {
	d := newDaemon(t)
	s := d.start("oom", hulltest.Bundle(t, args("hold", "200000000"), func(s *specs.Spec) {
		limit := int64(20 << 20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	}))
	s.create(&task.CreateTaskRequest{})
	s.run("")
	event[*events.TaskStart](d)
	event[*events.TaskOOM](d)
	for {
		m := <-d.events
		if e, ok := m.(*events.TaskExit); ok {
			if e.ExitStatus != 128+9 {
				t.Errorf("event %v", e)
			}
			return
		}
		if _, again := m.(*events.TaskOOM); !again {
			t.Fatalf("event %T", m)
		}
	}
}

// TestErrors has what engines look for in the words, and nothing left.
func TestErrors(t *testing.T) {
	d := newDaemon(t)
	s := d.start("errors", hulltest.Bundle(t, func(s *specs.Spec) { s.Process.Args = []string{"nosuchprogram"} }))
	ctx := t.Context()
	r := &task.CreateTaskRequest{ID: s.id, Bundle: s.bundle, Options: s.options(), Stdout: d.fifo("out")}
	reader, err := os.OpenFile(r.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	_, err = s.Create(ctx, r)
	if err == nil || !strings.Contains(err.Error(), "OCI runtime create failed: ") || !strings.Contains(err.Error(), `exec: "nosuchprogram": executable file not found in $PATH`) {
		t.Errorf("%v", err)
	}
	r.Stdout = filepath.Join(d.dir, "events")
	if _, err = s.Create(ctx, r); err == nil || !strings.Contains(err.Error(), r.Stdout) {
		t.Errorf("a socket as FIFO: %v", err)
	}
	r.Options = &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte("\x1a\x16isolation = \"fortress\"")}
	if _, err = s.Create(ctx, r); grpcstatus.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `want "native" or "sandbox"`) {
		t.Errorf("an isolation that doesn't exist: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(d.dir, "root", "ns")); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
	if _, err := s.Start(ctx, &task.StartRequest{ID: "another"}); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("start of what isn't there: %v", err)
	}
}

// TestGroup has two containers of a pod in one shim.
func TestGroup(t *testing.T) {
	d := newDaemon(t)
	pod := func(s *specs.Spec) {
		s.Process.Args = hulltest.Args("sleep", "100")
		s.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": "pod1"}
	}
	a := d.start("a", hulltest.Bundle(t, pod))
	b := d.start("b", hulltest.Bundle(t, pod))
	if a.socket != b.socket {
		t.Fatalf("shims of one pod at %s and %s", a.socket, b.socket)
	}
	a.create(&task.CreateTaskRequest{})
	b.create(&task.CreateTaskRequest{})
	for _, s := range []*shim{a, b} {
		if _, err := s.Shutdown(t.Context(), &task.ShutdownRequest{ID: s.id}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.State(t.Context(), &task.StateRequest{ID: "a"}); err != nil {
		t.Errorf("a shim with containers was shut down: %v", err)
	}
	if _, err := a.Kill(t.Context(), &task.KillRequest{ID: "a", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	event[*events.TaskExit](d)
	if _, err := a.Delete(t.Context(), &task.DeleteRequest{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	a.conn.Close()
	if st, err := b.State(t.Context(), &task.StateRequest{ID: "b"}); err != nil || st.Status != status.Status_CREATED {
		t.Errorf("the other container: %v, %v", st, err)
	}
}

// TestRestart has containerd away while a container writes and ends: nothing of it is lost.
func TestRestart(t *testing.T) {
	d := newDaemon(t)
	s := d.start("restart", hulltest.Bundle(t, args("do", "cat", ",", "echo", "last", "words", ",", "exit", "5")))
	in, out := d.fifo("in"), d.fifo("out")
	first, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.create(&task.CreateTaskRequest{Stdin: in, Stdout: out})
	s.run("")
	event[*events.TaskStart](d)
	d.server.Close()
	s.conn.Close()
	first.Close()
	if err := os.Remove(d.ttrpc); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	again := d.connect(s.id, s.bundle, "unix://"+s.socket)
	if _, err := again.CloseIO(t.Context(), &task.CloseIORequest{ID: s.id, Stdin: true}); err != nil {
		t.Fatal(err)
	}
	said := d.reader(out)
	if w, err := again.Wait(t.Context(), &task.WaitRequest{ID: s.id}); err != nil || w.ExitStatus != 5 {
		t.Errorf("wait %v, %v", w, err)
	}
	if got := <-said; got != "last words\n" {
		t.Errorf("said %q", got)
	}
	d.serveEvents()
	if e := event[*events.TaskExit](d); e.ExitStatus != 5 {
		t.Errorf("event %v", e)
	}
	again.end() // as long as somebody takes its last events
}

// TestOldStart has the answers that containerd 1.6 and 1.7 read, and the service of version 2.
func TestOldStart(t *testing.T) {
	d := newDaemon(t)
	bundle := hulltest.Bundle(t, args("true"))
	address := string(d.command("old", bundle, nil, "start"))
	t.Setenv("MAX_SHIM_VERSION", "2")
	var answer struct {
		Version           int
		Address, Protocol string
	}
	if err := json.Unmarshal(d.command("old", bundle, nil, "start"), &answer); err != nil || answer.Version != 2 || answer.Address != address || answer.Protocol != "ttrpc" {
		t.Errorf("answer %+v, %v; the first was %s", answer, err, address)
	}
	if kept, err := os.ReadFile(filepath.Join(bundle, "address")); err != nil || string(kept) != address {
		t.Errorf("address file: %q, %v", kept, err)
	}
	s := d.connect("old", bundle, address)
	old := taskv2.NewTTRPCTaskClient(s.conn)
	if _, err := old.Create(t.Context(), &taskv2.CreateTaskRequest{ID: "old", Bundle: bundle, Options: s.options()}); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Start(t.Context(), &taskv2.StartRequest{ID: "old"}); err != nil {
		t.Fatal(err)
	}
	if w, err := old.Wait(t.Context(), &taskv2.WaitRequest{ID: "old"}); err != nil || w.ExitStatus != 0 {
		t.Errorf("wait %v, %v", w, err)
	}
}

// TestKilledShim kills the shim: its command delete takes the container away.
func TestKilledShim(t *testing.T) {
	d := newDaemon(t)
	s := d.start("killed", hulltest.Bundle(t, args("sleep", "100")))
	pid := s.create(&task.CreateTaskRequest{})
	s.run("")
	c, err := s.Connect(t.Context(), &task.ConnectRequest{ID: s.id})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(int(c.ShimPid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var r task.DeleteResponse
	if err := proto.Unmarshal(d.command("killed", s.bundle, nil, "-bundle", s.bundle, "delete"), &r); err != nil {
		t.Fatal(err)
	}
	if r.Pid != pid || r.ExitStatus != 128+9 {
		t.Errorf("answer %v", &r)
	}
	if entries, _ := os.ReadDir(filepath.Join(d.dir, "root", "ns")); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
	// The next shim of that name takes the socket over.
	again := d.start("killed", s.bundle)
	if again.socket != s.socket {
		t.Errorf("another socket: %s and %s", again.socket, s.socket)
	}
}

// TestRootfs has the shim mount what snapshots consist of, with more layers than a page of options has room for.
func TestRootfs(t *testing.T) {
	d := newDaemon(t)
	bundle := hulltest.Bundle(t, args("cat", "/layer0", "/layer59"))
	snapshots := filepath.Join(bundle, "snapshots-with-a-long-name-to-fill-the-page", strings.Repeat("x", 40))
	if err := os.MkdirAll(snapshots, 0o755); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(snapshots, "base")
	if err := os.Rename(filepath.Join(bundle, "rootfs"), base); err != nil {
		t.Fatal(err)
	}
	layers := []string{base}
	for i := range 60 {
		dir := filepath.Join(snapshots, "layer"+strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "layer"+strconv.Itoa(i)), []byte(strconv.Itoa(i)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, dir)
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(bundle, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := d.start("rootfs", bundle)
	out := d.fifo("out")
	said := d.reader(out)
	s.create(&task.CreateTaskRequest{Stdout: out, Rootfs: []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=" + filepath.Join(bundle, "work"), "upperdir=" + filepath.Join(bundle, "upper"), "lowerdir=" + strings.Join(layers, ":"),
	}}}})
	s.run("")
	if got := <-said; got != "0\n59\n" {
		t.Errorf("said %q", got)
	}
	s.end()
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), bundle) {
		t.Errorf("a mount is left: %v", err)
	}
}

// TestInfo reads what the shim tells of the runtime.
func TestInfo(t *testing.T) {
	cmd := exec.Command(hulltest.ShimBinary(t), "-info")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(out, &info); err != nil || info.Name != "io.containerd.hull.v1" || info.Version.Version == "" {
		t.Errorf("%v, %v", &info, err)
	}
	var features struct{ OCIVersionMax string }
	if err := json.Unmarshal(info.Features.Value, &features); err != nil || features.OCIVersionMax == "" {
		t.Errorf("features %s, %v", info.Features, err)
	}
}

// TestCheckpoint saves a container in a sandbox, which needs no CRIU, and has another shim go on with it.
func TestCheckpoint(t *testing.T) {
	d := newDaemon(t)
	hulltest.Require(t, hulltest.MountSetattr)
	hulltest.SandboxBinary(t) // beside the shim
	bundle := hulltest.Bundle(t, args("sleep", "100"), func(s *specs.Spec) {
		s.Annotations = map[string]string{"run.hull.isolation": "sandbox"}
	})
	s := d.start("saved", bundle)
	s.create(&task.CreateTaskRequest{})
	s.run("")
	event[*events.TaskStart](d)
	image := filepath.Join(d.dir, "image")
	exit, err := proto.Marshal(&options.CheckpointOptions{Exit: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Checkpoint(t.Context(), &task.CheckpointTaskRequest{ID: s.id}); grpcstatus.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "path: missing") {
		t.Errorf("a checkpoint without a path: %v", err)
	}
	r := &task.CheckpointTaskRequest{ID: s.id, Path: image, Options: &anypb.Any{TypeUrl: "containerd.runc.v1.CheckpointOptions", Value: exit}}
	if _, err := s.Checkpoint(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), &task.WaitRequest{ID: s.id}); err != nil {
		t.Fatal(err)
	}
	s.end()
	for len(d.events) > 0 {
		<-d.events
	}
	again := d.start("restored", bundle)
	out := d.fifo("out")
	reader, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	if pid := again.create(&task.CreateTaskRequest{Checkpoint: image, Stdout: out}); pid != 0 {
		t.Errorf("pid %d before the restore", pid)
	}
	if _, err := again.Pause(t.Context(), &task.PauseRequest{ID: again.id}); grpcstatus.Code(err) != codes.FailedPrecondition {
		t.Errorf("pause before the restore: %v", err)
	}
	for range 2 {
		if _, err := again.Start(t.Context(), &task.StartRequest{ID: again.id}); err == nil || !strings.Contains(err.Error(), image) {
			t.Errorf("a start without the image: %v", err)
		}
	}
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	if pid := again.run(""); pid == 0 {
		t.Error("no pid")
	}
	event[*events.TaskStart](d)
	if st, err := again.State(t.Context(), &task.StateRequest{ID: again.id}); err != nil || st.Status != status.Status_RUNNING {
		t.Errorf("state %v, %v", st, err)
	}
}
