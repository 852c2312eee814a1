package hull_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// envRole makes this test binary play a part instead of running tests: a program that uses the library, one that is
// killed, an attacker inside a container.
const envRole = "HULL_TEST_ROLE"

// roles are the parts; each is beside the test that needs it. init functions fill the map.
var roles = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	role, ok := os.LookupEnv(envRole)
	if len(os.Args) > 1 && os.Args[0] == "hull-sandbox" { // in a jail, which has no environment
		role, ok = "rogue", true
	}
	if !ok {
		status := hulltest.NoLeaks(m)
		staticTests.remove()
		os.Exit(status)
	}
	if err := roles[role](os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		os.Exit(1)
	}
}

// actor returns this test binary in one of its roles.
func actor(t testing.TB, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(testBinary(t), args...)
	cmd.Env = append(os.Environ(), envRole+"="+role)
	return cmd
}

func testBinary(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// newRuntime returns a runtime with a state directory of its own. Its warnings go to the test's log.
func newRuntime(t testing.TB) *hull.Runtime {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	r := &hull.Runtime{
		Root: filepath.Join(t.TempDir(), "state"),
		Warn: func(line string) { t.Log("warning:", line) },
	}
	if strings.HasPrefix(t.Name(), "TestSandbox") {
		hulltest.Require(t, hulltest.MountSetattr)
		r.Isolation, r.SandboxProgram = hull.Sandbox, hulltest.SandboxBinary(t)
	}
	if strings.HasPrefix(t.Name(), "TestSandboxMember/") {
		addPod(t, r)
	}
	if strings.HasPrefix(t.Name(), "TestSandboxPool/") {
		startPool(t, r, 1)
	}
	return r
}

// remove deletes a container at the end of the test, whatever has become of it, and reaps its init.
func remove(t testing.TB, r *hull.Runtime, c *hull.Container) {
	t.Helper()
	t.Cleanup(func() {
		if err := r.Delete(context.Background(), c.ID(), hull.DeleteOptions{Force: true}); err != nil {
			t.Errorf("clean up: %v", err)
		}
		_, _ = c.Init().Wait() // it may have been waited for
	})
}

// create makes the container "box" of a bundle with the edits.
func create(t testing.TB, r *hull.Runtime, o hull.CreateOptions, edits ...func(*specs.Spec)) *hull.Container {
	t.Helper()
	o.Bundle = bundle(t, r, edits...)
	c, err := r.Create(t.Context(), "box", o)
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	return c
}

// running returns a container whose program sleeps until it is killed.
func running(t testing.TB, edits ...func(*specs.Spec)) *hull.Container {
	t.Helper()
	return runningIn(t, newRuntime(t), edits...)
}

func runningIn(t testing.TB, r *hull.Runtime, edits ...func(*specs.Spec)) *hull.Container {
	t.Helper()
	edits = append([]func(*specs.Spec){args("sleep", "3600")}, edits...)
	c := create(t, r, hull.CreateOptions{}, edits...)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	return c
}

// args sets what the container runs: a verb of testprog.
func args(verb string, more ...string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = hulltest.Args(verb, more...) }
}

// outcome is how a program ended and what it said.
type outcome struct {
	Status   string // "0", or "signal SIGTERM"
	Out, Err string
}

// run runs a bundle with the edits to its end and deletes it.
func run(t testing.TB, edits ...func(*specs.Spec)) outcome {
	t.Helper()
	got, err := tryRun(t, newRuntime(t), edits...)
	if err != nil {
		t.Fatal(errorText(err))
	}
	return got
}

// tryRun is run for a container that may not start. What fails must leave nothing.
func tryRun(t testing.TB, r *hull.Runtime, edits ...func(*specs.Spec)) (outcome, error) {
	t.Helper()
	return tryRunWith(t, r, hull.CreateOptions{Bundle: bundle(t, r, edits...)})
}

func tryRunWith(t testing.TB, r *hull.Runtime, o hull.CreateOptions) (outcome, error) {
	t.Helper()
	streams := newStreams(t)
	o.Stdio = streams.stdio()
	c, err := r.Run(t.Context(), "box", o)
	if err != nil {
		if left, lerr := filepath.Glob(filepath.Join(r.Root, "[^p@]*")); len(left) > 0 || lerr != nil {
			t.Errorf("a run that failed left %v, %v", left, lerr)
		}
		return outcome{}, err
	}
	remove(t, r, c)
	got := streams.outcome(t, c.Init())
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	return got, nil
}

// exec1 runs a process in the container to its end.
func exec1(t testing.TB, c *hull.Container, edits ...func(*specs.Process)) outcome {
	t.Helper()
	got, err := tryExec(t, c, edits...)
	if err != nil {
		t.Fatal(errorText(err))
	}
	return got
}

func tryExec(t testing.TB, c *hull.Container, edits ...func(*specs.Process)) (outcome, error) {
	t.Helper()
	p := c.ProcessSpec()
	for _, edit := range edits {
		edit(p)
	}
	streams := newStreams(t)
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Stdio: streams.stdio()})
	if err != nil {
		return outcome{}, err
	}
	return streams.outcome(t, proc), nil
}

// verb sets what an exec runs.
func verb(name string, more ...string) func(*specs.Process) {
	return func(p *specs.Process) { p.Args = hulltest.Args(name, more...) }
}

