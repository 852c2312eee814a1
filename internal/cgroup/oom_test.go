package cgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hull/hulltest"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestOOM(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	hulltest.Require(t, controller("memory"))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	g := newGroup(t, newConfig(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(20 << 20)), Swap: ptr(int64(20 << 20))},
	}))
	if err := g.Limit(ctx); err != nil {
		t.Fatal(err)
	}
	ch, err := g.OOM(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := startIn(t, g, "sh", "-c", "sleep 0.2; exec tail /dev/zero")
	if _, ok := <-ch; !ok {
		t.Fatal("no event")
	}
	c.Wait()
	if n, err := g.OOMKilled(); err != nil || n == 0 {
		t.Errorf("OOMKilled = %d, %v", n, err)
	}
	if err := g.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	for range ch { // closed when the cgroup is gone
	}
	if ctx.Err() != nil {
		t.Error("the channel stays open after the cgroup's end")
	}
}

// systemd removes a scope's cgroup before who watches it has read its count. The count above tells of it then, and of nothing
// that has happened to a neighbour.
func TestOOMOfRemoved(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CgroupV2, controller("memory"))
	const out = "exec tail /dev/zero"
	for _, tt := range []struct {
		name           string
		own, neighbour string
		want           bool
	}{
		{"killed", out, "", true},
		{"ends", "exit 0", "", false},
		{"a neighbour is killed", "exit 0", out, false},
		{"both are killed", out, out, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			above := newGroup(t, newConfig(t, nil)).Path(unified)
			if err := os.WriteFile(above+"/cgroup.subtree_control", []byte("+memory"), 0o644); err != nil {
				t.Fatal(err)
			}
			own, neighbour := limited(t, above+"/own"), limited(t, above+"/neighbour")
			events, next, err := watchV2(own)
			if err != nil {
				t.Fatal(err)
			}
			defer events.Close()
			if tt.neighbour != "" {
				runBelow(t, neighbour, tt.neighbour)
			}
			runBelow(t, own, tt.own)
			for start := time.Now(); os.Remove(own) != nil; time.Sleep(time.Millisecond) {
				if time.Since(start) > 20*time.Second {
					t.Fatal("the cgroup stays")
				}
			}
			got := false
			for err == nil {
				var oom bool
				oom, err = next()
				got = got || oom
			}
			if got != tt.want || !errors.Is(err, errOver) {
				t.Errorf("told of OOM: %t, want %t; %v", got, tt.want, err)
			}
		})
	}
}

// An OOM kill between the reading of the two counts is told once it is known that the cgroup is gone. That is where one comes in: the
// kernel tells that there is no memory left, and kills then.
func TestOOMAmidReading(t *testing.T) {
	above := t.TempDir()
	own := filepath.Join(above, "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	count := func(n string) {
		if err := os.WriteFile(filepath.Join(above, "memory.events"), []byte("oom_kill "+n+"\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
	count("0")
	file := filepath.Join(own, "memory.events")
	if err := unix.Mkfifo(file, 0o644); err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		f, err := os.OpenFile(file, os.O_WRONLY, 0) // which somebody reads now
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		count("1")
		if _, err := f.WriteString("oom_kill 0\n"); err != nil {
			t.Error(err)
		}
	}()
	events, kernel, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	defer kernel.Close()
	w := &memoryWatch{events: events, path: own, descriptor: 7}
	if more, err := w.read(); more || err != nil {
		t.Fatalf("told of OOM: %t, %v", more, err)
	}
	<-written
	if err := os.RemoveAll(own); err != nil {
		t.Fatal(err)
	}
	event := binary.NativeEndian.AppendUint32(nil, w.descriptor)
	event = binary.NativeEndian.AppendUint32(event, unix.IN_MODIFY)
	if _, err := kernel.Write(append(event, make([]byte, 8)...)); err != nil {
		t.Fatal(err)
	}
	if oom, err := w.next(); !oom || err != nil {
		t.Errorf("told of OOM: %t, %v", oom, err)
	}
}

// limited makes a cgroup with a limit of memory.
func limited(t *testing.T, path string) string {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) }) // before the one above, whose Destroy tells what is left
	for _, file := range []string{"memory.max", "memory.swap.max"} {
		if err := os.WriteFile(filepath.Join(path, file), []byte("20000000"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return path
}

// runBelow runs a script in a cgroup to its end, whatever that is.
func runBelow(t *testing.T, cgroup, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", "echo $$ >$0/cgroup.procs && "+script, cgroup)
	if out, err := cmd.CombinedOutput(); ctx.Err() != nil || cmd.ProcessState == nil {
		t.Fatalf("%v, %s", err, out)
	}
}
