package hull_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull"
	"hull/hulltest"
)

// imageBeside is the image of a victim's container.
func imageBeside(r *hull.Runtime) hull.ImageOptions {
	return hull.ImageOptions{Path: filepath.Join(filepath.Dir(r.Root), "image")}
}

// Whenever hull is killed at a checkpoint, the container goes on or is gone, but isn't stopped for ever.
func TestKilledAtCheckpoint(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU)
	s := newCrashSite(t)
	atLastSteps(t, s, "checkpoint", "run", func(t *testing.T, what string) {
		r := &hull.Runtime{Root: s.root}
		c, err := r.Container("box")
		if err != nil {
			t.Fatalf("%s: %v", what, errorText(err))
		}
		// Until CRIU has noticed and has taken back what it did, or killed what it has saved.
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			why := unsettled(c)
			if why == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: the container %s", what, why)
				return
			}
		}
	})
}

// unsettled returns why a container is neither running nor gone, or "".
func unsettled(c *hull.Container) string {
	s, err := c.State()
	if err != nil {
		return err.Error()
	}
	if s.Status == hull.Stopped {
		return ""
	}
	if s.Status != hull.Running {
		return fmt.Sprint("is ", s.Status)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return ""
	case err != nil:
		return err.Error()
	case !strings.Contains(string(status), "\nTracerPid:\t0\n"):
		return "is traced"
	case strings.Contains(string(status), "\nState:\tT") || strings.Contains(string(status), "\nState:\tt"):
		return "is stopped"
	}
	return ""
}

// Whenever hull is killed at a restoration, delete --force takes away what is there.
func TestKilledAtRestore(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU)
	s := newCrashSite(t)
	s.die(t, "run", 0)
	s.die(t, "checkpoint", 0)
	atLastSteps(t, s, "restore", "", func(*testing.T, string) {})
}

// atLastSteps kills victims that do op, from its end to its beginning, as far as there is time: what CRIU does comes last.
func atLastSteps(t *testing.T, s crashSite, op, before string, check func(*testing.T, string)) {
	t.Helper()
	prepare := func() {
		if before != "" {
			s.die(t, before, 0)
		}
	}
	prepare()
	_, lines := s.die(t, op, 0)
	s.cleanUp(t, op)
	if lines < 5 {
		t.Fatalf("%s has %d lines of trace", op, lines)
	}
	budget := 20 * time.Second
	if testing.Short() {
		budget = 6 * time.Second
	}
	tried := 0
	for n, began := lines, time.Now(); n > 0 && time.Since(began) < budget; n-- {
		prepare()
		what := fmt.Sprintf("%s killed at line %d of %d", op, n, lines)
		s.die(t, op, n)
		check(t, what)
		s.cleanUp(t, what)
		tried++
	}
	t.Logf("%s: killed at %d of %d lines", op, tried, lines)
}
