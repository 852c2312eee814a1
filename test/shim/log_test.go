package shim_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"hull/hulltest"
)

// TestLogDriver has programs of the host's, and files, take what a container and a command in it write.
func TestLogDriver(t *testing.T) {
	d := newDaemon(t)
	logger, taken := filepath.Join(d.dir, "logger"), filepath.Join(d.dir, "taken")
	script := "#!/bin/sh\nexec 5>&-\n{ echo \"$CONTAINER_NAMESPACE $CONTAINER_ID $1 $2\"; cat <&3; cat <&4; } >>" + taken + "\n"
	if err := os.WriteFile(logger, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	driver := "binary://" + logger + "?key=value"
	s := d.start("logs", hulltest.Bundle(t, args("sleep", "100")))
	ctx := t.Context()
	s.create(&task.CreateTaskRequest{Stdout: driver, Stderr: driver})
	s.run("")
	file := filepath.Join(d.dir, "file")
	for _, stdout := range []string{driver, "file://" + file} {
		spec, err := json.Marshal(&specs.Process{Args: hulltest.Args("echo", "hello"), Cwd: "/"})
		if err != nil {
			t.Fatal(err)
		}
		r := &task.ExecProcessRequest{ID: s.id, ExecID: "e", Stdout: stdout, Stderr: stdout,
			Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec}}
		if _, err := s.Exec(ctx, r); err != nil {
			t.Fatal(err)
		}
		s.run("e")
		if w, err := s.Wait(ctx, &task.WaitRequest{ID: s.id, ExecID: "e"}); err != nil || w.ExitStatus != 0 {
			t.Errorf("wait %v, %v", w, err)
		}
		if _, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id, ExecID: "e"}); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Kill(ctx, &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	if _, err := s.Wait(ctx, &task.WaitRequest{ID: s.id}); err != nil {
		t.Error(err)
	}
	if _, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id}); err != nil {
		t.Error(err)
	}
	// The container's own line is in the file first or last.
	const header = "ns logs key value\n"
	if got, err := os.ReadFile(taken); err != nil || strings.Count(string(got), header) != 2 || strings.Count(string(got), "hello\n") != 1 {
		t.Errorf("the log has %q, %v, want %q twice and a hello", got, err, header)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "hello\n" {
		t.Errorf("the file has %q, %v", got, err)
	}
}

// TestPanicIsLogged has the shim end as a panic ends it, with Go's words for that: containerd's log gets them.
func TestPanicIsLogged(t *testing.T) {
	d := newDaemon(t)
	d.logged = make(chan string, 10000)
	s := sleeping(d)
	c, err := s.Connect(t.Context(), &task.ConnectRequest{ID: s.id})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(int(c.ShimPid), unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	var said []string
	for late := time.After(20 * time.Second); !strings.Contains(strings.Join(said, "\n"), "goroutine "); {
		select {
		case line := <-d.logged:
			said = append(said, line)
		case <-late:
			t.Fatalf("no goroutines in what is logged: %q", said)
		}
	}
	if all := strings.Join(said, "\n"); !strings.Contains(all, "SIGABRT") {
		t.Errorf("logged: %q", all)
	}
	s.awaitEnd(int(c.ShimPid)) // as long as it writes its last words it has its socket, which the next would take for one that answers
	d.command(s.id, s.bundle, nil, "-bundle", s.bundle, "delete")
	d.start(s.id, s.bundle) // takes the socket over, and removes it
}

// TestStartsNothing asks for states, processes and figures, and sends signals: no process is started for that.
func TestStartsNothing(t *testing.T) {
	d := newDaemon(t)
	s := sleeping(d)
	ctx := t.Context()
	c, err := s.Connect(ctx, &task.ConnectRequest{ID: s.id})
	if err != nil {
		t.Fatal(err)
	}
	before := reapedFaults(t, int(c.ShimPid))
	for range 20 {
		_, state := s.State(ctx, &task.StateRequest{ID: s.id})
		_, pids := s.Pids(ctx, &task.PidsRequest{ID: s.id})
		_, stats := s.Stats(ctx, &task.StatsRequest{ID: s.id})
		_, kill := s.Kill(ctx, &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGURG)})
		for what, err := range map[string]error{"state": state, "pids": pids, "stats": stats, "kill": kill} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if after := reapedFaults(t, int(c.ShimPid)); after != before {
		t.Errorf("children of the shim had %d page faults before, %d after", before, after)
	}
	if _, err := s.Kill(ctx, &task.KillRequest{ID: s.id, Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	if _, err := s.Wait(ctx, &task.WaitRequest{ID: s.id}); err != nil {
		t.Error(err)
	}
	if after := reapedFaults(t, int(c.ShimPid)); after == before {
		t.Error("the container's end isn't counted, so nothing is")
	}
}

// reapedFaults is how many page faults those children of a process had that it has waited for.
func reapedFaults(t testing.TB, pid int) (n int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ") // after the name: state ppid pgrp session tty_nr tpgid flags minflt cminflt
	if n, err = strconv.Atoi(strings.Fields(rest)[8]); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestShimCgroup has the shim in a cgroup that the options of runc's shim name.
func TestShimCgroup(t *testing.T) {
	d := newDaemon(t)
	const mount = "/sys/fs/cgroup"
	name := "hull-shim-" + strconv.Itoa(os.Getpid())
	dir := filepath.Join(mount, name)
	if _, err := os.Stat(mount + "/cgroup.procs"); err != nil {
		dir = filepath.Join(mount, "pids", name) // v1: of one hierarchy, no matter which
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the shim's end
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	b, err := proto.Marshal(&options.Options{ShimCgroup: "/" + name})
	if err != nil {
		t.Fatal(err)
	}
	s := d.startOptions("placed", hulltest.Bundle(t, args("sleep", "100")), &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: b})
	s.create(&task.CreateTaskRequest{})
	c, err := s.Connect(t.Context(), &task.ConnectRequest{ID: s.id})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err != nil || strings.TrimSpace(string(got)) != strconv.Itoa(int(c.ShimPid)) {
		t.Errorf("the cgroup has the processes %q, %v, want %d", got, err, c.ShimPid)
	}
}
