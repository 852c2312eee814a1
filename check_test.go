package hull_test

import (
	"cmp"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// What Check refuses Create refuses, too, with the mistake in the same field. And Check makes nothing.
func TestCheck(t *testing.T) {
	r := newRuntime(t)
	for _, c := range []struct {
		name string
		edit func(*specs.Spec)
		kind error
		says string
	}{
		{"as an engine writes it", func(*specs.Spec) {}, nil, ""},
		{"mistake of the file", func(s *specs.Spec) { s.Process.Cwd = "here" }, hull.ErrBadSpec, "process.cwd"},
		{"no root", func(s *specs.Spec) { s.Root.Path = "gone" }, unix.ENOENT, "root.path"},
		{"root that is a file", func(s *specs.Spec) { s.Root.Path = "config.json" }, unix.ENOTDIR, "root.path"},
		{"no source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/none", Options: []string{"bind"}})
		}, unix.ENOENT, `"/x"`},
		{"no hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/none"}}} }, unix.ENOENT, "hooks.createRuntime[0]"},
		{"hook that is a directory", func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/"}}} }, unix.EACCES, "hooks.createRuntime[0]"},
		{"no such sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.none": "1"} }, nil, "linux.sysctl"},
		{"seccomp", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 9, Op: specs.OpEqualTo}}}}}
		}, nil, "linux.seccomp.syscalls[0].args[0].index"},
		{"limit", func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}}
		}, nil, "linux.resources.hugepageLimits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := hull.CreateOptions{Bundle: hulltest.Bundle(t, c.edit)}
			before, _ := os.ReadDir(r.Root) // a pool is there; else there is nothing
			isolation, err := r.Check(t.Context(), o)
			if after, _ := os.ReadDir(r.Root); len(after) != len(before) {
				t.Errorf("made: %v, before it %v", after, before)
			}
			if c.says == "" {
				if err != nil || isolation != cmp.Or(r.Isolation, hull.Native) {
					t.Errorf("%q, %v", isolation, err)
				}
				return
			}
			refused(t, err, c.kind, c.says)
			_, err = r.Create(t.Context(), "x", o)
			refused(t, err, c.kind, c.says)
		})
	}
}

// All that is wrong is told at once, and a cgroup that is in use isn't.
func TestCheckTellsAll(t *testing.T) {
	c := running(t)
	state, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	o := hull.CreateOptions{Bundle: state.Bundle, Spec: c.Spec()}
	r, s := newRuntime(t), o.Spec
	if _, err := r.Check(t.Context(), o); err != nil {
		t.Error(errorText(err))
	}
	s.Root.Path = "/none/root"
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/none/x", Options: []string{"bind"}})
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/none/hook"}}}
	s.Linux.Resources = &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}}
	_, err = r.Check(t.Context(), o)
	refused(t, err, unix.ENOENT, "/none/root", "/none/x", "/none/hook", "hugepageLimits")
}

// Without a place for its cgroup the rest is told, too.
func TestCheckWithoutAPlace(t *testing.T) {
	r := newRuntime(t)
	r.SystemdCgroup = true
	_, err := r.Check(t.Context(), hull.CreateOptions{Bundle: hulltest.Bundle(t, func(s *specs.Spec) {
		s.Linux.CgroupsPath = "nowhere"
		s.Linux.Resources = &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_NONE"}
	})})
	refused(t, err, hull.ErrBadSpec, "linux.cgroupsPath", "hugepageLimits", "linux.seccomp.defaultAction")
	if n := strings.Count(errorText(err), "linux.cgroupsPath"); n != 1 {
		t.Errorf("told %d times: %v", n, err)
	}
}
