package life

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
	"hull/spec"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// patience bounds every command: the machine is slow, but none takes a tenth of this.
const patience = 60 * time.Second

func rootless() bool { return os.Geteuid() != 0 }
func systemd() bool  { return os.Getenv("HULL_LIFE_DRIVER") == "systemd" }

var runtimeNeed = hulltest.Need{Name: "HULL_LIFE_RUNTIME", Check: func() error {
	if os.Getenv("HULL_LIFE_RUNTIME") == "" {
		return errors.New("is not set")
	}
	return nil
}}

// box is a container to be.
type box struct {
	t      testing.TB
	id     string
	bundle string
	state  string // the runtime's --root
}

// newBox makes a bundle with the edits and takes away at the end what came of it. The program is a script of busybox.
func newBox(t testing.TB, script string, edits ...func(*specs.Spec)) *box {
	t.Helper()
	hulltest.Require(t, runtimeNeed, hulltest.CgroupV2)
	dir := t.TempDir()
	b := &box{t: t, id: hulltest.Token(t) + "-" + filepath.Base(filepath.Dir(dir)) + "-" + filepath.Base(dir), bundle: dir, state: filepath.Join(dir, "state")}
	s := spec.Example(spec.Options{
		Args: []string{"sh", "-c", script}, Rootless: rootless(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
	})
	s.Process.Terminal = false
	s.Root.Path = os.Getenv("HULL_LIFE_ROOTFS")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	for _, edit := range edits {
		edit(s)
	}
	if err := spec.Write(dir, s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(b.state, b.id)); err == nil {
			b.ok("delete", "--force", b.id)
		}
	})
	return b
}

// running returns a container that sleeps.
func running(t testing.TB, edits ...func(*specs.Spec)) *box {
	t.Helper()
	b := newBox(t, "exec sleep 3600", edits...)
	b.ok("create", "--bundle", b.bundle, b.id)
	b.ok("start", b.id)
	return b
}

// outcome is how a command ended and what it said.
type outcome struct {
	status   int
	out, err string
}

func (b *box) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := []string{"--root", b.state}
	if systemd() {
		argv = append(argv, "--systemd-cgroup")
	}
	cmd := exec.CommandContext(ctx, os.Getenv("HULL_LIFE_RUNTIME"), append(argv, args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// do runs a command of the runtime. Its output goes to files: a container keeps what it is given open, and a pipe would
// have no end.
func (b *box) do(args ...string) outcome {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	if b.t.Context().Err() != nil { // cleaning up
		ctx, cancel = context.WithTimeout(context.Background(), patience)
	}
	defer cancel()
	cmd := b.command(ctx, args...)
	stdout, stderr := b.file("out"), b.file("err")
	defer stdout.Close()
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		b.t.Errorf("%s does not end", strings.Join(args, " "))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), b.written(stdout), b.written(stderr)}
}

// written returns what a program has written to a file. It may be the program's user's now, and not ours any more.
func (b *box) written(f *os.File) string {
	b.t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func (b *box) file(name string) *os.File {
	b.t.Helper()
	f, err := os.CreateTemp(b.bundle, name)
	if err != nil {
		b.t.Fatal(err)
	}
	return f
}

func (b *box) read(file string) string {
	b.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// ok is do for what must succeed. It returns the output.
func (b *box) ok(args ...string) string {
	b.t.Helper()
	got := b.do(args...)
	if got.status != 0 {
		b.t.Fatalf("%s: exit status %d\n%s\n%s", strings.Join(args, " "), got.status, got.out, got.err)
	}
	return got.out
}

// run runs the container to its end.
func (b *box) run() outcome {
	b.t.Helper()
	return b.do("run", "--bundle", b.bundle, b.id)
}

// sh runs a script in the running container.
func (b *box) sh(script string) string {
	b.t.Helper()
	return b.ok("exec", b.id, "sh", "-c", script)
}

type state struct {
	Status string `json:"status"`
	Pid    int    `json:"pid"`
}

func (b *box) stateNow() (s state) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.ok("state", b.id)), &s); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// wantStatus waits for a status.
func (b *box) wantStatus(want string) {
	b.t.Helper()
	eventually(b.t, "status "+want, func() bool { return b.stateNow().Status == want })
}

// cgroup returns the directory of the cgroup that the container's init is in.
func (b *box) cgroup() string {
	b.t.Helper()
	return cgroupOf(b.t, b.stateNow().Pid)
}

func cgroupOf(t testing.TB, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, path, _ := strings.Cut(string(data), "0::")
	return filepath.Join("/sys/fs/cgroup", strings.TrimSpace(path))
}

// wantFiles compares files of the container's cgroup with what must be in them.
func (b *box) wantFiles(want map[string]string) {
	b.t.Helper()
	dir := b.cgroup()
	for file, v := range want {
		if got := b.read(filepath.Join(dir, file)); got != v {
			b.t.Errorf("%s: %q, want %q", file, got, v)
		}
	}
}

// eventually waits for something that takes the kernel or systemd a moment.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("does not happen: ", what)
		}
	}
}

// host runs a program of the machine and returns its output.
func host(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// systemctl talks to the manager of the containers' units.
func systemctl(t testing.TB, args ...string) string {
	t.Helper()
	if rootless() {
		args = append([]string{"--user"}, args...)
	}
	return host(t, "systemctl", args...)
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func contains(t testing.TB, what, got string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(got, w) {
			t.Errorf("%s: %q doesn't say %q", what, got, w)
		}
	}
}

// resources edits linux.resources, which a configuration without root has not.
func resources(edit func(*specs.LinuxResources)) func(*specs.Spec) {
	return func(s *specs.Spec) {
		if s.Linux.Resources == nil {
			s.Linux.Resources = new(specs.LinuxResources)
		}
		edit(s.Linux.Resources)
	}
}

// without takes a namespace away.
func without(ns specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == ns })
	}
}

// hostProc has the container see the host's processes: who is no root can't mount them.
func hostProc(s *specs.Spec) {
	for i := range s.Mounts {
		if m := &s.Mounts[i]; m.Type == "proc" && rootless() {
			*m = specs.Mount{Destination: "/proc", Type: "none", Source: "/proc", Options: []string{"rbind"}}
		}
	}
}

// writableCgroup lets the container write to its cgroups.
func writableCgroup(s *specs.Spec) {
	for i := range s.Mounts {
		if m := &s.Mounts[i]; m.Type == "cgroup" {
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		}
	}
}

func ptr[T any](v T) *T { return &v }
