package engines

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A dockerd is Docker's daemon, with a containerd of its own.
type dockerd struct {
	client
	cmd *exec.Cmd
}

var dockerOnce sync.Once

// startDocker starts a daemon with its files below a directory, that knows the contestants.
func startDocker(t testing.TB, dir string, options ...string) dockerd {
	t.Helper()
	all := contestants(t)
	for _, c := range all {
		if c.name != "runc" { // which it knows by itself
			options = append(options, "--add-runtime="+c.name+"="+c.path)
		}
	}
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "--default-runtime=") }) {
		options = append(options, "--default-runtime="+all[0].name)
	}
	return startPlainDocker(t, dir, options...)
}

// startPlainDocker starts one that knows what its configuration says.
func startPlainDocker(t testing.TB, dir string, options ...string) dockerd {
	t.Helper()
	argv := []string{
		"dockerd", "--host=unix://" + dir + "/docker.sock", "--data-root=/var/lib/docker" + dir, "--exec-root=" + dir + "/exec",
		"--pidfile=" + dir + "/pid", "--exec-opt=native.cgroupdriver=" + cgroupManager(), "--storage-driver=overlay2", "--log-level=info",
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log := dir + "/log"
	d := dockerd{client{argv: []string{dockerCLI(t), "--host=unix://" + dir + "/docker.sock"}}, daemon(t, log, append(argv, options...)...)}
	d.ready(t, log, "version")
	d.ok(t, "import", rootfs(t), imageName)
	return d
}

// dockerCLI is the client of the package that the daemon is of: another may speak a newer protocol only.
func dockerCLI(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		return "/usr/bin/docker"
	}
	path, err := exec.LookPath("docker")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var theDocker dockerd

// docker is the daemon that most tests share.
func docker(t testing.TB) dockerd {
	t.Helper()
	need(t, "dockerd", "docker", "containerd")
	dockerOnce.Do(func() { theDocker = startDocker(t, "/run/dockerd") })
	if theDocker.cmd == nil {
		t.Fatal("the daemon has not started before")
	}
	return theDocker
}

// runArgs are `docker run` with a runtime and options.
func runArgs(c contestant, options ...string) []string {
	return append([]string{"run", "--runtime=" + c.name}, options...)
}

func TestDocker(t *testing.T) {
	d := docker(t)
	if out, want := d.ok(t, "info", "-f", "{{.DefaultRuntime}}"), contestants(t)[0].name; out != want {
		t.Errorf("default runtime %q, want %s", out, want)
	}
	version := d.ok(t, "version", "-f", "{{.Server.Version}}")
	each(t, func(t *testing.T, c contestant) {
		clean(t)
		run := func(options ...string) []string { return runArgs(c, options...) }
		t.Run("run", func(t *testing.T) {
			r := d.run(t, run("--rm", imageName, "sh", "-c", "echo out; echo err >&2; exit 7")...)
			if r.code != 7 || r.out != "out\n" || r.err != "err\n" {
				t.Error(r)
			}
			if r := d.feed(t, "typed\n", run("--rm", "-i", "--network=none", imageName, "cat")...); r.out != "typed\n" || r.code != 0 {
				t.Error(r)
			}
			d.says(t, "/sbin/docker-init", run("--rm", "--init", "--network=none", imageName, "sh", "-c", `tr '\0' '\n' </proc/1/cmdline | head -1`)...)
			d.says(t, "1000 /tmp v", run("--rm", "--network=none", "-u", "user", "-w", "/tmp", "-e", "K=v", imageName, "sh", "-c", "echo $(id -u) $(pwd) $K")...)
			d.says(t, "x", run("--rm", "--network=none", "--read-only", "--tmpfs=/scratch", imageName, "sh", "-c", "echo x >/scratch/f; cat /scratch/f; ! touch /f 2>/dev/null")...)
			d.says(t, "NoNewPrivs:\t1", run("--rm", "--network=none", "--security-opt=no-new-privileges", imageName, "grep", "NoNewPrivs", "/proc/self/status")...)
			d.says(t, "CapEff:\t0000000000001000", run("--rm", "--network=none", "--cap-drop=all", "--cap-add=net_admin", imageName, "grep", "CapEff", "/proc/self/status")...)
		})
		t.Run("life", func(t *testing.T) { dockerLife(t, d, c) })
		t.Run("status", func(t *testing.T) {
			n := d.name(t, "status")
			d.ok(t, run("-d", "--name", n, "--network=none", imageName, "sh", "-c", sleeps)...)
			for _, tt := range []struct {
				program string
				code    int
			}{
				{"no-such", 127}, {"/bin/no-such", 127}, {"/no/such/directory", 127},
				{"/bin/not-executable", 126}, {"/tmp", 126},
			} {
				d.fails(t, tt.code, tt.program, run("--rm", "--network=none", imageName, tt.program)...)
				if strings.HasPrefix(version, "20.") {
					tt.code = 126 // one status for all that exec can't start
				}
				d.fails(t, tt.code, tt.program, "exec", n, tt.program)
			}
			d.fails(t, 125, "", run("--no-such-option", imageName)...)
			d.fails(t, 125, "", run("--rm", "--name", n, imageName, "true")...)
			d.ok(t, "rm", "-f", n)
		})
		t.Run("terminal", func(t *testing.T) {
			d.terminal(t, run("--rm", "-it", "--network=none", imageName, "sh")...).shell(t, 5)
			n := d.name(t, "tty")
			d.ok(t, run("-dt", "--name", n, "--network=none", imageName, "sh", "-c", sleeps)...)
			d.terminal(t, "exec", "-it", n, "sh").shell(t, 5)
			d.ok(t, "rm", "-f", n)
		})
		t.Run("attach", func(t *testing.T) {
			n := d.name(t, "attach")
			d.ok(t, run("-dit", "--name", n, "--network=none", imageName, "sh")...)
			d.terminal(t, "attach", n).shell(t, 5)
			d.ok(t, "rm", n)
		})
		t.Run("limits", func(t *testing.T) { dockerLimits(t, d, c) })
		t.Run("restart", func(t *testing.T) {
			n := d.name(t, "restart")
			d.ok(t, run("-d", "--name", n, "--network=none", "--restart=on-failure:2", imageName, "false")...)
			d.become(t, "2 exited 1", "inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", n)
			d.ok(t, "rm", n)
		})
		t.Run("health", func(t *testing.T) {
			n := d.name(t, "health")
			d.ok(t, run("-d", "--name", n, "--network=none", "--health-cmd=test -e /tmp/well", "--health-interval=200ms", "--health-retries=1", imageName, "sh", "-c", sleeps)...)
			status := []string{"inspect", "-f", "{{.State.Health.Status}}", n}
			d.become(t, "unhealthy", status...)
			d.ok(t, "exec", n, "touch", "/tmp/well")
			d.become(t, "healthy", status...)
			d.ok(t, "rm", "-f", n)
		})
		t.Run("network", func(t *testing.T) { dockerNetwork(t, d, c) })
		t.Run("build", func(t *testing.T) {
			if c.sandbox() {
				// A builder takes the default runtime alone.
				long(t)
				d = startDocker(t, "/run/dockerd-sandbox", "--default-runtime="+c.name, "--bridge=none")
				defer d.stop(t)
			}
			dockerBuild(t, d)
		})
	})
}

func dockerLife(t *testing.T, d dockerd, c contestant) {
	n := d.name(t, "life")
	state := []string{"inspect", "-f", "{{.State.Status}}", n}
	d.ok(t, runArgs(c, "-d", "--name", n, imageName, "sh", "-c", "echo out; echo err >&2; "+sleeps)...)
	d.become(t, "out", "logs", n)
	if r := d.feed(t, "typed", "exec", "-i", n, "sh", "-c", "cat; echo err >&2; exit 3"); r.code != 3 || r.out != "typed" || r.err != "err\n" {
		t.Error(r)
	}
	d.says(t, "v /tmp 1000", "exec", "-e", "K=v", "-w", "/tmp", "-u", "user", n, "sh", "-c", "echo $K $(pwd) $(id -u)")
	d.ok(t, "exec", "-d", n, "touch", "/tmp/detached")
	d.become(t, "/tmp/detached", "exec", n, "ls", "/tmp/detached")
	if out := d.ok(t, "top", n); !strings.Contains(out, "sleep") && !strings.Contains(out, "trap") && !c.sandbox() {
		t.Errorf("top: %s", out)
	}
	if out := d.ok(t, "stats", "--no-stream", "--format={{.PIDs}} {{.MemUsage}}", n); strings.HasPrefix(out, "0 ") || strings.Contains(out, " 0B /") {
		t.Errorf("stats: %s", out)
	}
	d.ok(t, "pause", n)
	d.says(t, "paused", state...)
	d.fails(t, 1, "paused", "exec", n, "true")
	d.ok(t, "unpause", n)
	d.says(t, "running", state...)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("copied\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.ok(t, "cp", filepath.Join(dir, "f"), n+":/root/f")
	d.says(t, "copied", "exec", n, "cat", "/root/f")
	d.ok(t, "exec", n, "sh", "-c", "echo inside >/root/g")
	d.ok(t, "cp", n+":/root/g", filepath.Join(dir, "g"))
	if out, err := os.ReadFile(filepath.Join(dir, "g")); err != nil || string(out) != "inside\n" {
		t.Errorf("cp: %q, %v", out, err)
	}
	d.ok(t, "restart", "-t", "10", n)
	d.says(t, "running", state...)
	d.ok(t, "stop", "-t", "10", n)
	d.says(t, "exited 0", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", n)
	d.ok(t, "start", n)
	d.ok(t, "kill", n)
	d.says(t, "137", "wait", n)
	d.ok(t, "rm", n)
}

func dockerLimits(t *testing.T, d dockerd, c contestant) {
	n := d.name(t, "limits")
	d.ok(t, runArgs(c, "-d", "--name", n, "--network=none", "--memory=64m", "--pids-limit=277", "--cpus=0.5", imageName, "sh", "-c", sleeps)...)
	limits := cgroupOf(t, d.ok(t, "inspect", "-f", "{{.State.Pid}}", n))
	limits.says(t, "memory", "memory.limit_in_bytes", "67108864")
	limits.says(t, "cpu", "cpu.cfs_quota_us", "50000")
	limits.says(t, "pids", "pids.max", "277")
	d.ok(t, "update", "--memory=96m", "--memory-swap=96m", "--cpus=0.75", "--pids-limit=288", n)
	limits.says(t, "memory", "memory.limit_in_bytes", fmt.Sprint(96<<20))
	limits.says(t, "cpu", "cpu.cfs_quota_us", "75000")
	limits.says(t, "pids", "pids.max", "288")
	d.ok(t, "rm", "-f", n)

	n = d.name(t, "oom")
	const grow = "a=x; while :; do a=$a$a; done"
	program := "(" + grow + "); status=$?; sleep 2; exit $status"
	if c.sandbox() { // ends as a whole
		program = grow
	}
	d.fails(t, 137, "", runArgs(c, "--name", n, "--network=none", "--memory=64m", "--memory-swap=64m", imageName, "sh", "-c", program)...)
	oom := "true 137" // Docker 20.10 keeps what the shim tells before the end
	if emulated && c.sandbox() {
		// systemd removes a scope as soon as nothing is in it, and with it the count that the shim is about to read.
		oom = d.ok(t, "inspect", "-f", "{{.State.OOMKilled}}", n) + " 137"
	}
	d.become(t, oom, "inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", n)
	d.ok(t, "rm", "-f", n)
}

// dockerNetwork is two containers on a network of their own, with a name server and a published port.
func dockerNetwork(t *testing.T, d dockerd, c contestant) {
	network := name("network")
	n := d.name(t, "web")
	d.ok(t, "network", "create", network)
	d.ok(t, runArgs(c, "-d", "--network", network, "--name", n, "-p", "127.0.0.1:8080:80", imageName, "sh", "-c", "echo page >/tmp/index.html; httpd -f -h /tmp -p 80")...)
	client{argv: []string{"busybox", "wget", "-qO-"}}.become(t, "page", "http://127.0.0.1:8080/")
	d.says(t, "nameserver 127.0.0.11", runArgs(c, "--rm", "--network", network, imageName, "grep", "nameserver", "/etc/resolv.conf")...)
	d.says(t, "page", runArgs(c, "--rm", "--network", network, imageName, "wget", "-qO-", "http://"+n+"/")...)
	d.ok(t, "rm", "-f", n)
	d.ok(t, "network", "rm", network)
}

func dockerBuild(t *testing.T, d dockerd) {
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+imageName+"\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d.env = append(d.env, "DOCKER_BUILDKIT=0")
	tag := name("built")
	write("RUN echo built >/f\nRUN cat /f >/g && test $(id -u) = 0\nCMD [\"cat\",\"/f\",\"/g\"]\n")
	d.ok(t, "build", "--network=none", "-t", tag, dir)
	d.says(t, "built\nbuilt", "run", "--rm", "--network=none", tag)
	write("RUN exit 9\n")
	d.fails(t, 9, "returned a non-zero code: 9", "build", "--network=none", dir)
	d.ok(t, "rmi", "-f", tag)
	leftover := d.ok(t, "ps", "-aq")
	for id := range strings.FieldsSeq(leftover) {
		d.ok(t, "rm", "-f", id)
	}
}

// TestDockerUserNS has a daemon whose containers' root is an ordinary user outside.
func TestDockerUserNS(t *testing.T) {
	need(t, "dockerd", "docker", "containerd")
	long(t)
	subordinate(t, "nobody:300000:65536", "nogroup:300000:65536")
	d := startDocker(t, "/run/dockerd-userns", "--userns-remap=nobody:nogroup", "--bridge=none")
	defer d.stop(t)
	each(t, func(t *testing.T, c contestant) {
		clean(t)
		n := d.name(t, "userns")
		d.ok(t, runArgs(c, "-d", "--name", n, "--network=none", imageName, "sh", "-c", sleeps)...)
		if !c.sandbox() {
			if out := d.ok(t, "exec", n, "cat", "/proc/self/uid_map"); strings.Join(strings.Fields(out), " ") != "0 300000 65536" {
				t.Errorf("uid_map %q", out)
			}
		}
		d.says(t, "0", "exec", n, "id", "-u")
		d.ok(t, "exec", n, "touch", "/root/f")
		d.ok(t, "rm", "-f", n)
	})
}

// stop ends a daemon, as a system does.
func (d dockerd) stop(t testing.TB) {
	t.Helper()
	_ = d.cmd.Process.Signal(os.Interrupt)
	done := make(chan error, 1)
	go func() { done <- d.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(soon):
		t.Errorf("%v: not ended", d.cmd.Args)
		_ = d.cmd.Process.Kill()
		<-done
	}
}
