package shim_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"hull/hulltest"
)

// What went wrong in containerd, each under the number it got there.

// holding is what a shim must not have more and more of.
type holding struct {
	descriptors, threads, resident int // resident in kB
}

// holds looks into the shim's process.
func (s *shim) holds() (h holding) {
	s.t.Helper()
	c, err := s.Connect(s.t.Context(), &task.ConnectRequest{ID: s.id})
	if err != nil {
		s.t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", c.ShimPid)
	open, err := os.ReadDir(proc + "/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	h.descriptors = len(open)
	b, err := os.ReadFile(proc + "/status")
	if err != nil {
		s.t.Fatal(err)
	}
	for name, field := range map[string]*int{"\nThreads:": &h.threads, "\nVmRSS:": &h.resident} {
		_, value, _ := strings.Cut(string(b), name)
		if _, err := fmt.Sscan(value, field); err != nil {
			s.t.Fatal(err)
		}
	}
	return h
}

// expectNoMore fails if the shim holds more than it did before, but for what its runtime keeps for itself.
func (s *shim) expectNoMore(before holding) {
	s.t.Helper()
	var now holding
	for range 200 { // what has ended a moment ago may not be gone yet
		if now = s.holds(); now.descriptors <= before.descriptors {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if now.descriptors > before.descriptors || now.threads > before.threads+10 || now.resident > before.resident+8<<10 {
		s.t.Errorf("the shim has %+v, had %+v", now, before)
	}
}

// exec adds a process.
func (s *shim) exec(r *task.ExecProcessRequest, p *specs.Process) {
	s.t.Helper()
	p.Cwd, p.Env = "/", []string{"PATH=/bin"}
	b, err := json.Marshal(p)
	if err != nil {
		s.t.Fatal(err)
	}
	r.ID, r.Spec = s.id, &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: b}
	if _, err := s.Exec(s.t.Context(), r); err != nil {
		s.t.Fatal(err)
	}
}

// A process with a terminal can't be started, again and again.
func TestCVE_2022_23471(t *testing.T) {
	d := newDaemon(t)
	s := sleeping(d)
	out := d.fifo("out")
	try := func(n int) {
		for i := range n {
			id := fmt.Sprint("e", i)
			s.exec(&task.ExecProcessRequest{ExecID: id, Terminal: true, Stdout: out}, &specs.Process{Args: []string{"nosuchprogram"}, Terminal: true})
			if _, err := s.Start(t.Context(), &task.StartRequest{ID: s.id, ExecID: id}); err == nil {
				t.Fatal("it was started")
			}
			if _, err := s.Delete(t.Context(), &task.DeleteRequest{ID: s.id, ExecID: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	try(5)
	before := s.holds()
	try(50)
	s.expectNoMore(before)
}

// A process says more than anybody reads, to a FIFO and to a terminal.
func TestCVE_2022_31030(t *testing.T) {
	d := newDaemon(t)
	s := sleeping(d)
	before := s.holds()
	for _, terminal := range []bool{false, true} {
		id := fmt.Sprint("terminal-", terminal)
		out := d.fifo(id)
		unread, err := os.OpenFile(out, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unread.Close()
		s.exec(&task.ExecProcessRequest{ExecID: id, Terminal: terminal, Stdout: out}, &specs.Process{Args: hulltest.Args("cat", "/dev/zero"), Terminal: terminal})
		s.run(id)
		time.Sleep(200 * time.Millisecond)
		if now := s.holds(); now.resident > before.resident+8<<10 {
			t.Errorf("terminal %v: the shim has %d kB, had %d", terminal, now.resident, before.resident)
		}
		if _, err := s.Kill(t.Context(), &task.KillRequest{ID: s.id, ExecID: id, Signal: uint32(unix.SIGKILL)}); err != nil {
			t.Fatal(err)
		}
		unread.Close()
	}
}

// Whoever waits for a process goes away, again and again.
func TestCVE_2025_64329(t *testing.T) {
	d := newDaemon(t)
	s := sleeping(d)
	leave := func(n int) {
		for range n {
			conn, err := net.Dial("unix", s.socket)
			if err != nil {
				t.Fatal(err)
			}
			c := ttrpc.NewClient(conn)
			for range 10 {
				go task.NewTTRPCTaskClient(c).Wait(t.Context(), &task.WaitRequest{ID: s.id})
			}
			if _, err := task.NewTTRPCTaskClient(c).Connect(t.Context(), &task.ConnectRequest{ID: s.id}); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	}
	leave(10)
	before := s.holds()
	leave(100)
	s.expectNoMore(before)
}

// A label of an image says that the container logs to a program of the host's.
func TestCVE_2026_53488(t *testing.T) {
	d := newDaemon(t)
	ran := filepath.Join(d.dir, "ran")
	logger := filepath.Join(d.dir, "logger")
	if err := os.WriteFile(logger, []byte("#!/bin/sh\n>"+ran+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := d.start("labelled", hulltest.Bundle(t, args("echo", "hello"), func(s *specs.Spec) {
		s.Annotations = map[string]string{"containerd.io/restart.loguri": "binary://" + logger, "containerd.io/restart.logpath": logger}
	}))
	s.create(&task.CreateTaskRequest{})
	s.run("")
	if _, err := s.Wait(t.Context(), &task.WaitRequest{ID: s.id}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(ran); err == nil {
		t.Error("the host's program ran")
	}
}

// sleeping returns a shim with a container that does nothing.
func sleeping(d *daemon) *shim {
	d.t.Helper()
	s := d.start("sleeping", hulltest.Bundle(d.t, args("sleep", "100")))
	s.create(&task.CreateTaskRequest{})
	s.run("")
	event[*events.TaskStart](d)
	return s
}
