package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hull/hulltest"
	"hull/internal/fault"
	"hull/internal/stub"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The hooks of these tests are the test binary itself, told what to do by the name it is called by: a hook's environment
// is under test, so it can't carry that.
const playPrefix = "play-"

func TestMain(m *testing.M) {
	if verb, ok := strings.CutPrefix(os.Args[0], playPrefix); ok {
		os.Exit(play(verb, os.Args[1:]))
	}
	os.Exit(hulltest.NoLeaks(m))
}

// play is the hook's side.
func play(verb string, args []string) int {
	switch verb {
	case "report": // FILE: what this hook was given
		state, err := io.ReadAll(os.Stdin)
		if err != nil {
			return 1
		}
		dir, _ := os.Getwd()
		report := fmt.Sprintf("args %q\nenv %q\ndir %s\nstate %s\n", os.Args[2:], os.Environ(), dir, state)
		if os.WriteFile(args[0], []byte(report), 0o600) != nil {
			return 1
		}
	case "append": // FILE TEXT STATUS
		f, err := os.OpenFile(args[0], os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return 1
		}
		fmt.Fprint(f, args[1])
		n, _ := strconv.Atoi(args[2])
		return n
	case "fail": // STATUS STDOUT STDERR
		fmt.Print(args[1])
		fmt.Fprint(os.Stderr, args[2])
		n, _ := strconv.Atoi(args[0])
		return n
	case "flood":
		for range 1000 {
			fmt.Fprintln(os.Stderr, strings.Repeat("x", 1000))
		}
		fmt.Fprintln(os.Stderr, "the end")
		return 1
	case "die":
		_ = unix.Kill(os.Getpid(), unix.SIGTERM)
		time.Sleep(time.Minute)
	case "sleep": // FILE: locked as long as this process lives
		f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil || unix.Flock(int(f.Fd()), unix.LOCK_EX) != nil {
			return 1
		}
		fmt.Fprint(f, "locked")
		time.Sleep(time.Minute)
	case "spawn": // FILE ["wait"]: a child that sleeps with our output open
		exe, _ := os.Executable()
		child := &exec.Cmd{Path: exe, Args: []string{playPrefix + "sleep", args[0]}, Stdout: os.Stdout, Stderr: os.Stderr}
		if child.Start() != nil || !locked(args[0]) {
			return 1
		}
		if len(args) > 1 {
			_ = child.Wait()
		}
		fmt.Println("spawned", child.Process.Pid)
	default:
		return 99
	}
	return 0
}

