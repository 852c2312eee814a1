package engines

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hull/hulltest/machine"
)

// clean fails the test if, at its end, something of a container is left: processes of a runtime, cgroups, states, mounts. An
// engine takes containers apart after it has answered, so that all of it may take a moment.
func clean(t *testing.T) {
	before := mounts(t)
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			left = append(runtimeProcesses(), containerCgroups(t)...)
			left = append(left, states()...)
			for m := range mounts(t) {
				if !before[m] {
					left = append(left, "mount "+m)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	})
}

// runtimeProcesses are those whose program lies beside RUNTIME and has hull's name, or RUNTIME's.
func runtimeProcesses() (left []string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err != nil {
			continue
		}
		base := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
		if base == filepath.Base(os.Getenv("RUNTIME")) || base == "hull-sandbox" || base == "hull-net" || base == "containerd-shim-hull-v1" {
			line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
			left = append(left, "process "+e.Name()+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

// containerCgroups are those below the directories that engines make and keep.
func containerCgroups(t testing.TB) (left []string) {
	t.Helper()
	if emulated {
		return scopes()
	}
	hier, err := machine.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for dir := range hier {
		engines, _ := os.ReadDir(dir)
		for _, e := range engines {
			groups, _ := os.ReadDir(filepath.Join(dir, e.Name()))
			for _, g := range groups {
				// Podman keeps the cgroups of its monitors and, in some hierarchies, of its pods; their names are ids.
				if g.IsDir() && (e.Name() != "libpod_parent" || strings.HasPrefix(g.Name(), "libpod-")) {
					procs, _ := os.ReadFile(filepath.Join(dir, e.Name(), g.Name(), "cgroup.procs"))
					left = append(left, "cgroup "+filepath.Join(dir, e.Name(), g.Name())+" "+strings.ReplaceAll(string(procs), "\n", " "))
				}
			}
		}
	}
	return left
}

// states are hull's records of containers.
func states() (left []string) {
	_ = filepath.WalkDir("/run", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil
		case d.IsDir() && (path == runtimeDir || d.Name() == "rootfs" || d.Name() == "netns"):
			return fs.SkipDir
		case !d.IsDir() && (d.Name() == "state.copy" || d.Name() == "state" || d.Name() == "config.json" && filepath.Dir(filepath.Dir(path)) == "/run/hull"):
			left = append(left, "state "+path)
		}
		return nil
	})
	return left
}

// mounts are the mount points of the tests' namespace that containers have.
func mounts(t testing.TB) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		// Of the engines themselves: directories made private, and Docker's handle on its network namespaces' directory.
		if len(f) > 4 && (strings.Contains(f[4], "/merged") || strings.Contains(f[4], "/rootfs") || strings.Contains(f[4], "/shm")) {
			all[f[4]] = true
		}
	}
	return all
}
