package engines

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// podmanConfig is what Podman needs where there may be no systemd and root has no CAP_SYS_RESOURCE.
const podmanConfig = `
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = %q
events_logger = "file"
[network]
network_backend = "netavark"
`

var podmanOnce sync.Once

// podman is root's Podman with a runtime, and the image in its store.
func podman(t testing.TB, c contestant) client {
	t.Helper()
	need(t, "podman", "conmon", "catatonit")
	podmanOnce.Do(func() {
		configurePodman(t, "/etc/containers", "overlay")
		client{argv: []string{"podman"}}.ok(t, "import", rootfs(t), imageName)
	})
	return client{argv: []string{"podman", "--runtime", c.path}}
}

// configurePodman writes the files of one user.
func configurePodman(t testing.TB, dir, driver string) {
	t.Helper()
	for file, text := range map[string]string{
		"containers.conf": fmt.Sprintf(podmanConfig, cgroupManager()),
		"storage.conf":    fmt.Sprintf("[storage]\ndriver = %q\n", driver),
		"policy.json":     `{"default":[{"type":"insecureAcceptAnything"}]}`,
		"registries.conf": "unqualified-search-registries = []\n",
	} {
		if dir == "/etc/containers" && file == "storage.conf" {
			text += "runroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n"
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPodman(t *testing.T) {
	each(t, func(t *testing.T, c contestant) {
		p := podman(t, c)
		clean(t)
		podmanRun(t, p)
		podmanLife(t, p, c)
		podmanOptions(t, p, c)
		podmanStatus(t, p)
		t.Run("terminal", func(t *testing.T) {
			p.terminal(t, "run", "--rm", "-it", "--network=none", imageName, "sh").shell(t, 5)
			n := p.name(t, "tty")
			p.ok(t, "run", "-dt", "--name", n, "--network=none", imageName, "sh", "-c", sleeps)
			p.terminal(t, "exec", "-it", n, "sh").shell(t, 5)
			p.ok(t, "rm", "-f", "-t0", n)
		})
		t.Run("build", func(t *testing.T) { podmanBuild(t, p) })
		t.Run("pod", func(t *testing.T) { podmanPod(t, p, c) })
		t.Run("health", func(t *testing.T) {
			n := p.name(t, "health")
			p.ok(t, "run", "-d", "--name", n, "--network=none", "--health-cmd", "test -e /tmp/well", "--health-interval=disable", "--health-retries=1", imageName, "sh", "-c", sleeps)
			p.fails(t, 1, "unhealthy", "healthcheck", "run", n)
			p.ok(t, "exec", n, "touch", "/tmp/well")
			p.says(t, "", "healthcheck", "run", n)
			p.says(t, "healthy", "inspect", "-f", "{{.State.Health.Status}}", n)
			p.ok(t, "rm", "-f", "-t0", n)
		})
	})
}

// podmanRun is a container in the foreground.
func podmanRun(t *testing.T, p client) {
	t.Run("run", func(t *testing.T) {
		r := p.run(t, "run", "--rm", imageName, "sh", "-c", "echo out; echo err >&2; exit 7")
		if r.code != 7 || r.out != "out\n" || r.err != "err\n" {
			t.Error(r)
		}
		if r := p.feed(t, "typed\n", "run", "--rm", "-i", "--network=none", imageName, "cat"); r.out != "typed\n" || r.code != 0 {
			t.Error(r)
		}
		p.says(t, "v", "run", "--rm", "--network=none", "-e", "K=v", "-w", "/tmp", "--hostname=h", imageName, "sh", "-c", "test $(pwd) = /tmp && test $(hostname) = h && echo $K")
		p.says(t, "1000:1000", "run", "--rm", "--network=none", "-u", "user", imageName, "sh", "-c", "echo $(id -u):$(id -g)")
	})
}

// podmanLife is a container in the background, with all that can be done to it.
func podmanLife(t *testing.T, p client, c contestant) {
	t.Run("life", func(t *testing.T) {
		n := p.name(t, "life")
		state := []string{"inspect", "-f", "{{.State.Status}}", n}
		p.ok(t, "run", "-d", "--name", n, imageName, "sh", "-c", "echo out; echo err >&2; "+sleeps)
		p.become(t, "out", "logs", n)
		if r := p.run(t, "logs", n); r.err != "err\n" {
			t.Error(r)
		}
		p.says(t, "running", state...)
		if r := p.feed(t, "typed", "exec", "-i", n, "sh", "-c", "cat; echo err >&2; exit 3"); r.code != 3 || r.out != "typed" || r.err != "err\n" {
			t.Error(r)
		}
		p.says(t, "v /tmp 1000", "exec", "-e", "K=v", "-w", "/tmp", "-u", "user", n, "sh", "-c", "echo $K $(pwd) $(id -u)")
		p.ok(t, "exec", "-d", n, "touch", "/tmp/detached")
		p.become(t, "/tmp/detached", "exec", n, "ls", "/tmp/detached")
		// Podman looks at the host's processes, which in a sandbox are not the container's.
		if out := p.ok(t, "top", n, "pid", "args"); !c.sandbox() && !strings.Contains(out, "trap") {
			t.Errorf("top: %s", out)
		}
		// As an ordinary user Podman makes no cgroups of version 1.
		cgroups := p.attr == nil || emulated
		if !cgroups {
			p.fails(t, 125, "rootless", "stats", "--no-stream", n)
		} else if out := p.ok(t, "stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", n); strings.HasPrefix(out, "0 ") || strings.HasPrefix(out, "-") || strings.Contains(out, " 0B /") {
			t.Errorf("stats: %s", out)
		}
		if cgroups {
			p.ok(t, "pause", n)
			p.says(t, "paused", state...)
			p.fails(t, 255, "", "exec", n, "true")
			p.ok(t, "unpause", n)
			p.says(t, "running", state...)
		}
		begun := p.ok(t, "inspect", "-f", "{{.State.Pid}}", n)
		p.ok(t, "restart", "-t", "10", n)
		if now := p.ok(t, "inspect", "-f", "{{.State.Pid}}", n); now == begun || now == "0" {
			t.Errorf("pid %s after, %s before restart", now, begun)
		}
		p.ok(t, "stop", "-t", "10", n)
		p.says(t, "exited 0", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", n)
		p.ok(t, "start", n)
		p.ok(t, "kill", n)
		p.says(t, "137", "wait", n)
		p.ok(t, "rm", n)
		p.ok(t, "create", "--name", n, "--network=none", imageName, "sh", "-c", "echo started; exit 4")
		p.fails(t, 4, "started", "start", "-a", n)
		p.ok(t, "rm", n)
	})
}

// podmanOptions are those that a container's configuration gets something by.
func podmanOptions(t *testing.T, p client, c contestant) {
	once := func(t *testing.T, want string, args ...string) {
		t.Helper()
		p.says(t, want, append([]string{"run", "--rm", "--network=none"}, args...)...)
	}
	t.Run("init", func(t *testing.T) {
		once(t, "/run/podman-init", "--init", imageName, "sh", "-c", `tr '\0' '\n' </proc/1/cmdline | head -1`)
	})
	t.Run("files", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "in"), []byte("in"), 0o644); err != nil {
			t.Fatal(err)
		}
		once(t, "x", "--read-only", "--tmpfs", "/scratch", imageName, "sh", "-c", "echo x >/scratch/f; cat /scratch/f; ! touch /f 2>/dev/null")
		once(t, "in", "-v", dir+":/v", imageName, "sh", "-c", "cat /v/in; echo out >/v/out")
		if out, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(out) != "out\n" {
			t.Errorf("volume: %q, %v", out, err)
		}
		once(t, "in", "-v", dir+":/v:ro", imageName, "sh", "-c", "cat /v/in; ! touch /v/x 2>/dev/null")
		v := name("volume")
		once(t, "", "-v", v+":/v", imageName, "touch", "/v/kept")
		once(t, "/v/kept", "-v", v+":/v", imageName, "ls", "/v/kept")
		p.ok(t, "volume", "rm", v)
	})
	t.Run("rights", func(t *testing.T) {
		once(t, "CapEff:\t0000000000000000", "--cap-drop=all", imageName, "grep", "CapEff", "/proc/self/status")
		once(t, "CapEff:\t0000000000001000", "--cap-drop=all", "--cap-add=net_admin", imageName, "grep", "CapEff", "/proc/self/status")
		once(t, "NoNewPrivs:\t1", "--security-opt=no-new-privileges", imageName, "grep", "NoNewPrivs", "/proc/self/status")
		profile := filepath.Join(t.TempDir(), "seccomp.json")
		if err := os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`), 0o644); err != nil {
			t.Fatal(err)
		}
		once(t, "refused", "--security-opt=seccomp="+profile, imageName, "sh", "-c", "touch /tmp/f && ! mkdir /tmp/d 2>/dev/null && echo refused")
	})
	podmanLimits(t, p)
	t.Run("network", func(t *testing.T) {
		const links = "echo $(sed -n 's/ *\\([a-z0-9]*\\):.*/\\1/p' /proc/net/dev | sort)"
		once(t, "lo", imageName, "sh", "-c", links)
		p.says(t, "eth0 lo", "run", "--rm", imageName, "sh", "-c", links)
		if c.sandbox() {
			return
		}
		p.ok(t, "run", "--rm", "--network=host", imageName, "true")
	})
	t.Run("publish", func(t *testing.T) {
		n := p.name(t, "publish")
		p.ok(t, "run", "-d", "--name", n, "-p", "8080:80", imageName, "sh", "-c", "echo page >/tmp/index.html; httpd -f -h /tmp -p 80")
		client{argv: []string{"busybox", "wget", "-qO-"}}.become(t, "page", "http://127.0.0.1:8080/")
		p.ok(t, "rm", "-f", "-t0", n)
	})
	t.Run("userns", func(t *testing.T) {
		user(t, "containers", 990)
		subordinate(t, "containers:200000:655360")
		if out := p.ok(t, "run", "--rm", "--network=none", "--userns=auto", imageName, "cat", "/proc/self/uid_map"); strings.Fields(out)[1] != "200000" && !c.sandbox() {
			t.Errorf("uid_map %q", out)
		}
	})
}

// podmanLimits are those of a cgroup.
func podmanLimits(t *testing.T, p client) {
	t.Run("limits", func(t *testing.T) {
		n := p.name(t, "limits")
		p.ok(t, "run", "-d", "--name", n, "--network=none", "--memory=64m", "--pids-limit=77", "--cpus=0.5", imageName, "sh", "-c", sleeps)
		limits := cgroupOf(t, p.ok(t, "inspect", "-f", "{{.State.Pid}}", n))
		limits.says(t, "memory", "memory.limit_in_bytes", "67108864")
		limits.says(t, "cpu", "cpu.cfs_quota_us", "50000")
		limits.says(t, "pids", "pids.max", "77")
		p.ok(t, "rm", "-f", "-t0", n)
		p.fails(t, 137, "", "run", "--rm", "--network=none", "--memory=64m", "--memory-swap=64m", imageName, "sh", "-c", "a=x; while :; do a=$a$a; done")
	})
}

// podmanStatus are the exit statuses of what can't be started.
func podmanStatus(t *testing.T, p client) {
	t.Run("status", func(t *testing.T) {
		n := p.name(t, "status")
		p.ok(t, "run", "-d", "--name", n, "--network=none", imageName, "sh", "-c", sleeps)
		for _, how := range [][]string{{"run", "--rm", "--network=none", imageName}, {"exec", n}} {
			for _, tt := range []struct {
				program string
				code    int
			}{
				{"no-such", 127}, {"/bin/no-such", 127}, {"/no/such/directory", 127}, {"/bin/not-executable", 126}, {"/tmp", 126},
			} {
				p.fails(t, tt.code, tt.program, append(how, tt.program)...)
			}
		}
		p.fails(t, 125, "", "run", "--no-such-option", imageName)
		p.fails(t, 125, "", "run", "--rm", "--name", n, "--network=none", imageName, "true")
		p.ok(t, "rm", "-f", "-t0", n)
	})
}

// podmanBuild runs steps of a Containerfile in containers.
func podmanBuild(t *testing.T, p client) {
	dir, err := os.MkdirTemp("", "build-") // whose parents all may pass
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "FROM " + imageName + "\nRUN echo built >/f\nRUN cat /f >/g && test $(id -u) = 0\nUSER user\nRUN id -u >/tmp/u\nCMD [\"cat\",\"/f\",\"/g\",\"/tmp/u\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Containerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	tag := "localhost/" + name("built")
	r := p.run(t, "build", "--network=none", "-t", tag, dir)
	if r.code != 0 || strings.Contains(r.err, "warning") {
		t.Error(r)
	}
	p.says(t, "built\nbuilt\n1000", "run", "--rm", "--network=none", tag)
	if err := os.WriteFile(filepath.Join(dir, "Containerfile"), []byte("FROM "+imageName+"\nRUN exit 9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.fails(t, 9, "exit status 9", "build", "--network=none", dir)
	p.ok(t, "rmi", "-f", tag)
}

// podmanPod are containers that share namespaces with an infra container.
func podmanPod(t *testing.T, p client, c contestant) {
	pod := name("pod")
	t.Cleanup(func() {
		if t.Failed() {
			p.run(t, "pod", "rm", "-f", "-t", "0", pod)
		}
	})
	create := []string{"pod", "create", "--name", pod, "--share=net,ipc,uts,pid", "-p", "8081:80"}
	if c.sandbox() && p.attr != nil {
		// By default what an ordinary user publishes comes from a process in the namespace, whose loopback is not the container's.
		create = append(create, "--network=slirp4netns:port_handler=slirp4netns")
	}
	p.ok(t, create...)
	p.ok(t, "run", "-d", "--pod", pod, "--name", pod+"-web", imageName, "sh", "-c", "echo shared >/tmp/index.html; httpd -f -h /tmp -p 80")
	p.become(t, "shared", "run", "--rm", "--pod", pod, imageName, "wget", "-qO-", "http://127.0.0.1/")
	client{argv: []string{"busybox", "wget", "-qO-"}}.become(t, "shared", "http://127.0.0.1:8081/")
	if out := p.ok(t, "run", "--rm", "--pod", pod, imageName, "ps", "-o", "args"); !strings.Contains(out, "catatonit") && !strings.Contains(out, "pause") || !strings.Contains(out, "httpd") {
		t.Errorf("processes of the pod: %s", out)
	}
	if p.attr == nil {
		p.ok(t, "pod", "pause", pod)
		p.ok(t, "pod", "unpause", pod)
	}
	p.ok(t, "pod", "stop", "-t", "1", pod)
	p.ok(t, "pod", "start", pod)
	p.become(t, "Running", "pod", "inspect", "-f", "{{.State}}", pod)
	p.ok(t, "pod", "rm", "-f", "-t", "0", pod)
}

// user makes a user, in the tests' mount namespace.
func user(t testing.TB, name string, id int) {
	t.Helper()
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%[2]d::%s:/bin/sh\n", name, id, userHome), "/etc/group": fmt.Sprintf("%s:x:%d:\n", name, id),
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cover(t, file, line+string(text))
	}
}

// cover mounts a file with another text over one.
func cover(t testing.TB, file, text string) {
	t.Helper()
	own, err := os.CreateTemp("/run", filepath.Base(file))
	if err == nil {
		_, err = own.WriteString(text)
		err = errors.Join(err, own.Chmod(0o644), own.Close())
	}
	if err == nil {
		err = syscall.Mount(own.Name(), file, "", syscall.MS_BIND, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(file, 0) })
}

// subordinate gives users ids of their own, in the tests' mount namespace.
func subordinate(t testing.TB, lines ...string) {
	t.Helper()
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		cover(t, file, strings.Join(lines, "\n")+"\n")
	}
}

// cgroupPaths are those of a process's cgroups, by controller; with v2 alone, "" has the only one.
type cgroupPaths map[string]string

func cgroupOf(t testing.TB, pid string) cgroupPaths {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	c := make(cgroupPaths)
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for controller := range strings.SplitSeq(f[1], ",") {
			c[controller] = f[2]
		}
	}
	return c
}

// says checks a limit, in a file of v1; the other version has it by another name, and the quota with the period.
func (c cgroupPaths) says(t testing.TB, controller, file, want string) {
	t.Helper()
	path := filepath.Join(cgroups, controller, c[controller], file)
	if emulated {
		switch file {
		case "memory.limit_in_bytes":
			file = "memory.max"
		case "cpu.cfs_quota_us":
			file, want = "cpu.max", want+" 100000"
		}
		path = filepath.Join(cgroups, c[""], file)
		unitSays(t, c[""], file, want)
	}
	got, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("%s: %q, %v, want %s", path, got, err, want)
	}
}
