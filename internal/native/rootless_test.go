package native_test

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
	"hull/spec"
)

const nobody = 65534

// rootless returns a command line of hull's for a user without privileges.
func rootless(t *testing.T, args ...string) (string, int) {
	t.Helper()
	return rootlessIn(t, rootlessDir(t), args...)
}

// rootlessDir returns a directory for states that the user may write to.
func rootlessDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hull-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir
}

func rootlessIn(t *testing.T, dir string, args ...string) (string, int) {
	t.Helper()
	cmd := hull(t, nil, args...)
	cmd.Args[2] = dir
	return output(t, as(cmd, syscall.Credential{Uid: nobody, Gid: nobody}))
}

// asNobody edits a configuration to one that nobody may run.
func asNobody(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: nobody, Size: 1}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
	s.Linux.CgroupsPath, s.Linux.Resources = "", nil
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "devpts" })
}

// The offsets of a time namespace are written to a file of the process that has made it, which must be the user's, and
// before anyone is in it.
func TestTimeOffsetsWithoutRoot(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS, hulltest.TimeNS)
	bundle := hulltest.Bundle(t, asNobody, func(s *specs.Spec) {
		s.Process.Args = hulltest.Args("cat", "/proc/self/timens_offsets")
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1234567, Nanosecs: 89}}
	})
	out, status := rootless(t, "run", "--bundle", bundle, "c")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	contains(t, out, []string{"boottime      1234567        89"}, nil)
}

// What a container without root does without is told.
func TestWarnsOfCgroup(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS)
	out, status := rootless(t, "run", "--bundle", hulltest.Bundle(t, asNobody), "c")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	contains(t, out, []string{"no cgroup", ": mkdir ", "permission denied"}, nil)
}

// What `hull spec --rootless` writes runs as it is, whichever cgroups the user has.
func TestRootlessExample(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS)
	bundle := hulltest.Bundle(t, func(s *specs.Spec) {
		*s = *spec.Example(spec.Options{Rootless: true, CgroupV1: hulltest.CgroupV1.Check() == nil, Args: hulltest.Args("echo", "here")})
		s.Process.Terminal = false
		s.Linux.UIDMappings[0].HostID, s.Linux.GIDMappings[0].HostID = nobody, nobody
	})
	out, status := rootless(t, "run", "--bundle", bundle, "c")
	if status != 0 || !strings.Contains(out, "here\n") {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// runDetached runs a container that has no output anybody would wait for.
func runDetached(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := as(hull(t, nil, append([]string{"run", "--detach"}, args...)...), syscall.Credential{Uid: nobody, Gid: nobody})
	cmd.Args[2] = dir
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

// A container without a cgroup is killed by its first process. What needs all of its processes is refused, rather than
// done for none of them.
func TestKillWithoutCgroup(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS)
	for _, test := range []struct {
		name   string
		edit   func(*specs.Spec)
		all    int // status of kill --all KILL
		warned bool
	}{
		{"pid namespace", func(*specs.Spec) {}, 0, false},
		{"no pid namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "proc" })
		}, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := rootlessDir(t)
			hull := func(want int, args ...string) string {
				t.Helper()
				out, status := rootlessIn(t, dir, args...)
				if status != want {
					t.Errorf("%q: status %d, want %d: %s", args, status, want, out)
				}
				return out
			}
			bundle := hulltest.Bundle(t, asNobody, test.edit, func(s *specs.Spec) { s.Process.Args = hulltest.Args("sleep", "3600") })
			runDetached(t, dir, "--bundle", bundle, "c")
			contains(t, hull(1, "kill", "--all", "c", "TERM"), []string{"no cgroup"}, nil)
			contains(t, hull(1, "ps", "--format", "json", "c"), []string{"no cgroup"}, nil)
			out := hull(test.all, "kill", "--all", "c", "KILL")
			if test.all != 0 {
				out = hull(0, "kill", "c", "KILL")
			}
			if test.warned != strings.Contains(out, "may be left") {
				t.Errorf("kill says %q", out)
			}
			state := ""
			for range 100 {
				if state = hull(0, "state", "c"); strings.Contains(state, `"stopped"`) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			contains(t, state, []string{`"stopped"`}, nil)
			hull(0, "delete", "--force", "c")
		})
	}
}
