package hull_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// fewDescriptors is how many files a sandbox of "run with few files" may have open.
const fewDescriptors = 4096

// tick is the time between two moments at which a victim whose operation has no trace is killed.
const tick = 100 * time.Microsecond

// The program that is killed: it does one operation on the container "box" and kills itself at the n-th line of the
// trace; an operation without a trace, or one whose name begins with "timed ", after n ticks. Without an n it says how many there are.
//
//	victim OPERATION BUNDLE ROOT N [SANDBOX-PROGRAM]
func init() {
	roles["victim"] = func(args []string) error {
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		op, timed := strings.CutPrefix(args[0], "timed ")
		timed = timed || op == "delete"
		lines := 0
		r := &hull.Runtime{Root: args[2], CRIU: hulltest.CRIUProgram(), Trace: func(string) {
			if lines++; lines == n && !timed {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}}
		if len(args) > 4 {
			r.Isolation, r.SandboxProgram = hull.Sandbox, args[4]
		}
		began := time.Now()
		if n > 0 && timed {
			time.AfterFunc(time.Duration(n)*tick, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
		}
		if err := operation(r, op, args[1]); err != nil {
			return errors.New(errorText(err))
		}
		if timed {
			lines = int(time.Since(began) / tick)
		}
		fmt.Println(lines)
		return nil
	}
}

func operation(r *hull.Runtime, name, bundle string) error {
	ctx := context.Background()
	switch name {
	case "create":
		_, err := r.Create(ctx, "box", hull.CreateOptions{Bundle: bundle, Console: new(console).take})
		return err
	case "restore":
		_, err := r.Restore(ctx, "box", hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: bundle}, ImageOptions: imageBeside(r)})
		return err
	case "run with few files":
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: fewDescriptors, Max: fewDescriptors}); err != nil {
			return err
		}
		fallthrough
	case "run":
		_, err := r.Run(ctx, "box", hull.CreateOptions{Bundle: bundle, Console: new(console).take})
		return err
	}
	c, err := r.Container("box")
	if err != nil {
		return err
	}
	switch name {
	case "start":
		return c.Start(ctx)
	case "checkpoint":
		return c.Checkpoint(ctx, hull.CheckpointOptions{ImageOptions: imageBeside(r)})
	case "delete":
		return c.Delete(ctx, hull.DeleteOptions{Force: true})
	case "exec":
		return execTrue(ctx, c)
	}
	return fmt.Errorf("no operation %s", name)
}

// crashSite is where the operations of a victim happen.
type crashSite struct {
	bundle, root, group string
	sandbox             []string // hull-sandbox, if that is where the container is
}

func newCrashSite(t *testing.T, edits ...func(*specs.Spec)) crashSite {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	// Victims leave orphans, which this process reaps in place of the machine's init.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reapOrphans(t)
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	})
	bundle := hulltest.Bundle(t, append([]func(*specs.Spec){args("sleep", "3600")}, edits...)...)
	s := crashSite{bundle: bundle, root: filepath.Join(t.TempDir(), "state"), group: readSpec(t, bundle).Linux.CgroupsPath}
	if strings.HasPrefix(t.Name(), "TestSandbox") {
		hulltest.Require(t, hulltest.MountSetattr)
		s.sandbox = []string{hulltest.SandboxBinary(t)}
	}
	return s
}

// die lets a victim do the operation until it is killed.
func (s crashSite) die(t *testing.T, op string, n int) (killed bool, lines int) {
	t.Helper()
	cmd := actor(t, "victim", append([]string{op, s.bundle, s.root, strconv.Itoa(n)}, s.sandbox...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	status := exitStatus(cmd.Run())
	switch status {
	case 0:
		lines, _ = strconv.Atoi(strings.TrimSpace(out.String()))
		return false, lines
	case 128 + int(unix.SIGKILL):
		return true, n
	}
	t.Fatalf("%s %d: status %d: %s", op, n, status, errs.String())
	return false, 0
}

// cleanUp is what anyone does after a crash, and leaves nothing.
func (s crashSite) cleanUp(t *testing.T, what string) {
	t.Helper()
	s.takeAway(t, what)
	reapOrphans(t)
}

func (s crashSite) takeAway(t *testing.T, what string) {
	t.Helper()
	r := &hull.Runtime{Root: s.root}
	if err := r.Delete(context.Background(), "box", hull.DeleteOptions{Force: true}); err != nil { // the test's may be over
		t.Errorf("%s: %v", what, errorText(err))
	}
	if left, _ := filepath.Glob(filepath.Join(s.root, "[^@]*")); len(left) > 0 {
		t.Errorf("%s: state %v", what, left)
	}
	if left := s.cgroups(); len(left) > 0 {
		t.Errorf("%s: cgroups %v", what, left)
	}
	if left := s.mounts(t); left != "" {
		t.Errorf("%s: mount %s", what, left)
	}
	deadline := time.Now().Add(5 * time.Second)
	for left := s.processes(); len(left) > 0; left = s.processes() {
		if time.Now().After(deadline) {
			t.Errorf("%s: processes %v", what, left)
			for _, pid := range left {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// reapOrphans waits for the end of all children: stubs end with their hull, and one that had done nothing yet is not among
// processes. No command of the test runs when it is called.
func reapOrphans(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case err == unix.ECHILD:
			return
		case pid == 0:
			time.Sleep(time.Millisecond)
		}
	}
	t.Error("an orphan lives on")
}

func (s crashSite) cgroups() []string {
	var left []string
	for _, pattern := range []string{"/sys/fs/cgroup" + s.group, "/sys/fs/cgroup/*" + s.group} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	return left
}

func (s crashSite) mounts(t *testing.T) string {
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if strings.Contains(line, s.bundle) {
			return line
		}
	}
	return ""
}

// processes returns the stubs and containers that were made here: by their cgroup, root or program. A stub that has
// done nothing yet is told by the parent that it hasn't any more.
func (s crashSite) processes() []int {
	var left []int
	stats, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range stats {
		pid, _ := strconv.Atoi(filepath.Base(proc))
		if !alive(pid) {
			continue
		}
		group, _ := os.ReadFile(proc + "/cgroup")
		mounts, _ := os.ReadFile(proc + "/mountinfo")
		if strings.Contains(string(group), s.group+"\n") || rootedIn(string(mounts), s.bundle) {
			left = append(left, pid)
		}
	}
	return left
}

// rootedIn tells whether a process's root directory is of the bundle.
func rootedIn(mountinfo, bundle string) bool {
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" && strings.HasPrefix(f[3], bundle) {
			return true
		}
	}
	return false
}

// hull is killed at any line of its trace. What it was doing is not done, or can be undone by delete --force, which
// leaves nothing: no process, no cgroup, no mount, no state.
func TestKilledAtEveryStep(t *testing.T) {
	budget := 24 * time.Second // of all operations
	if testing.Short() {
		budget = 8 * time.Second
	}
	hooks := func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			CreateContainer: []specs.Hook{{Path: hulltest.Prog(t), Args: []string{"testprog", "true"}}},
			StartContainer:  []specs.Hook{{Path: hulltest.ProgPath, Args: []string{"testprog", "true"}}},
		}
	}
	for _, test := range []struct {
		op     string
		before string // what is done before, by a program that isn't killed
		edits  []func(*specs.Spec)
	}{
		{"create", "", nil},
		{"run", "", []func(*specs.Spec){userNamespace, addNamespace(specs.TimeNamespace, "")}},
		{"create", "", []func(*specs.Spec){noNamespace(specs.PIDNamespace), withTerminal}},
		{"start", "create", []func(*specs.Spec){hooks}},
		{"exec", "run", nil},
		{"delete", "run", []func(*specs.Spec){hooks}},
	} {
		t.Run(fmt.Sprintf("%s %d", test.op, len(test.edits)), func(t *testing.T) {
			newCrashSite(t, test.edits...).dieAtEveryStep(t, test.op, test.before, budget/6)
		})
	}
}

