package hull_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func TestIDs(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t)
	for _, id := range []string{"", ".", "..", "a/b", "/", "../x", strings.Repeat("x", 1000), "a b", "a\x00b", "ä", "a\n", "@"} {
		_, err := r.Create(t.Context(), id, hull.CreateOptions{Bundle: bundle})
		refused(t, err, hull.ErrBadUsage, "container id")
		_, err = r.Container(id)
		refused(t, err, hull.ErrBadUsage, "container id")
		refused(t, r.Delete(t.Context(), id, hull.DeleteOptions{Force: true}), hull.ErrBadUsage)
	}
	for _, id := range []string{"a", "A.b_c+d-1", "...", "-", strings.Repeat("y", 255)} {
		c, err := r.Run(t.Context(), id, hull.CreateOptions{Bundle: bundle})
		if err != nil {
			t.Errorf("%.20s: %v", id, err)
			continue
		}
		wait(t, c.Init())
		if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestIDTaken(t *testing.T) {
	r := newRuntime(t)
	c := runningIn(t, r)
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	refused(t, err, hull.ErrExist, "create box", "exists")
	wantStatus(t, c, hull.Running)
}

// Who forgets that the container is there is told so, and not about the cgroup that the bundle's second one would have.
func TestSameBundleTwice(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("sleep", "3600"))
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, r, c) })
	_, err = r.Create(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	refused(t, err, hull.ErrExist, "create box", "exists")
	wantStatus(t, c, hull.Running)
}

// Without systemd its driver is refused before anything is made that it would be needed for to take away.
func TestSystemdDriverWithoutSystemd(t *testing.T) {
	if hulltest.Systemd.Check() == nil {
		t.Skip("needs a machine without systemd")
	}
	r := newRuntime(t)
	r.SystemdCgroup = true
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, func(s *specs.Spec) { s.Linux.CgroupsPath = "" })})
	refused(t, err, hull.ErrUnsupported, "create box", "systemd")
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Error(err)
	}
}

// The section linux is optional: without it the container has all namespaces of the caller.
func TestWithoutLinuxSection(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("sleep", "3600"), func(s *specs.Spec) { s.Linux, s.Mounts, s.Hostname = nil, nil, "" })
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	wantStatus(t, c, hull.Running)
}

// Of two that want the same id at the same time one gets it.
func TestIDTakenAtTheSameTime(t *testing.T) {
	r := newRuntime(t)
	const n = 8
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		bundle := hulltest.Bundle(t, args("sleep", "3600"))
		group.Go(func() {
			var c *hull.Container
			if c, errs[i] = r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle}); errs[i] == nil {
				remove(t, r, c)
			}
		})
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, hull.ErrExist) {
			t.Error(err)
		}
	}
	expect(t, 1, won)
}

func TestConfigurationThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		name  string
		edit  func(*specs.Spec)
		kind  error
		words []string
	}{
		{"no root file system", func(s *specs.Spec) { s.Root.Path = "nowhere" }, unix.ENOENT, []string{"root.path", "nowhere"}},
		{"no arguments", func(s *specs.Spec) { s.Process.Args = nil }, hull.ErrBadSpec, []string{"process.args"}},
		{"no version", func(s *specs.Spec) { s.Version = "" }, hull.ErrBadSpec, []string{"ociVersion"}},
		{"another version", func(s *specs.Spec) { s.Version = "2.0.0" }, nil, []string{"ociVersion", "2.0.0"}},
		{"unknown namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "x"})
		}, hull.ErrBadSpec, []string{"linux.namespaces"}},
		{"bind of nothing", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/nonexistent/x", Options: []string{"bind"}})
		}, unix.ENOENT, []string{"mounts[7]", "/nonexistent/x"}},
		{"selinux", func(s *specs.Spec) { s.Process.SelinuxLabel = "x" }, hull.ErrUnsupported, []string{"process.selinuxLabel"}},
		{"apparmor", func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }, nil, []string{"process.apparmorProfile"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), test.edit)
			refused(t, err, test.kind, append(test.words, "run box")...)
		})
	}
}

func TestMissingConfig(t *testing.T) {
	r := newRuntime(t)
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: t.TempDir()})
	refused(t, err, os.ErrNotExist, "create box", "config.json")
	_, err = r.Create(t.Context(), "box", hull.CreateOptions{Bundle: "/nonexistent"})
	refused(t, err, os.ErrNotExist, "/nonexistent")
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Error(err)
	}
}

