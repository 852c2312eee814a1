package engines

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A containerd is a daemon and its command line.
type containerd struct {
	client
	dir string
	bin string // the directory of its programs, "" for those of PATH
	cmd *exec.Cmd
}

// A release is a containerd that is there: of the distribution, and what make builds through Go's module proxy.
type release struct {
	name, bin string
	pods      bool // its shims can make pods by themselves
}

// releases are those that are there, the newest at the end.
func releases() []release {
	all := []release{{name: "installed"}}
	if bin := os.Getenv(containerd17Dir); bin != "" {
		all = append(all, release{name: "1.7", bin: bin})
	}
	if bin := os.Getenv(containerdDir); bin != "" {
		all = append(all, release{name: "newest", bin: bin, pods: true})
	}
	return all
}

func newestRelease() release { all := releases(); return all[len(all)-1] }

// containerdDir names a directory with the newest containerd and the programs of CRI, containerd17Dir one with containerd 1.7.
const (
	containerdDir   = "HULL_TEST_CONTAINERD"
	containerd17Dir = "HULL_TEST_CONTAINERD_1_7"
)

func (r release) program(name string) string {
	if r.bin == "" {
		return name
	}
	return filepath.Join(r.bin, name)
}

// containerdConfig is version 2, which all releases read. Without restrict_oom_score_adj a root without CAP_SYS_RESOURCE
// can't start a container of CRI.
//
// hull's shim is there a second time for a containerd that can have it make the pods themselves, by names with the suffix -pods.
func containerdConfig(all []contestant, pods bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = %q
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
`, pauseName, all[0].name)
	for _, c := range all {
		if c.shim() {
			fmt.Fprintf(&b, "  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%q]\n    runtime_type = %q\n", c.name, c.path)
			if emulated {
				option := "systemd_cgroup = true"
				if !pods { // 1.6 passes nothing else on
					option = fmt.Sprintf("ConfigPath = %q", shimOptions)
				}
				fmt.Fprintf(&b, "    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%q.options]\n      %s\n", c.name, option)
			}
			if pods {
				fmt.Fprintf(&b, "  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%q]\n    runtime_type = %q\n    sandboxer = \"shim\"\n", c.name+podsSuffix, c.path)
				if emulated {
					fmt.Fprintf(&b, "    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%q.options]\n      systemd_cgroup = true\n", c.name+podsSuffix)
				}
			}
			continue
		}
		fmt.Fprintf(&b, `  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.%q]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.%q.options]
      BinaryName = %q
      SystemdCgroup = %t
