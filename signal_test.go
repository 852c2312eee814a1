package hull_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
)

func TestSignals(t *testing.T) {
	const shutdown = 37 // SIGRTMIN+3, by which engines end a systemd (systemd(1))
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGUSR1, unix.SIGINT, unix.SIGWINCH, shutdown} {
		name := cmp.Or(unix.SignalName(sig), strconv.Itoa(int(sig)))
		out := newSpeaker(t)
		c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("trap", name))
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		out.want("ready")
		if err := c.Signal(sig, false); err != nil {
			t.Error(err)
		}
		out.want(name)
		expect(t, "0", wait(t, c.Init()))
		refused(t, c.Signal(sig, false), hull.ErrBadState, "kill box", "not running")
		if err := c.Init().Signal(sig); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("the init has been waited for, but a signal says %v", err)
		}
	}
}

// A container that waits for its start ends by the signals that end a program, and no others.
func TestSignalsBeforeTheStart(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		c := create(t, newRuntime(t), hull.CreateOptions{})
		if err := c.Signal(unix.SIGWINCH, false); err != nil {
			t.Error(err)
		}
		wantStatus(t, c, hull.Created)
		if err := c.Signal(sig, false); err != nil {
			t.Error(err)
		}
		expect(t, strconv.Itoa(128+int(sig)), wait(t, c.Init()))
		wantStatus(t, c, hull.Stopped)
	}
}

// Without a pid namespace the end of the init doesn't end the others.
func TestSignalAll(t *testing.T) {
	for _, own := range []bool{true, false} {
		t.Run(fmt.Sprintf("pid namespace %v", own), func(t *testing.T) {
			out := newSpeaker(t)
			c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("spawn", "3"), func(s *specs.Spec) {
				if !own {
					s.Linux.Namespaces = without(s.Linux.Namespaces, specs.PIDNamespace)
				}
			})
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			out.want("ready")
			pids, err := c.Processes()
			if err != nil || len(pids) != 4 {
				t.Fatalf("processes %v, %v, want 4", pids, err)
			}
			if err := c.Signal(unix.SIGKILL, true); err != nil {
				t.Error(err)
			}
			expect(t, "signal SIGKILL", wait(t, c.Init()))
			for _, pid := range pids {
				gone(t, pid)
			}
			if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func without(all []specs.LinuxNamespace, kind specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var rest []specs.LinuxNamespace
	for _, ns := range all {
		if ns.Type != kind {
			rest = append(rest, ns)
		}
	}
	return rest
}
