package engines

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// crioPrograms names a directory with crio and pinns; else they are those of PATH.
const crioPrograms = "HULL_TEST_CRIO"

// crioConfig has CRI-O share Podman's images, as it does where both are installed. What runtimes there are is for hull install to say.
const crioConfig = `[crio]
root = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
storage_driver = "overlay"
log_dir = "/var/log/crio/pods"
version_file = "/run/crio/version"
version_file_persist = ""
clean_shutdown_file = "/run/crio/clean"
[crio.api]
listen = "/run/crio/crio.sock"
[crio.runtime]
default_runtime = "hull"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = %q
hooks_dir = []
[crio.image]
pause_image = %q
pause_command = ""
signature_policy = "/etc/containers/policy.json"
namespaced_auth_dir = "/run/crio/auth"
signature_policy_dir = "/run/crio/policies"
[crio.network]
network_dir = "/etc/cni/net.d"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = false
`

// TestCRIO has CRI-O run pods by both names that hull install has told it.
func TestCRIO(t *testing.T) {
	dir := os.Getenv(crioPrograms)
	find := func(name string) string { return filepath.Join(dir, name) }
	if dir == "" {
		hulltest.Require(t, hulltest.Command("crio"), hulltest.Command("pinns"))
		find = func(name string) string { path, _ := exec.LookPath(name); return path }
	}
	p := podman(t, contestants(t)[0])
	p.ok(t, "import", "--change", `CMD ["/bin/sh", "-c", "`+sleeps+`"]`, "--change", "ENV PATH=/bin", rootfs(t), pauseName)
	clean(t)
	for file, text := range map[string]string{
		"/run/etc-crio/crio.conf":         fmt.Sprintf(crioConfig, find("pinns"), pauseName),
		"/etc/cni/net.d/10-pods.conflist": cniConfig,
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hull := install(t)
	forget := hull.adopts(t, "crio", "/run/etc-crio/crio.conf.d/50-hull.conf")
	if !hasCapSysResource(t) {
		lowerScores(t, filepath.Dir(hull.argv[0]))
	}
	crictl := crictlAt(t, "/run/crio/crio.sock")
	d := daemon(t, "/run/crio.log", find("crio"), "--config", "/run/etc-crio/crio.conf", "--config-dir", "/run/etc-crio/crio.conf.d")
	defer func() {
		_ = d.Process.Signal(os.Interrupt)
		defer time.AfterFunc(soon, func() { t.Error("crio: not ended"); _ = d.Process.Kill() }).Stop()
		_ = d.Wait()
		if t.Failed() {
			text, _ := os.ReadFile("/run/crio.log")
			t.Logf("%s", text[max(0, len(text)-20000):])
		}
	}()
	crictl.ready(t, "/run/crio.log", "version")
	for _, name := range byName {
		t.Run(name, func(t *testing.T) {
			clean(t)
			testPod(t, crictl, contestant{name: name})
			p := runPod(t, crictl, contestant{name: name}, nil)
			isolated(t, name, crictl.ok(t, "exec", "-s", p.start(t, nil, "sh", "-c", sleeps), "uname", "-r"))
			crictl.ok(t, "rmp", "-f", p.id)
		})
	}
	forget(t)
}

// hasCapSysResource tells whether this root may lower the score by which the kernel chooses whom to kill when memory is short.
func hasCapSysResource(t testing.TB) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\nCapEff:\t")
	var caps uint64
	if _, err := fmt.Sscanf(after, "%x", &caps); err != nil {
		t.Fatal(err)
	}
	return caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// lowerScores puts a script in the place of hull by each of its names, which has the first container of a pod get a score that this root can give: CRI-O
// asks for -998, and has no such setting as containerd's restrict_oom_score_adj.
func lowerScores(t testing.TB, dir string) {
	t.Helper()
	real := filepath.Join(dir, "real")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == filepath.Base(real) {
			continue
		}
		if err := os.Rename(filepath.Join(dir, e.Name()), filepath.Join(real, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range byName {
		script := fmt.Sprintf(`#!/bin/sh
for arg; do
	[ "$last" != --bundle ] || sed -i 's/"oomScoreAdj": *-998/"oomScoreAdj": 0/' "$arg/config.json"
	last=$arg
done
exec %s/%s "$@"
`, real, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
