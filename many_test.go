package hull_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull"
	"hull/hulltest"
)

// 100 containers, 8 at a time: each does its work, none leaves a thing.
func TestManyContainers(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("echo", "done"))
	n := 100
	if testing.Short() {
		n = 24
	}
	work := make(chan int)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range work {
				if err := oneOfMany(t.Context(), r, bundle, i); err != nil {
					t.Errorf("container %d: %v", i, err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	group.Wait()
	if left, _ := filepath.Glob(filepath.Join(r.Root, "[^@]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func oneOfMany(ctx context.Context, r *hull.Runtime, bundle string, i int) error {
	s, err := loadSpec(bundle)
	if err != nil {
		return err
	}
	s.Linux.CgroupsPath += fmt.Sprintf("-%d", i)
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	id := fmt.Sprintf("many-%d", i)
	c, err := r.Create(ctx, id, hull.CreateOptions{Bundle: bundle, Spec: s, Stdio: hull.Stdio{Out: w}})
	w.Close()
	if err != nil {
		return err
	}
	defer r.Delete(ctx, id, hull.DeleteOptions{Force: true})
	if err := c.Start(ctx); err != nil {
		return err
	}
	if ws, err := c.Init().Wait(); err != nil || ws != 0 {
		return fmt.Errorf("wait: %v, %w", ws, err)
	}
	p := make([]byte, 100)
	if n, err := out.Read(p); err != nil || string(p[:n]) != "done\n" {
		return fmt.Errorf("it says %q, %w", p[:n], err)
	}
	return c.Delete(ctx, hull.DeleteOptions{})
}

// Commands on one container, all at the same time: each answers, none breaks another.
func TestFiftyCommandsAtOnce(t *testing.T) {
	r := newRuntime(t)
	c := runningIn(t, r)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			mine, err := r.Container("box")
			if err != nil {
				t.Error(err)
				return
			}
			switch i % 5 {
			case 0, 1:
				err = execTrue(t.Context(), mine)
			case 2:
				if _, err = mine.State(); err == nil {
					_, err = mine.Processes()
				}
			case 3:
				pids := int64(500 + i)
				err = mine.Update(hull.UpdateOptions{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}})
			case 4:
				if _, err = r.List(); err == nil {
					_, err = mine.Stats()
				}
			}
			if err != nil {
				t.Errorf("command %d: %v", i, errorText(err))
			}
		})
	}
	group.Wait()
	wantStatus(t, c, hull.Running)
}

func execTrue(ctx context.Context, c *hull.Container) error {
	spec := c.ProcessSpec()
	spec.Args = hulltest.Args("true")
	p, err := c.Exec(ctx, hull.ExecOptions{Process: spec, IgnorePaused: true})
	if err != nil {
		return err
	}
	if ws, err := p.Wait(); err != nil || ws != 0 {
		return fmt.Errorf("wait: %v, %w", ws, err)
	}
	return nil
}

// Deleting while others work on the container: they are done, or are told that it is gone.
func TestDeleteAmongOthers(t *testing.T) {
	r := newRuntime(t)
	c := runningIn(t, r)
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			var err error
			switch i % 3 {
			case 0:
				err = execTrue(t.Context(), c)
			case 1:
				err = c.Pause()
			case 2:
				err = c.Resume()
			}
			if err != nil {
				t.Logf("%d: %v", i, err)
			}
		})
	}
	if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	group.Wait()
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Error(err)
	}
	gone(t, c.Init().Pid)
}