`, c.name, c.name, c.path, emulated)
	}
	return b.String()
}

// podsSuffix is that of the names of runtimes whose shims make pods.
const podsSuffix = "-pods"

// startContainerd starts a daemon with its files below a directory, and the image in the namespaces that tests use.
func startContainerd(t testing.TB, r release, dir string) *containerd {
	t.Helper()
	return startContainerdWith(t, r, dir, containerdContestants(t))
}

// startContainerdWith starts one whose CRI knows these runtimes.
func startContainerdWith(t testing.TB, r release, dir string, all []contestant) *containerd {
	t.Helper()
	c := newContainerd(t, r, dir, containerdConfig(all, r.pods)+fmt.Sprintf("[plugins.\"io.containerd.internal.v1.opt\"]\n  path = %q\n", dir+"/opt"))
	c.start(t)
	c.importImages(t)
	return c
}

// newContainerd makes one with a configuration; it isn't started.
func newContainerd(t testing.TB, r release, dir, config string) *containerd {
	t.Helper()
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	c := &containerd{dir: dir, bin: r.bin}
	// Of a busy machine's ten seconds, ctr's own, a daemon may have none.
	c.argv = []string{r.program("ctr"), "--address", dir + "/socket", "--connect-timeout", patience.String()}
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

// importImages puts the images into the namespaces that tests use.
func (c *containerd) importImages(t testing.TB) {
	t.Helper()
	for _, namespace := range []string{"default", "k8s.io"} {
		c.ok(t, "--namespace", namespace, "image", "import", layout(t))
	}
}

// start starts the daemon, for the first time or again.
func (c *containerd) start(t testing.TB) {
	t.Helper()
	r := release{bin: c.bin}
	argv := []string{r.program("containerd"), "--config", c.dir + "/config.toml", "--root", "/var/lib/containerd" + c.dir, "--state", c.dir + "/state", "--address", c.dir + "/socket"}
	argv = append([]string{"env", "PATH=" + strings.TrimPrefix(c.bin+":"+shimDir+":"+os.Getenv("PATH"), ":")}, argv...)
	c.cmd = daemon(t, c.dir+"/log", argv...)
	c.ready(t, c.dir+"/log", "version")
}

// end ends the daemon; containers go on.
func (c *containerd) end(t testing.TB, signal os.Signal) {
	t.Helper()
	_ = c.cmd.Process.Signal(signal)
	done := make(chan error, 1)
	go func() { done <- c.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(soon):
		_ = c.cmd.Process.Kill()
		t.Errorf("%v: not ended", c.cmd.Args)
	}
}

// shimDir is where hull's shim is by its two names; shimOptions has it use systemd's cgroups.
const (
	shimDir     = "/run/shims"
	shimOptions = shimDir + "/systemd.toml"
)

// containerdContestants are the contestants, which runc's shim runs, and hull's own shim by its two names, where it is beside
// RUNTIME.
func containerdContestants(t testing.TB) []contestant {
	t.Helper()
	all := contestants(t)
	shim := filepath.Join(runtimeDir, "containerd-shim-hull-v1")
	if _, err := os.Stat(shim); err != nil {
		return all
	}
	if err := os.MkdirAll(shimDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shimOptions, []byte("systemd_cgroup = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hull", "hull-sandbox"} {
		if err := os.Symlink(shim, filepath.Join(shimDir, "containerd-shim-"+name+"-v1")); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		all = append(all, contestant{strings.Replace(name, "hull", "shim", 1), "io.containerd." + name + ".v1"})
	}
	return all
}

// shim tells whether hull's shim runs the contestant.
func (c contestant) shim() bool { return strings.HasPrefix(c.name, "shim") }

// runtime are the options that choose the contestant for ctr run.
func (c contestant) runtime() string {
	if c.shim() {
		return "--runtime=" + c.path
	}
	return "--runc-binary=" + c.path
}

// memoryLimit is what systemd's cgroups are to have.
const memoryLimit = "67108864"

// systemd are the options that have systemd make the container's cgroup, with a limit, where it is there.
func (c contestant) systemd() []string {
	if !emulated {
		return nil
	}
	options := []string{"--cgroup=system.slice:ctr:" + name("task"), "--memory-limit=" + memoryLimit}
	if c.shim() {
		return append(options, "--runtime-config-path="+shimOptions)
	}
	return append(options, "--runc-systemd-cgroup")
}

// pid is that of a task's first process.
func (c *containerd) pid(t testing.TB, task string) string {
	t.Helper()
	out := c.ok(t, "task", "ls")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == task {
			return f[1]
		}
	}
	t.Fatalf("no task %s in:\n%s", task, out)
	return ""
}

// eachContainerd runs a test with every release and every contestant.
func eachContainerd(t *testing.T, test func(t *testing.T, d *containerd, c contestant)) {
	need(t, "containerd", "ctr", "containerd-shim-runc-v2")
	for _, r := range releases() {
		t.Run(r.name, func(t *testing.T) {
			d := startContainerd(t, r, "/run/containerd-"+r.name)
			defer d.end(t, os.Interrupt)
			for _, c := range containerdContestants(t) {
				t.Run(c.name, func(t *testing.T) {
					clean(t)
					test(t, d, c)
				})
			}
		})
	}
}

// memoryMetric is what ctr calls the memory in use: as the file of the version of cgroups.
func memoryMetric() string {
	if emulated {
		return "memory.usage "
	}
	return "memory.usage_in_bytes"
}

func TestContainerd(t *testing.T) {
	eachContainerd(t, func(t *testing.T, d *containerd, c contestant) {
		run := func(options ...string) []string {
			return append(append([]string{"run", c.runtime()}, c.systemd()...), options...)
		}
		t.Run("run", func(t *testing.T) {
			n := name("run")
			r := d.run(t, run("--rm", imageName, n, "sh", "-c", "echo out; echo err >&2; exit 7")...)
			if r.code != 7 || r.out != "out\n" || !strings.Contains(r.err, "err\n") {
				t.Error(r)
			}
			d.fails(t, 1, `exec: "no-such": executable file not found in $PATH`, run("--rm", imageName, name("run"), "no-such")...)
			d.fails(t, 1, `exec: "/bin/not-executable": permission denied`, run("--rm", imageName, name("run"), "/bin/not-executable")...)
			for _, leftover := range []string{"container", "task"} {
				if out := d.ok(t, leftover, "ls", "-q"); strings.Contains(out, "run-") {
					t.Errorf("%ss left: %s", leftover, out)
				}
			}
		})
		t.Run("life", func(t *testing.T) {
			n := name("life")
			d.ok(t, run("-d", imageName, n, "sh", "-c", sleeps)...)
			state := func(want string) {
				t.Helper()
				for end := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
					out := d.ok(t, "task", "ls")
					if i := strings.Index(out, n); i >= 0 && strings.Contains(strings.SplitN(out[i:], "\n", 2)[0], want) {
						return
					}
					if time.Now().After(end) {
						t.Errorf("no %s %s in:\n%s", n, want, out)
						return
					}
				}
			}
			state("RUNNING")
			if emulated {
				cgroupOf(t, d.pid(t, n)).says(t, "memory", "memory.limit_in_bytes", memoryLimit)
			}
			d.fails(t, 1, "already exists", run("-d", imageName, n, "true")...)
			if r := d.run(t, "task", "exec", "--exec-id=e1", n, "sh", "-c", "echo out; exit 3"); r.code != 3 || r.out != "out\n" {
				t.Error(r)
			}
			d.fails(t, 1, `exec: "no-such": executable file not found in $PATH`, "task", "exec", "--exec-id=e2", n, "no-such")
			d.says(t, "again", "task", "exec", "--exec-id=e2", n, "echo", "again")
			d.ok(t, "task", "pause", n)
			state("PAUSED")
			d.fails(t, 1, "paused", "task", "exec", "--exec-id=e3", n, "true")
			d.ok(t, "task", "resume", n)
			state("RUNNING")
			if out := d.ok(t, "task", "metrics", n); !strings.Contains(out, memoryMetric()) || !strings.Contains(out, "pids.current") {
				t.Errorf("metrics: %s", out)
			}
			if out := d.ok(t, "task", "ps", n); len(strings.Fields(out)) < 4 {
				t.Errorf("ps: %s", out)
			}
			d.ok(t, "task", "kill", "-s", "TERM", n)
			state("STOPPED")
			if r := d.run(t, "task", "rm", n); r.code != 0 {
				t.Error(r)
			}
			d.ok(t, "container", "rm", n)
			d.ok(t, run("-d", imageName, n, "sh", "-c", "sleep 1000")...)
			d.ok(t, "task", "rm", "-f", n)
			d.ok(t, "container", "rm", n)
		})
		t.Run("terminal", func(t *testing.T) {
			d.terminal(t, run("--rm", "-t", imageName, name("tty"), "sh")...).shell(t, 5)
			n := name("tty")
			d.ok(t, run("-d", imageName, n, "sh", "-c", sleeps)...)
			d.terminal(t, "task", "exec", "-t", "--exec-id=t", n, "sh").shell(t, 5)
			d.ok(t, "task", "rm", "-f", n)
			d.ok(t, "container", "rm", n)
		})
		t.Run("oom", func(t *testing.T) {
			n := name("oom")
			d.fails(t, 137, "", run("--rm", "--memory-limit=67108864", imageName, n, "sh", "-c", "a=x; while :; do a=$a$a; done")...)
		})
	})
}