// So it is where the container's init is the kernel of a sandbox, which lives on while it is booting.
func TestSandboxKilledAtEveryStep(t *testing.T) {
	budget := 6 * time.Second
	for _, test := range []struct{ op, before string }{
		{"create", ""}, {"run", ""}, {"start", "create"}, {"exec", "run"}, {"delete", "run"},
	} {
		t.Run(test.op, func(t *testing.T) {
			newCrashSite(t).dieAtEveryStep(t, test.op, test.before, budget/5)
		})
	}
}

// dieAtEveryStep kills victims that do an operation, as many as there is time for, after what is done before by a program
// that isn't killed.
func (s crashSite) dieAtEveryStep(t *testing.T, op, before string, budget time.Duration) {
	t.Helper()
	setUp := func() {
		if before != "" {
			if killed, _ := s.die(t, before, 0); killed {
				t.Fatal("killed by nobody")
			}
		}
	}
	setUp()
	_, lines := s.die(t, op, 0)
	s.cleanUp(t, op)
	for _, n := range sample(lines, budget) {
		setUp()
		switch killed, _ := s.die(t, op, n); {
		case !killed:
			t.Logf("%s has fewer than %d lines this time", op, n)
		case op == "create":
			// Nobody has been told of it: who waits for the end of its streams, as engines do to see what went wrong, gets it.
			eventually(t, "what was created is gone", func() bool { return len(s.processes()) == 0 })
		}
		s.cleanUp(t, fmt.Sprintf("%s killed at line %d of %d", op, n, lines))
		if t.Failed() {
			return
		}
	}
}

// sample returns so many of the numbers from 1 to n, evenly, as there is time for, and the last ones.
func sample(n int, budget time.Duration) []int {
	const each = 90 * time.Millisecond
	step := max(1, float64(n)*float64(each)/float64(budget))
	var all []int
	for i := 1.0; int(i) <= n; i += step {
		all = append(all, int(i))
	}
	for i := max(1, n-1); i <= n; i++ {
		if !slices.Contains(all, i) {
			all = append(all, i)
		}
	}
	return all
}

// The stub ends with its parent, also before it has set up anything.
func TestStubEndsWithItsParent(t *testing.T) {
	s := newCrashSite(t)
	if killed, _ := s.die(t, "create", 1); !killed {
		t.Fatal("not killed")
	}
	eventually(t, "the stub is gone", func() bool { return len(s.processes()) == 0 })
	s.cleanUp(t, "create")
}

// Processes that were frozen when their container's init ended don't end with it, on v1, until they are thawed.
func TestDeleteFrozenRest(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CgroupV1)
	c := running(t)
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	rest, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
	if err != nil {
		t.Fatal(errorText(err))
	}
	sub := filepath.Join(filepath.Dir(cgroupFile(t, c, "freezer", "freezer.state")), "sub")
	mkdir(t, sub, 0o755)
	write(t, filepath.Join(sub, "cgroup.procs"), strconv.Itoa(rest.Pid))
	write(t, filepath.Join(sub, "freezer.state"), "FROZEN")
	if err := c.Init().Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// As if nothing had thawed it since.
	write(t, filepath.Join(sub, "freezer.state"), "FROZEN")
	eventually(t, "the container has stopped", func() bool {
		s, err := c.State()
		return err == nil && s.Status == hull.Stopped
	})
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(errorText(err))
	}
	if status := wait(t, rest); status != "signal SIGKILL" {
		t.Error(status)
	}
}
