package hull_test

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/stub"
)

// A container that does nothing meanwhile is paused several times, and works.
func TestPauseAndResume(t *testing.T) {
	c := running(t)
	for range 3 {
		if err := c.Pause(); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c, hull.Paused)
		if err := c.Resume(); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c, hull.Running)
	}
	says(t, exec1(t, c, verb("echo", "still")), "still")
	wantStatus(t, c, hull.Running)
}

// Nothing may get stuck on a paused container.
func TestPausedContainerDies(t *testing.T) {
	for name, end := range map[string]func(c *hull.Container) error{
		"kill":     func(c *hull.Container) error { return c.Signal(unix.SIGKILL, false) },
		"kill all": func(c *hull.Container) error { return c.Signal(unix.SIGKILL, true) },
		"delete":   func(c *hull.Container) error { return c.Delete(context.Background(), hull.DeleteOptions{Force: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := running(t)
			if err := c.Pause(); err != nil {
				t.Fatal(err)
			}
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			expect(t, "signal SIGKILL", wait(t, c.Init()))
		})
	}
}

func TestPauseCreated(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{})
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, hull.Paused)
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, hull.Created)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, "0", wait(t, c.Init()))
}

func TestExecInPaused(t *testing.T) {
	c := running(t)
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	_, err := tryExec(t, c, verb("true"))
	refused(t, err, hull.ErrBadState, "exec box", "paused")
	// One that was begun before.
	refused(t, c.EndedMeanwhile(t.Context(), stub.ErrTimeout), hull.ErrBadState, "exec in a paused container")
	ended := make(chan error)
	go func() { ended <- execTrue(t.Context(), c) }()
	select {
	case err := <-ended:
		t.Errorf("an exec ends in a paused container: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	says(t, exec1(t, c, verb("echo", "again")), "again")
}
