package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hull/hulltest"
)

const runtimeDir = "/run/programs" // where RUNTIME is in the namespaces

var (
	patience = hulltest.Patient(90 * time.Second) // with one command of an engine
	soon     = hulltest.Patient(20 * time.Second) // with what an engine does by itself
)

// A contestant is a runtime under test, as engines know it.
type contestant struct{ name, path string }

// contestants are RUNTIME and, if that is hull, the same by the name that makes sandboxes.
func contestants(t testing.TB) []contestant {
	t.Helper()
	path := filepath.Join(runtimeDir, filepath.Base(os.Getenv("RUNTIME")))
	all := []contestant{{filepath.Base(path), path}}
	if all[0].name == "hull" {
		link := "/run/hull-s"
		if err := os.Symlink(path, link); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		all = append(all, contestant{"hull-s", link})
	}
	return all
}

// sandbox says whether the containers have a kernel of their own.
func (c contestant) sandbox() bool { return c.name == "hull-s" || c.name == "shim-sandbox" }

// each runs a test with every contestant.
func each(t *testing.T, test func(t *testing.T, c contestant)) { eachOf(t, contestants(t), test) }

func eachOf(t *testing.T, all []contestant, test func(t *testing.T, c contestant)) {
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) { test(t, c) })
	}
}

// need skips the test where it can't run; see hulltest.Require.
func need(t testing.TB, programs ...string) {
	t.Helper()
	needs := []hulltest.Need{hulltest.Root, {Name: "runtime", Check: func() error {
		if os.Getenv("RUNTIME") == "" {
			return errors.New("RUNTIME names none; see make test-engines")
		}
		return nil
	}}}
	for _, p := range append([]string{"busybox", "ip", "iptables"}, programs...) {
		needs = append(needs, hulltest.Command(p))
	}
	hulltest.Require(t, needs...)
}

// long skips what the selection for every change leaves out.
func long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("not in the selection of -short")
	}
}

// A client is the command line of an engine.
type client struct {
	argv []string
	env  []string
	attr *syscall.SysProcAttr
}

// A result is what a command has said.
type result struct {
	args     []string
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("%s: status %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.out, r.err)
}

// command is a command of the engine that isn't started yet, with a time-out and a process group of its own.
func (c client) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append(c.argv[:len(c.argv):len(c.argv)], args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), c.env...), "/run"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.attr != nil {
		cmd.SysProcAttr.Credential = c.attr.Credential
		cmd.Dir = userHome
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// run runs a command with nothing as its input.
func (c client) run(t testing.TB, args ...string) result {
	t.Helper()
	return c.feed(t, "", args...)
}

// feed runs a command with an input.
func (c client) feed(t testing.TB, input string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := c.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err := cmd.Run()
	r := result{args, out.String(), errs.String(), 0}
	switch exit := (*exec.ExitError)(nil); {
	case ctx.Err() != nil:
		t.Fatalf("%v: not ended after %v", r, patience)
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%v: %v", r, err)
	}
	return r
}

// ok is run of what must succeed; it returns what was printed, without space around it.
func (c client) ok(t testing.TB, args ...string) string {
	t.Helper()
	r := c.run(t, args...)
	if r.code != 0 {
		t.Fatal(r)
	}
	return strings.TrimSpace(r.out)
}

// fails is run of what must end with a status, and say something.
func (c client) fails(t testing.TB, code int, says string, args ...string) {
	t.Helper()
	if r := c.run(t, args...); r.code != code || !strings.Contains(r.out+r.err, says) {
		t.Errorf("%v\nwant status %d and %q", r, code, says)
	}
}

// says checks what a command prints on its standard output.
func (c client) says(t testing.TB, want string, args ...string) {
	t.Helper()
	if got := c.ok(t, args...); got != want {
		t.Errorf("%s: printed %q, want %q", strings.Join(args, " "), got, want)
	}
}

// become waits until a command prints what is wanted, alone.
func (c client) become(t testing.TB, want string, args ...string) {
	t.Helper()
	var r result
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if r = c.run(t, args...); r.code == 0 && strings.TrimSpace(r.out) == want {
			return
		}
	}
	t.Errorf("%v\nwant %q", r, want)
}

var names atomic.Int32

// name is one that no other container of these tests has.
func name(what string) string { return fmt.Sprintf("%s-%d", what, names.Add(1)) }

// name is one whose container is removed, should the test fail before it does so.
func (c client) name(t testing.TB, what string) string {
	n := name(what)
	t.Cleanup(func() {
		if t.Failed() {
			c.run(t, "rm", "-f", n)
		}
	})
	return n
}

// sleeps is a program that ends at once when it is told to, even as process 1. An emulated machine has no time for twenty
// programs a second.
var sleeps = map[bool]string{
	false: "trap 'exit 0' TERM; while :; do sleep 0.05; done",
	true:  "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done",
}[emulated]

// daemon starts a program that stays until the end of the tests, with its output in a file.
func daemon(t testing.TB, log string, argv ...string) *exec.Cmd {
	t.Helper()
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// ready waits until a daemon answers a command.
func (c client) ready(t testing.TB, log string, args ...string) {
	t.Helper()
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c.run(t, args...).code == 0 {
			return
		}
	}
	text, _ := os.ReadFile(log)
	t.Fatalf("%s doesn't answer:\n%s", c.argv[0], text)
}
