package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
)

// TestRootOfUserNamespace calls hull as Podman does for an ordinary user: as root of a user namespace, with that user's
// environment, where no cgroup can be made.
func TestRootOfUserNamespace(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS)
	const user = 65534
	bundle := hulltest.Bundle(t, func(s *specs.Spec) {
		s.Process.Args = hulltest.Args("exit", "7")
		s.Linux.CgroupsPath, s.Linux.Resources = "", nil
		for i := range s.Mounts {
			if s.Mounts[i].Type == "cgroup" {
				s.Mounts = append(s.Mounts[:i], s.Mounts[i+1:]...)
				break
			}
		}
	})
	dir, err := os.MkdirTemp("", "run-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(hulltest.HullBinary(t), "run", "--bundle", bundle, "rootless")
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "USER=someone")
	cmd.Dir = "/"
	// As many as a login has of its own beside its id.
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: user, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	out, err := cmd.CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 7 {
		t.Fatalf("%v, want exit status 7\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "hull")); err != nil {
		t.Errorf("the states are elsewhere: %v", err)
	}
	// Standard error is the program's, and its engine's log.
	if len(out) > 0 {
		t.Errorf("hull says: %s", out)
	}
}
