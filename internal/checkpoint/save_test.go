package checkpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"hull/internal/engine"
	"hull/internal/proc"
)

// What a checkpoint that failed has left is removed, and nothing of others; but not if the container's processes have ended
// meanwhile.
func TestDiscard(t *testing.T) {
	ended := exec.Command("sleep", "60")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	initOf := func(pid int) engine.Init {
		start, err := proc.StartTime(pid)
		if err != nil {
			t.Fatal(err)
		}
		return engine.Init{Pid: pid, StartTime: start}
	}
	over, alive := initOf(ended.Process.Pid), initOf(os.Getpid())
	_ = ended.Process.Kill()
	_ = ended.Wait()
	all := []string{"core-1.img", "descriptors.json", "dump.log", "inventory.img", "notes", "stats-dump"}
	for _, tt := range []struct {
		name string
		init engine.Init
		want []string
	}{
		{"goes on", alive, []string{"dump.log", "notes"}},
		{"has ended", over, all},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range all {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := discard(&engine.CheckpointRequest{Init: tt.init, Image: engine.Image{Dir: f}}, []string{"dump.log"}); err != nil {
				t.Error(err)
			}
			got, err := namesIn(f)
			if slices.Sort(got); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
