package hull_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// command returns a Cmd that runs a verb of testprog.
func command(t testing.TB, ctx context.Context, verb string, more ...string) *hull.Cmd {
	t.Helper()
	r := newRuntime(t)
	bundle := hulltest.Bundle(t)
	group := readSpec(t, bundle).Linux.CgroupsPath
	cmd := hull.CommandContext(ctx, "testprog", append([]string{verb}, more...)...)
	cmd.Rootfs, cmd.Runtime = filepath.Join(bundle, "rootfs"), r
	cmd.Spec = func(s *specs.Spec) { s.Linux.CgroupsPath = group }
	t.Cleanup(func() {
		if left, _ := filepath.Glob(filepath.Join(r.Root, "*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	return cmd
}

func TestCommand(t *testing.T) {
	cmd := command(t, t.Context(), "do", "env", ",", "cwd", ",", "cat")
	cmd.Env, cmd.Dir, cmd.Stdin = []string{"HOME=/x", "A=1"}, "/tmp", strings.NewReader("the input")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, "HOME=/x\nA=1\n/tmp\nthe input", string(out))
	if cmd.WaitStatus != 0 {
		t.Errorf("status %v", cmd.WaitStatus)
	}
	if err := cmd.Run(); !errors.Is(err, hull.ErrBadUsage) {
		t.Errorf("run again: %v", err)
	}
}

func TestCommandFails(t *testing.T) {
	_, err := command(t, t.Context(), "cat", "/nonexistent").Output()
	var e *hull.ExitError
	if !errors.As(err, &e) || e.ExitCode() != 1 || string(e.Stderr) != "cat: open /nonexistent: no such file or directory\n" || e.Error() != "exit status 1" {
		t.Errorf("%v %+v", err, e)
	}
	out, err := command(t, t.Context(), "do", "echo", "a", ",", "cat", "/nonexistent").CombinedOutput()
	if !errors.As(err, &e) || string(out) != "a\ndo: cat: open /nonexistent: no such file or directory\n" {
		t.Errorf("%v %q", err, out)
	}
}

func TestCommandThatCannotBe(t *testing.T) {
	cmd := command(t, t.Context(), "true")
	cmd.Args[0] = "nothing"
	cmd.Stdin, cmd.Stdout = strings.NewReader("x"), new(bytes.Buffer)
	refused(t, cmd.Run(), unix.ENOENT, "nothing", "$PATH")
	refused(t, hull.Command("true").Wait(), hull.ErrBadUsage, "not started")
	cmd = command(t, t.Context(), "true")
	cmd.Stdout = os.Stdout
	_, err := cmd.Output()
	refused(t, err, hull.ErrBadUsage, "Stdout")
}

func TestCommandContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	cmd := command(t, ctx, "sleep", "3600")
	cmd.Stdout = new(bytes.Buffer)
	err := cmd.Run()
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if !cmd.WaitStatus.Signaled() || cmd.WaitStatus.Signal() != unix.SIGKILL {
		t.Errorf("status %v", cmd.WaitStatus)
	}
}

func TestCommandCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := command(t, ctx, "trap", "USR1")
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = w
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGUSR1) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := make([]byte, 100)
	if n, err := out.Read(p); err != nil || string(p[:n]) != "ready\n" {
		t.Errorf("it says %q, %v", p[:n], err)
	}
	cancel()
	if err := cmd.Wait(); err != nil {
		t.Error(err) // it has ended well
	}
}

// What a program leaves running ends with it, and doesn't hold its output open.
func TestCommandLeavesNothingRunning(t *testing.T) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	out, err := command(t, ctx, "spawn", "3").Output()
	if !errors.Is(err, context.DeadlineExceeded) || string(out) != "ready\n" || time.Since(began) > 15*time.Second {
		t.Errorf("after %v: %q, %v", time.Since(began), out, err)
	}
}