// locked waits until the sleeper has its lock.
func locked(file string) bool {
	for range 1000 {
		if b, _ := os.ReadFile(file); string(b) == "locked" {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// released tells whether the sleeper ends within a few seconds.
func released(t *testing.T, file string) bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 600 {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// acting returns a hook that plays verb. An emulator of another architecture can't start this binary as a hook.
func acting(t *testing.T, verb string, args ...string) specs.Hook {
	t.Helper()
	if testing.Short() {
		t.Skip("runs itself as a hook")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return specs.Hook{Path: exe, Args: append([]string{playPrefix + verb}, args...)}
}

func withTimeout(h specs.Hook, seconds int) specs.Hook {
	h.Timeout = &seconds
	return h
}

func TestRunGivesTheHookWhatTheSpecSays(t *testing.T) {
	t.Setenv("HULL_HOOK_TEST", "inherited")
	for _, test := range []struct {
		name    string
		env     []string
		wantEnv func(line string) bool
	}{
		{"env as given", []string{"A=1", "B=", "odd"}, func(l string) bool { return l == `env ["A=1" "B=" "odd"]` }},
		{"empty env", []string{}, func(l string) bool { return l == `env []` }},
		{"no env", nil, func(l string) bool { return strings.Contains(l, `"HULL_HOOK_TEST=inherited"`) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(t.TempDir(), "report")
			h := acting(t, "report", file, "x y", "")
			h.Env = test.env
			if err := Run(t.Context(), dir, h, []byte(`{"id":"web1"}`)); err != nil {
				t.Fatal(err)
			}
			report, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(report), "\n")
			if !test.wantEnv(lines[1]) {
				t.Errorf("environment: %s", lines[1])
			}
			got := []string{lines[0], lines[2], lines[3]}
			want := []string{`args ["x y" ""]`, "dir " + dir, `state {"id":"web1"}`}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestRunWithoutArgsUsesThePath(t *testing.T) {
	if err := Run(t.Context(), "", specs.Hook{Path: "/bin/true"}, nil); err != nil {
		t.Error(err)
	}
}

// The state is larger than a pipe holds, and nobody reads it.
func TestRunHookThatDoesNotReadItsInput(t *testing.T) {
	h := acting(t, "fail", "0", "", "")
	if err := Run(t.Context(), "", h, bytes.Repeat([]byte(" "), 1<<20)); err != nil {
		t.Error(err)
	}
}

func TestRunErrors(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		hook specs.Hook
		want string // with PATH for the hook's path
		is   error
	}{
		{"status", acting(t, "fail", "3", "", ""), `hooks.prestart[0] "PATH": exit status 3`, nil},
		{"both outputs", acting(t, "fail", "1", "out\n", "bad\x1b[2J thing\nsecond\n"),
			`hooks.prestart[0] "PATH": exit status 1: out; bad[2J thing; second`, nil},
		{"signal", acting(t, "die"), `hooks.prestart[0] "PATH": signal: terminated`, nil},
		{"missing", specs.Hook{Path: "/nonexistent/hook"}, `hooks.prestart[0] "PATH": no such file or directory`, unix.ENOENT},
		{"not executable", specs.Hook{Path: plain}, `hooks.prestart[0] "PATH": permission denied`, unix.EACCES},
		{"directory", specs.Hook{Path: "/"}, `hooks.prestart[0] "PATH": permission denied`, unix.EACCES},
		{"relative", specs.Hook{Path: "true"}, `hooks.prestart[0].path: "true" is not absolute`, fault.BadSpec},
		{"timeout 0", withTimeout(acting(t, "fail", "0", "", ""), 0), `hooks.prestart[0].timeout: 0 is not above 0`, fault.BadSpec},
		{"timeout that overflows", withTimeout(acting(t, "fail", "0", "", ""), 1<<62),
			`hooks.prestart[0].timeout: 4611686018427387904 is above 9223372036 seconds`, fault.BadSpec},
		{"timeout", withTimeout(acting(t, "sleep", filepath.Join(t.TempDir(), "lock")), 1),
			`hooks.prestart[0] "PATH": ran past its timeout of 1s`, ErrTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := RunAll(t.Context(), "", "prestart", []specs.Hook{test.hook}, nil)
			if err == nil {
				t.Fatal("it succeeded")
			}
			if got := strings.ReplaceAll(err.Error(), test.hook.Path, "PATH"); got != strings.ReplaceAll(test.want, test.hook.Path, "PATH") {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("errors.Is(%v, %v) is false", err, test.is)
			}
			if e := (*fault.Error)(nil); !errors.As(err, &e) {
				t.Errorf("%T is not a *fault.Error", err)
			}
		})
	}
}

func TestRunKeepsTheEndOfItsOutput(t *testing.T) {
	err := Run(t.Context(), "", acting(t, "flood"), nil)
	if err == nil {
		t.Fatal("it succeeded")
	}
	msg := err.Error()
	if !strings.HasPrefix(msg, "exit status 1: …x") || !strings.HasSuffix(msg, "; the end") {
		t.Errorf("%.40s … %s", msg, msg[len(msg)-20:])
	}
	if len(msg) > 5000 {
		t.Errorf("the message has %d bytes", len(msg))
	}
}

func TestRunTimeoutKillsTheWholeGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	start := time.Now()
	err := Run(t.Context(), "", withTimeout(acting(t, "spawn", file, "wait"), 2), nil)
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("%v, want a timeout", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if !released(t, file) {
		t.Error("the hook's child goes on")
	}
}

// A hook that starts a daemon has succeeded, although the daemon holds its output open.
func TestRunDoesNotWaitForDescendants(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	start := time.Now()
	err := Run(t.Context(), "", acting(t, "spawn", file), nil)
	took := time.Since(start)
	pid := holder(t, file)
	if pid == 0 {
		t.Error("the daemon was killed")
	} else {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
	if took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// holder returns the pid of the process that has file open and isn't this one, or 0.
func holder(t *testing.T, file string) int {
	t.Helper()
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if dest, _ := os.Readlink(fd); dest == file {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			if pid != os.Getpid() {
				return pid
			}
		}
	}
	return 0
}

func TestRunCancelled(t *testing.T) {
	why := errors.New("the user gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	file := filepath.Join(t.TempDir(), "lock")
	go func() {
		locked(file)
		cancel(why)
	}()
	if err := Run(ctx, "", acting(t, "spawn", file, "wait"), nil); !errors.Is(err, why) {
		t.Errorf("%v, want %v", err, why)
	}
	if !released(t, file) {
		t.Error("the hook's child goes on")
	}
	if err := Run(ctx, "", acting(t, "append", file, "again", "0"), nil); !errors.Is(err, why) {
		t.Errorf("%v, want %v", err, why)
	}
	if b, _ := os.ReadFile(file); string(b) != "locked" {
		t.Error("a hook ran with its context already cancelled")
	}
}

func TestRunAllStopsAtTheFirstFailure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace")
	hooks := []specs.Hook{
		acting(t, "append", file, "a", "0"), acting(t, "append", file, "b", "4"), acting(t, "append", file, "c", "0"),
	}
	err := RunAll(t.Context(), "", "createRuntime", hooks, nil)
	if want := fmt.Sprintf("hooks.createRuntime[1] %q: exit status 4", hooks[1].Path); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if b, _ := os.ReadFile(file); string(b) != "ab" {
		t.Errorf("ran %q, want ab", b)
	}
	if err := RunAll(t.Context(), "", "createRuntime", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestRunEachGoesOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace")
	hooks := []specs.Hook{
		acting(t, "append", file, "a", "4"), acting(t, "append", file, "b", "0"), acting(t, "append", file, "c", "5"),
	}
	gone := filepath.Join(t.TempDir(), "bundle")
	err := RunEach(t.Context(), gone, "poststop", hooks, nil)
	want := fmt.Sprintf("hooks.poststop[0] %[1]q: exit status 4\nhooks.poststop[2] %[1]q: exit status 5", hooks[0].Path)
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if b, _ := os.ReadFile(file); string(b) != "abc" {
		t.Errorf("ran %q, want abc", b)
	}
}

// A hook without an environment gets the container's, not that of the hook before it.
func TestHookEnvironmentIsItsOwn(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	hooks := []specs.Hook{
		{Path: "/bin/true", Env: []string{"FIRST=1"}},
		{Path: "/bin/sh", Args: []string{"sh", "-c", `[ "$FIRST,$OWN" = ,1 ] || { echo "FIRST=$FIRST OWN=$OWN"; exit 1; }`}},
	}
	if err := RunAllIn(t.Context(), s, "startContainer", hooks, []string{"OWN=1"}, nil); err != nil {
		t.Error(err)
	}
}
