package hull_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// The init of a pid namespace stays until the last zombie in it is reaped, which is up to whoever has started that one.
func TestDeleteAmongZombies(t *testing.T) {
	c := running(t)
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	added, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
	if err != nil {
		t.Fatal(err)
	}
	if err := added.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, added.Pid)
	began := time.Now()
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it takes %v", took)
	}
	expect(t, "signal SIGKILL", wait(t, added))
}