// Programs that use the library, in ways of their own.
//
//	host HABIT BUNDLE ROOT
func init() {
	roles["host"] = func(args []string) error {
		switch habit := args[0]; habit {
		case "ignores SIGCHLD":
			signal.Ignore(unix.SIGCHLD)
		case "waits for all":
			go func() {
				for {
					if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
						time.Sleep(100 * time.Microsecond)
					}
				}
			}()
		case "many threads":
			for range 50 {
				go func() {
					runtime.LockOSThread()
					for {
						time.Sleep(time.Millisecond)
					}
				}()
			}
			time.Sleep(20 * time.Millisecond)
		case "subreaper":
			if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
				return err
			}
		default:
			return fmt.Errorf("no habit %q", habit)
		}
		r := &hull.Runtime{Root: args[2]}
		ctx := context.Background()
		for i := range 5 {
			c, err := r.Create(ctx, "box", hull.CreateOptions{Bundle: args[1]})
			if err != nil {
				return errors.New(errorText(err))
			}
			if err := c.Start(ctx); err != nil {
				return errors.New(errorText(err))
			}
			if err := execTrue(ctx, c); err != nil {
				return fmt.Errorf("exec %d: %w", i, err)
			}
			if err := c.Signal(unix.SIGKILL, false); err != nil {
				return err
			}
			ws, err := c.Init().Wait()
			if err != nil {
				return fmt.Errorf("wait %d: %w", i, err)
			}
			fmt.Println(describe(ws))
			if err := c.Delete(ctx, hull.DeleteOptions{}); err != nil {
				return errors.New(errorText(err))
			}
		}
		return nil
	}
}

// Whatever its host program does with its children, hull knows how its own have ended (PIDFD_GET_INFO, Linux 6.15).
func TestHostPrograms(t *testing.T) {
	for _, habit := range []string{"many threads", "subreaper", "ignores SIGCHLD", "waits for all"} {
		t.Run(habit, func(t *testing.T) {
			hulltest.Require(t, hulltest.Root)
			if habit == "ignores SIGCHLD" || habit == "waits for all" {
				hulltest.Require(t, hulltest.Kernel(6, 15))
			}
			root := filepath.Join(t.TempDir(), "state")
			cmd := actor(t, "host", habit, hulltest.Bundle(t, args("sleep", "3600"), quietHooks(t)), root)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			timer := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
			err := cmd.Run()
			timer.Stop()
			expect(t, strings.Repeat("signal SIGKILL\n", 5), out.String())
			if err != nil {
				t.Errorf("%v: %s", err, errs.String())
			}
			if err := (&hull.Runtime{Root: root}).Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
				t.Error(err)
			}
		})
	}
}

// quietHooks are hooks of all kinds, which succeed.
func quietHooks(t testing.TB) func(*specs.Spec) {
	here := []specs.Hook{{Path: hulltest.Prog(t), Args: hulltest.Args("true")}}
	there := []specs.Hook{{Path: hulltest.ProgPath, Args: hulltest.Args("true")}}
	//nolint:staticcheck // prestart is deprecated, and still in use
	hooks := &specs.Hooks{Prestart: here, CreateRuntime: here, CreateContainer: here, StartContainer: there, Poststart: here, Poststop: here}
	return func(s *specs.Spec) { s.Hooks = hooks }
}

// self is what of a process a library must leave alone.
type self struct {
	Umask, Cwd, Root, Dumpable, Subreaper, Rlimits, SigCgt, SigIgn, SigBlk, Namespaces, Caps string
	FDs                                                                                      []string
}

func inspect(t testing.TB) self {
	t.Helper()
	prctl := func(option int) string {
		var v int32
		if option == unix.PR_GET_DUMPABLE {
			n, err := unix.PrctlRetInt(option, 0, 0, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(n)
		}
		if err := unix.Prctl(option, uintptrOf(&v), 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(v)
	}
	status := make(map[string]string)
	for line := range strings.Lines(readFile(t, "/proc/self/status")) {
		k, v, _ := strings.Cut(line, ":")
		status[k] = strings.TrimSpace(v)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Readlink("/proc/self/root")
	if err != nil {
		t.Fatal(err)
	}
	return self{
		Umask: status["Umask"], Cwd: cwd, Root: root, Dumpable: prctl(unix.PR_GET_DUMPABLE), Subreaper: prctl(unix.PR_GET_CHILD_SUBREAPER),
		Rlimits: readFile(t, "/proc/self/limits"), SigCgt: status["SigCgt"], SigIgn: status["SigIgn"], SigBlk: status["SigBlk"],
		Namespaces: fmt.Sprint(namespacesOf(t, os.Getpid())), Caps: status["CapEff"] + status["CapBnd"], FDs: openFiles(t),
	}
}

// openFiles returns the descriptors that are open, without those of the Go runtime.
func openFiles(t testing.TB) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, link := range links {
		if dest, err := os.Readlink(link); err == nil && !strings.Contains(dest, "[eventpoll]") && !strings.Contains(dest, "[eventfd]") {
			open = append(open, dest)
		}
	}
	slices.Sort(open)
	return open
}

// Rule 9: nothing process-wide is changed, and nothing stays.
func TestHostIsUnchanged(t *testing.T) {
	r := newRuntime(t)
	once := func() {
		c := runningIn(t, r)
		says(t, exec1(t, c, verb("echo", "x")), "x")
		if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		wait(t, c.Init())
	}
	bundle := hulltest.Bundle(t) // the program that it needs is built now
	_ = bundle
	once()
	goroutines := runtime.NumGoroutine()
	before := inspect(t)
	for range 3 {
		nothing := hulltest.Bundle(t, userNamespace, withTerminal, func(s *specs.Spec) { s.Process.Args = []string{"nothing"} })
		closed := func(master *os.File) error { return master.Close() }
		if _, err := tryRunWith(t, r, hull.CreateOptions{Bundle: nothing, Console: closed}); err == nil {
			t.Error("a program that isn't there")
		}
		once()
	}
	after := inspect(t)
	// The files that this test has opened for output are open until its end.
	before.FDs = without2(before.FDs, "/out", "/err")
	after.FDs = without2(after.FDs, "/out", "/err")
	expect(t, before, after)
	eventually(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines })
}

func without2(all []string, suffixes ...string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		return slices.ContainsFunc(suffixes, func(x string) bool { return strings.HasSuffix(s, x) })
	})
}