// A spec that is given replaces the file, by the same rules.
func TestSpecInsteadOfConfig(t *testing.T) {
	r := newRuntime(t)
	var given *specs.Spec
	bundle := hulltest.Bundle(t, args("exit", "1"), func(s *specs.Spec) { given = s })
	c := *given
	p := *given.Process
	p.Args, c.Process = hulltest.Args("echo", "given"), &p
	got, err := tryRunWith(t, r, hull.CreateOptions{Bundle: bundle, Spec: &c})
	if err != nil {
		t.Fatal(err)
	}
	says(t, got, "given")
	c.Hostname, p.Cwd = "x", "relative"
	_, err = r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Spec: &c})
	refused(t, err, hull.ErrBadSpec, "process.cwd")
}

// The configuration is that of the creation, whatever becomes of the bundle.
func TestConfigIsKept(t *testing.T) {
	r := newRuntime(t)
	c := create(t, r, hull.CreateOptions{}, args("sleep", "3600"))
	s, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Bundle, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := r.Container("box")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, c.Spec(), again.Spec())
	if err := again.Start(t.Context()); err != nil {
		t.Error(err)
	}
	spec := again.Spec()
	spec.Process.Args[0] = "changed"
	if again.Spec().Process.Args[0] == "changed" {
		t.Error("Spec is no copy")
	}
}

var unsharedCount int

// unshared returns a bundle's configuration with another cgroup, so that it can be used more than once.
func unshared(t testing.TB, bundle string) *specs.Spec {
	t.Helper()
	s := readSpec(t, bundle)
	unsharedCount++
	s.Linux.CgroupsPath += "-" + strconv.Itoa(unsharedCount)
	return s
}

func TestStateDirectoryThatCannotBe(t *testing.T) {
	r := newRuntime(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Root = filepath.Join(file, "state")
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	refused(t, err, unix.ENOTDIR, "create box", "state directory")
}

// A state directory without room must not cost more than the creation.
func TestStateDirectoryFull(t *testing.T) {
	for _, options := range []string{"size=4k,nr_inodes=100", "nr_inodes=3", "ro"} {
		t.Run(options, func(t *testing.T) {
			r := newRuntime(t)
			if err := os.Mkdir(r.Root, 0o700); err != nil {
				t.Fatal(err)
			}
			var flags uintptr
			data := options
			if options == "ro" {
				flags, data = unix.MS_RDONLY, ""
			}
			if err := unix.Mount("none", r.Root, "tmpfs", flags, data); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := unix.Unmount(r.Root, 0); err != nil {
					t.Error(err)
				}
			}()
			_, err := tryRun(t, r)
			want := unix.ENOSPC
			if options == "ro" {
				want = unix.EROFS
			}
			refused(t, err, want, "run box")
		})
	}
}

// What is cancelled before it is done leaves nothing.
func TestCreateCancelled(t *testing.T) {
	r := newRuntime(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := r.Create(ctx, "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	if err == nil {
		remove(t, r, c)
		t.Fatal("a creation goes on when its context has ended")
	}
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.Root, "[^@]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// So does what is cancelled while it is done, up to its last step.
func TestCreateCancelledMeanwhile(t *testing.T) {
	bundle := hulltest.Bundle(t, args("sleep", "3600"))
	for name, create := range map[string]func(*hull.Runtime, context.Context, string, hull.CreateOptions) (*hull.Container, error){
		"create": (*hull.Runtime).Create, "run": (*hull.Runtime).Run,
	} {
		t.Run(name, func(t *testing.T) {
			lines := 0
			for _, part := range []int{0, 1, 2, 3, 4} {
				r := newRuntime(t)
				ctx, cancel := context.WithCancel(t.Context())
				told, last := 0, lines*part/4
				r.Trace = func(string) {
					if told++; part > 0 && told == last {
						cancel()
					}
				}
				c, err := create(r, ctx, "box", hull.CreateOptions{Bundle: bundle})
				cancel()
				if part == 0 {
					lines = told
					if err != nil {
						t.Fatal(errorText(err))
					}
				} else if !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled at line %d of %d: %v", last, lines, err)
				} else if left, _ := filepath.Glob(filepath.Join(r.Root, "*")); len(left) > 0 {
					t.Errorf("cancelled at line %d of %d: left %v", last, lines, left)
				}
				if err == nil {
					if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
						t.Error(err)
					}
					_, _ = c.Init().Wait()
				}
			}
		})
	}
}
