package engines

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"hull/internal/adopt"
)

// An installation is hull with the programs beside it, hull-s too, in a directory of its own.
type installation struct{ client }

// install copies the programs that lie beside RUNTIME.
func install(t testing.TB) installation {
	t.Helper()
	if filepath.Base(os.Getenv("RUNTIME")) != "hull" {
		t.Skip("hull alone installs itself")
	}
	dir := "/run/installed"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"hull", "hull-sandbox", "containerd-shim-hull-v1"} {
		program, err := os.ReadFile(filepath.Join(runtimeDir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), program, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("hull", filepath.Join(dir, adopt.Sandbox)); err != nil {
		t.Fatal(err)
	}
	return installation{client{argv: []string{filepath.Join(dir, "hull")}}}
}

// adopts has an engine know hull: it changes a file, once, and a dry run nothing. What it returns has the engine forget hull.
func (i installation) adopts(t testing.TB, engine, file string) (forget func(t testing.TB)) {
	t.Helper()
	read := func() []byte {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return text
	}
	before := read()
	i.ok(t, "install", "--dry-run", "--config", file, engine)
	if now := read(); !bytes.Equal(now, before) {
		t.Errorf("a dry run makes %s of %s", now, before)
	}
	if out := i.ok(t, "install", "--config", file, engine); !strings.Contains(out, "runtime "+adopt.Sandbox+" is added") {
		t.Errorf("install %s: %s", engine, out)
	}
	if out := i.ok(t, "install", "--config", file, engine); !strings.Contains(out, "nothing to change") {
		t.Errorf("install %s, again: %s", engine, out)
	}
	return func(t testing.TB) {
		t.Helper()
		i.ok(t, "uninstall", "--config", file, engine)
		if now := read(); !bytes.Equal(now, before) {
			t.Errorf("uninstall %s makes %s of what was %s", engine, now, before)
		}
	}
}

// isolated checks by the release of its kernel that a program runs where the runtime of a name has to run it.
func isolated(t testing.TB, name, release string) {
	t.Helper()
	var host syscall.Utsname
	if err := syscall.Uname(&host); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, c := range host.Release {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	if release == "" || (release != b.String()) != (name == adopt.Sandbox) {
		t.Errorf("by %s the kernel is %q, the host's is %q", name, release, b.String())
	}
}

var byName = []string{adopt.Hull, adopt.Sandbox}

// TestInstalled has hull install tell the engines of hull, with the configuration that they come with; they run containers by its names then, and
// have forgotten them after hull uninstall.
func TestInstalled(t *testing.T) {
	t.Run("podman", func(t *testing.T) {
		podman(t, contestants(t)[0]) // for its configuration and image
		clean(t)
		forget := install(t).adopts(t, "podman", "/etc/containers/containers.conf.d/50-hull.conf")
		p := client{argv: []string{"podman"}}
		for _, name := range byName {
			isolated(t, name, p.ok(t, "--runtime", name, "run", "--rm", "--network=none", imageName, "uname", "-r"))
		}
		forget(t)
		p.fails(t, 125, adopt.Sandbox, "--runtime", adopt.Sandbox, "run", "--rm", "--network=none", imageName, "true")
	})
	t.Run("docker", func(t *testing.T) {
		need(t, "dockerd", "docker", "containerd")
		clean(t)
		d := startPlainDocker(t, "/run/dockerd-installed", "--bridge=none")
		defer func() { d.stop(t) }()
		forget := install(t).adopts(t, "docker", "/etc/docker/daemon.json")
		known := []string{"info", "-f", `{{range $name, $_ := .Runtimes}}{{if eq $name "hull-s"}}yes{{end}}{{end}}`}
		d.says(t, "", known...)
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil { // systemctl reload docker
			t.Fatal(err)
		}
		d.become(t, "yes", known...)
		for _, name := range byName {
			isolated(t, name, d.ok(t, "run", "--rm", "--network=none", "--runtime="+name, imageName, "uname", "-r"))
		}
		forget(t)
		d.stop(t)
		d = startPlainDocker(t, "/run/dockerd-installed", "--bridge=none")
		d.says(t, "", known...)
	})
	for _, r := range releases() {
		t.Run(r.name, func(t *testing.T) {
			need(t, "containerd", "ctr", "containerd-shim-runc-v2")
			for what, config := range map[string]string{"package": packagedConfig, "default": defaultConfig(t, r)} {
				t.Run(what, func(t *testing.T) { testInstalledContainerd(t, r, config) })
			}
		})
	}
}

// packagedConfig is what Debian's containerd comes with.
const packagedConfig = `version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = ""
    restrict_oom_score_adj = false
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
`

// defaultConfig is what containerd config default says.
func defaultConfig(t testing.TB, r release) string {
	t.Helper()
	out, err := exec.Command(r.program("containerd"), "config", "default").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// changed are the settings that the tests' machine needs, in the words of each version.
var changed = []struct {
	setting *regexp.Regexp
	to      string
}{
	{regexp.MustCompile(`(?m)^( *sandbox(?:_image)?) = ['"].*['"]$`), `$1 = "` + pauseName + `"`},
	{regexp.MustCompile(`(?m)^( *restrict_oom_score_adj) = false$`), `$1 = true`},
	{regexp.MustCompile(`(?m)^( *bin_dir) = ['"]/opt/cni/bin['"]$`), `$1 = "/usr/lib/cni"`},
	{regexp.MustCompile(`(?m)^( *bin_dirs) = .*$`), `$1 = ["/usr/lib/cni"]`},
	{regexp.MustCompile(`(?m)^( *path) = ['"]/opt/containerd['"]$`), `$1 = "/run/containerd-opt"`},
}

func testInstalledContainerd(t *testing.T, r release, config string) {
	clean(t)
	for _, c := range changed {
		config = c.setting.ReplaceAllString(config, c.to)
	}
	d := newContainerd(t, r, t.TempDir(), config)
	hull := install(t)
	hull.env = []string{"PATH=" + strings.TrimPrefix(r.bin+":"+os.Getenv("PATH"), ":")}
	forget := hull.adopts(t, "containerd", d.dir+"/config.toml")
	d.start(t)
	defer func() { d.end(t, os.Interrupt) }()
	d.importImages(t)
	crictl := crictlOf(t, d)
	pods := make(map[string]*pod)
	containers := make(map[string]string)
	for _, name := range byName {
		pods[name] = runPod(t, crictl, contestant{name: name}, nil)
		containers[name] = pods[name].start(t, nil, "sh", "-c", sleeps)
	}
	for range 2 {
		for _, name := range byName {
			isolated(t, name, crictl.ok(t, "exec", "-s", containers[name], "uname", "-r"))
		}
		d.end(t, syscall.SIGKILL)
		d.start(t)
		crictl.become(t, "true", "info", "-o", "go-template", "--template", networkReady)
	}
	for _, name := range byName {
		crictl.ok(t, "rmp", "-f", pods[name].id)
	}
	forget(t)
}