// Many descriptors for the container, in a program that has few: whatever numbers they have here, none takes the place
// of another.
func TestManyExtraFiles(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir := t.TempDir()
	var files []*os.File
	var names []string
	for i := range 40 {
		name := filepath.Join(dir, fmt.Sprint(i))
		write(t, name, fmt.Sprintf("%d\n", i))
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
		names = append(names, fmt.Sprintf("/proc/self/fd/%d", 3+i))
	}
	var want strings.Builder
	for i := range 40 {
		fmt.Fprintf(&want, "%d\n", i)
	}
	got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: hulltest.Bundle(t, args("cat", names...)), ExtraFiles: files})
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, outcome{Status: "0", Out: want.String()}, got)
}

// A program with much memory starts containers as fast as one with little: nothing of it is copied.
//
//	heavy MEGABYTES BUNDLE ROOT
func init() {
	roles["heavy"] = func(args []string) error {
		var megabytes int
		if _, err := fmt.Sscan(args[0], &megabytes); err != nil {
			return err
		}
		heap := make([][]byte, megabytes)
		for i := range heap {
			heap[i] = make([]byte, 1<<20)
			for j := 0; j < len(heap[i]); j += 4096 {
				heap[i][j] = 1
			}
		}
		r := &hull.Runtime{Root: args[2]}
		ctx := context.Background()
		best := time.Hour
		for range 15 {
			began := time.Now()
			c, err := r.Run(ctx, "box", hull.CreateOptions{Bundle: args[1]})
			best = min(best, time.Since(began))
			if err != nil {
				return errors.New(errorText(err))
			}
			if _, err := c.Init().Wait(); err != nil {
				return err
			}
			if err := c.Delete(ctx, hull.DeleteOptions{}); err != nil {
				return err
			}
		}
		runtime.KeepAlive(heap)
		fmt.Println(best.Microseconds())
		return nil
	}
}

func TestBigHostProgram(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	if testing.Short() {
		t.Skip("needs 1 GiB")
	}
	measure := func(megabytes int) (best int) {
		t.Helper()
		out, err := actor(t, "heavy", fmt.Sprint(megabytes), hulltest.Bundle(t), filepath.Join(t.TempDir(), "state")).Output()
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			t.Fatalf("%v: %s", err, e.Stderr)
		}
		if _, err := fmt.Sscan(string(out), &best); err != nil {
			t.Fatal(err)
		}
		return best
	}
	// The machine has other work: one good pair of measurements shows that nothing is copied.
	for try := 1; ; try++ {
		small, big := measure(1), measure(1024)
		t.Logf("a heap of 1 MiB: %d µs, of 1 GiB: %d µs", small, big)
		if float64(big) <= 1.2*float64(small) {
			return
		}
		if try == 4 {
			t.Fatal("a big heap costs more than a fifth in every try")
		}
	}
}

// Containers from many goroutines, while the host program starts programs of its own.
func TestAmongOtherPrograms(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	prog := hulltest.Prog(t)
	want, err := exec.Command(prog, "fds").Output() // with what this program has inherited
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var others, group sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if out, err := exec.Command(prog, "fds").Output(); err != nil || bytes.Count(out, []byte("\n")) != bytes.Count(want, []byte("\n")) {
				t.Errorf("another child has descriptors of hull's: %v\n%s", err, out)
				return
			}
		}
	})
	for range 4 {
		c := command(t, t.Context(), "echo", "x")
		group.Go(func() {
			if out, err := c.Output(); err != nil || string(out) != "x\n" {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
	group.Wait()
	close(stop)
	others.Wait()
}
