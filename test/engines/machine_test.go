package engines

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	userHome = "/home/user"
	for _, dir := range []string{runtimeDir, "/run/home"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	if err := syscall.Mount(filepath.Dir(os.Getenv("RUNTIME")), runtimeDir, "", syscall.MS_BIND, ""); err != nil {
		return 0, fmt.Errorf("mount %s: %w", runtimeDir, err)
	}
	// Else a later run's mount over it propagates to the one that it covers, and each run doubles them.
	if err := syscall.Mount("", runtimeDir, "", syscall.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("mount private %s: %w", runtimeDir, err)
	}
	if err := setEnvironment(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// scopePrefixes are those of the names of units that engines have systemd make for containers.
var scopePrefixes = []string{"libpod-", "docker-", "cri-containerd-", "ctr-"}

// scopes are the cgroups that systemd has made for containers.
func scopes() (left []string) {
	_ = filepath.WalkDir(cgroups, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		name := d.Name()
		ofEngine := slices.ContainsFunc(scopePrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if ofEngine && !strings.HasPrefix(name, "libpod-conmon-") {
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			left = append(left, "cgroup "+path+" "+strings.ReplaceAll(string(procs), "\n", " "))
		}
		return nil
	})
	return left
}

// unitProperties are what systemd calls limits that it keeps itself, so that it doesn't take them back.
var unitProperties = map[string]func(want string) string{
	"memory.max": func(want string) string { return "MemoryMax=" + want },
	"pids.max":   func(want string) string { return "TasksMax=" + want },
	"cpu.max": func(want string) string {
		quota, _, _ := strings.Cut(want, " ")
		return "CPUQuotaPerSecUSec=" + strings.TrimSuffix(quota, "00") + "ms"
	},
}

// unitSays checks that a cgroup is that of a scope of systemd's, which knows of the limit.
func unitSays(t testing.TB, cgroup, file, want string) {
	t.Helper()
	unit := filepath.Base(cgroup)
	if !strings.HasSuffix(unit, ".scope") {
		t.Errorf("cgroup %s: none of a scope", cgroup)
		return
	}
	property := unitProperties[file](want)
	name, _, _ := strings.Cut(property, "=")
	argv := []string{"systemctl", "show", "--property", name, unit}
	if strings.Contains(cgroup, "/user@1000.service/") {
		argv = append(argv, "--user", "--machine", "user@.host")
	}
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != property {
		t.Errorf("%v: %q, %v, want %s", argv, got, err, property)
	}
}