// streams are files that a process writes to.
type streams struct{ out, err *os.File }

func newStreams(t testing.TB) streams {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	return streams{open("out"), open("err")}
}

func (s streams) stdio() hull.Stdio { return hull.Stdio{Out: s.out, Err: s.err} }

func (s streams) outcome(t testing.TB, p *hull.Process) outcome {
	t.Helper()
	status := wait(t, p)
	return outcome{status, readAll(t, s.out), readAll(t, s.err)}
}

func readAll(t testing.TB, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wait waits for the end of a process, but not for ever.
func wait(t testing.TB, p *hull.Process) string {
	t.Helper()
	timer := time.AfterFunc(hulltest.Patient(30*time.Second), func() {
		t.Error("the process does not end")
		_ = p.Signal(unix.SIGKILL)
	})
	defer timer.Stop()
	ws, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return describe(ws)
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprint(ws.ExitStatus())
}

// speaker is the reading end of a process's standard output.
type speaker struct {
	t     testing.TB
	r     *os.File
	lines *bufio.Scanner
	W     *os.File // for the process
}

func newSpeaker(t testing.TB) *speaker {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return &speaker{t, r, bufio.NewScanner(r), w}
}

// want reads the next line.
func (s *speaker) want(line string) {
	s.t.Helper()
	s.W.Close()
	s.r.SetReadDeadline(time.Now().Add(hulltest.Patient(20 * time.Second)))
	if !s.lines.Scan() || s.lines.Text() != line {
		s.t.Fatalf("the container says %q (%v), want %q", s.lines.Text(), s.lines.Err(), line)
	}
}

// rest reads to the end.
func (s *speaker) rest() string {
	s.t.Helper()
	s.W.Close()
	s.r.SetReadDeadline(time.Now().Add(hulltest.Patient(20 * time.Second)))
	b, err := io.ReadAll(s.r)
	if err != nil {
		s.t.Error(err)
	}
	return string(b)
}

// expect compares what was seen with what must be seen.
func expect[T any](t testing.TB, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// says expects success and that output.
func says(t testing.TB, got outcome, out ...string) {
	t.Helper()
	want := ""
	if len(out) > 0 {
		want = strings.Join(out, "\n") + "\n"
	}
	expect(t, outcome{Status: "0", Out: want}, got)
}

// refused expects an error of that kind, or with that errno, that names all the words.
func refused(t testing.TB, err, kind error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("%q is not %v", err, kind)
	}
	text := errorText(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q doesn't say %q", text, w)
		}
	}
	if strings.Contains(err.Error(), "failed to") || strings.Contains(err.Error(), "unable to") {
		t.Errorf("%q says failed to, or unable to", err)
	}
}

// errorText returns the message with its hint.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	if hint := hull.Hint(err); hint != "" {
		return err.Error() + "\n      " + hint
	}
	return err.Error()
}

func wantStatus(t testing.TB, c *hull.Container, want hull.Status) {
	t.Helper()
	s, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	if s.Status != want {
		t.Errorf("the container is %s, want %s", s.Status, want)
	}
}

// eventually waits for something that takes the kernel a moment.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hulltest.Patient(10 * time.Second)); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("does not happen: ", what)
		}
	}
}

// gone waits until a process has ended.
func gone(t testing.TB, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	return !strings.HasPrefix(strings.TrimSpace(rest), "Z")
}

// cgroupFile returns the path of a file of the container's cgroup, on v1 of that controller.
func cgroupFile(t testing.TB, c *hull.Container, controller, file string) string {
	t.Helper()
	group := c.Spec().Linux.CgroupsPath
	if hulltest.CgroupV2.Check() == nil {
		return filepath.Join("/sys/fs/cgroup", group, file)
	}
	return filepath.Join("/sys/fs/cgroup", controller, group, file)
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func ptr[T any](v T) *T { return &v }

// exitStatus is that of a helper process.
func exitStatus(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

func procPath(pid int, file string) string { return fmt.Sprintf("/proc/%d/%s", pid, file) }

// residentKiB returns what a process has in memory.
func residentKiB(t testing.TB, pid int) int {
	t.Helper()
	for line := range strings.Lines(readFile(t, procPath(pid, "status"))) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var n int
			if _, err := fmt.Sscan(v, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d has no memory", pid)
	return 0
}

// runHere runs a bundle with this program's streams; for roles. What can't be told otherwise goes to standard error.
func runHere(bundle, root string) error {
	r := &hull.Runtime{Root: filepath.Join(root, "state")}
	ctx := context.Background()
	c, err := r.Run(ctx, "box", hull.CreateOptions{Bundle: bundle, Stdio: hull.Stdio{Out: os.Stdout, Err: os.Stderr}})
	if err != nil {
		return errors.New(errorText(err))
	}
	ws, err := c.Init().Wait()
	if err == nil && ws != 0 {
		err = errors.New(describe(ws))
	}
	return errors.Join(err, c.Delete(ctx, hull.DeleteOptions{}))
}

// uintptrOf returns the address of a number that the kernel writes during the call this is an argument of.
func uintptrOf(v *int32) uintptr { return uintptr(unsafe.Pointer(v)) }

func rm(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
