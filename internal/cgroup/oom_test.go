package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hull/hulltest"

	"github.com/opencontainers/runtime-spec/specs-go"
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

// systemd removes a scope's cgroup before who watches it has read its count. The count above tells of it then, and of nothing that has
// happened to a neighbour.
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
