package shim_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"hull/hulltest"
)

// BenchmarkExec measures a command in a container from its announcement to its deletion, and what memory the shim has with one
// container, a second after that. With HULL_TEST_SHIM_BINARY=containerd-shim-runc-v2 it is that one's, with the runc of PATH.
func BenchmarkExec(b *testing.B) {
	d := newDaemon(b)
	s := d.start("bench", hulltest.Bundle(b, args("sleep", "1000")))
	ctx := b.Context()
	s.create(&task.CreateTaskRequest{})
	s.run("")
	spec, err := json.Marshal(&specs.Process{Args: hulltest.Args("true"), Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Exec(ctx, &task.ExecProcessRequest{ID: s.id, ExecID: "e", Spec: &anypb.Any{Value: spec}}); err != nil {
			b.Fatal(err)
		}
		s.run("e")
		if w, err := s.Wait(ctx, &task.WaitRequest{ID: s.id, ExecID: "e"}); err != nil || w.ExitStatus != 0 {
			b.Fatal(w, err)
		}
		if _, err := s.Delete(ctx, &task.DeleteRequest{ID: s.id, ExecID: "e"}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	c, err := s.Connect(ctx, &task.ConnectRequest{ID: s.id})
	if err != nil {
		b.Fatal(err)
	}
	time.Sleep(time.Second)
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.ShimPid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		var kib float64
		for _, key := range []string{"Rss", "Pss"} {
			if n, _ := fmt.Sscanf(line, key+": %f kB", &kib); n == 1 {
				b.ReportMetric(kib, strings.ToLower(key)+"-KiB")
			}
		}
	}
}
