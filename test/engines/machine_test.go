package engines

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// emulated says that the tests have a machine of their own, with systemd and cgroup v2 alone: test/vm starts them so. Then they
// make no namespaces, and the engines have systemd make their cgroups. Such a machine is emulated, and slow.
var emulated = os.Getenv("HULL_TEST_ENGINES_MACHINE") != ""

func cgroupManager() string {
	if emulated {
		return "systemd"
	}
	return "cgroupfs"
}

// inMachine runs the tests in such a machine.
func inMachine(m *testing.M) (int, error) {
	patience, soon = 5*patience, 5*soon
	userHome = "/home/user"
	for _, dir := range []string{runtimeDir, "/run/home"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	if err := syscall.Mount(filepath.Dir(os.Getenv("RUNTIME")), runtimeDir, "", syscall.MS_BIND, ""); err != nil {
		return 0, fmt.Errorf("mount %s: %w", runtimeDir, err)
	}
	if err := setEnvironment(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// scopes are the cgroups that systemd has made for containers.
func scopes() (left []string) {
	_ = filepath.WalkDir(cgroups, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		name := d.Name()
		if strings.HasPrefix(name, "libpod-") && !strings.HasPrefix(name, "libpod-conmon-") || strings.HasPrefix(name, "docker-") {
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			left = append(left, "cgroup "+path+" "+strings.ReplaceAll(string(procs), "\n", " "))
		}
		return nil
	})
	return left
}
