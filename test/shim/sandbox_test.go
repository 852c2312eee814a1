package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/events"
	sandbox "github.com/containerd/containerd/api/runtime/sandbox/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"hull/hulltest"
)

// pod is a shim that has made a pod, as containerd's sandboxer "shim" has it do.
type pod struct {
	*shim
	sandbox.TTRPCSandboxService
}

// newPod makes the shim of a pod: in a bundle without a configuration. more are runtime options, as in containerd's configuration.
func newPod(d *daemon, id, more string) *pod {
	d.t.Helper()
	bundle := filepath.Join(d.dir, id)
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o711); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { unix.Unmount(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH) }) // should the shim have failed to
	s := d.startWith(id, bundle, fmt.Sprintf("root = %q\n%s", filepath.Join(d.dir, "root"), more))
	p := &pod{s, sandbox.NewTTRPCSandboxClient(s.conn)}
	d.t.Cleanup(p.shutdown)
	return p
}

// shutdown ends the pod, whatever the test has come to.
func (p *pod) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p.ShutdownSandbox(ctx, &sandbox.ShutdownSandboxRequest{SandboxID: p.id})
}

func podConfig(t *testing.T, c *cri.PodSandboxConfig) *anypb.Any {
	t.Helper()
	raw, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: raw}
}

// begin makes and starts the pod.
func (p *pod) begin(t *testing.T, c *cri.PodSandboxConfig) *sandbox.StartSandboxResponse {
	t.Helper()
	if _, err := p.CreateSandbox(t.Context(), &sandbox.CreateSandboxRequest{SandboxID: p.id, BundlePath: p.bundle, Options: podConfig(t, c)}); err != nil {
		t.Fatal(err)
	}
	started, err := p.StartSandbox(t.Context(), &sandbox.StartSandboxRequest{SandboxID: p.id})
	if err != nil {
		t.Fatal(err)
	}
	return started
}

// member is a container of the pod, as CRI makes it: with the namespaces of the pod's pid.
func (p *pod) member(t *testing.T, id string, pid uint32, args []string, edits ...func(*specs.Spec)) *shim {
	t.Helper()
	edits = append([]func(*specs.Spec){func(s *specs.Spec) {
		s.Process.Args = args
		s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": p.id}
		paths := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
		for i, n := range s.Linux.Namespaces {
			if file := paths[n.Type]; file != "" {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", pid, file)
			}
		}
		s.Hostname = ""
	}}, edits...)
	s := &shim{daemon: p.daemon, TTRPCTaskService: p.TTRPCTaskService, id: id, bundle: hulltest.Bundle(t, edits...), conn: p.conn, socket: p.socket}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s.Kill(ctx, &task.KillRequest{ID: id, Signal: uint32(unix.SIGKILL)})
		s.Wait(ctx, &task.WaitRequest{ID: id})
		s.Delete(ctx, &task.DeleteRequest{ID: id})
	})
	return s
}

// eachPod runs a test with pods of both isolations.
func eachPod(t *testing.T, test func(t *testing.T, p *pod)) {
	for _, isolation := range []string{"native", "sandbox"} {
		t.Run(isolation, func(t *testing.T) {
			d := newDaemon(t)
			if isolation == "sandbox" {
				hulltest.Require(t, hulltest.MountSetattr)
				hulltest.SandboxBinary(t) // beside the shim
			}
			test(t, newPod(d, "pod1", fmt.Sprintf("isolation = %q", isolation)))
		})
	}
}

func TestSandbox(t *testing.T) {
	eachPod(t, func(t *testing.T, p *pod) {
		d, ctx := p.daemon, withTimeout(t, 60*time.Second)
		if _, err := p.PingSandbox(ctx, &sandbox.PingRequest{SandboxID: "pod1"}); grpcstatus.Code(err) != codes.NotFound {
			t.Errorf("ping before there is a pod: %v", err)
		}
		status := func() *sandbox.SandboxStatusResponse {
			t.Helper()
			st, err := p.SandboxStatus(ctx, &sandbox.SandboxStatusRequest{SandboxID: "pod1", Verbose: true})
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
		parent := fmt.Sprintf("/hull-shim-test-%d", os.Getpid())
		t.Cleanup(func() {
			p.shutdown()
			removeCgroups(t, parent)
		})
		config := &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u"}, Hostname: "web-1",
			DnsConfig:   &cri.DNSConfig{Servers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}},
			Annotations: map[string]string{"run.hull.isolation": "fortress"}, // of the pod's author: not read
			Linux: &cri.LinuxPodSandboxConfig{CgroupParent: parent, Sysctls: map[string]string{"kernel.shm_rmid_forced": "1"},
				SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{}}},
		}
		if strings.HasSuffix(t.Name(), "/sandbox") {
			config.Linux.Sysctls = nil // its kernel hasn't that
		}
		started := p.begin(t, config)
		if started.Pid == 0 || started.CreatedAt.AsTime().Before(time.Now().Add(-time.Minute)) {
			t.Errorf("started %v", started)
		}
		var spec specs.Spec
		if err := json.Unmarshal(started.Spec.GetValue(), &spec); err != nil || spec.Hostname != "web-1" || spec.Annotations["io.kubernetes.cri.sandbox-name"] != "web" {
			t.Errorf("spec %s, %v", started.Spec, err)
		}
		if _, err := p.StartSandbox(ctx, &sandbox.StartSandboxRequest{SandboxID: "pod1"}); grpcstatus.Code(err) != codes.FailedPrecondition {
			t.Errorf("a second start: %v", err)
		}
		if _, err := p.CreateSandbox(ctx, &sandbox.CreateSandboxRequest{SandboxID: "pod2", BundlePath: p.bundle}); grpcstatus.Code(err) != codes.AlreadyExists {
			t.Errorf("a second pod: %v", err)
		}
		if st := status(); st.State != "SANDBOX_READY" || st.Pid != started.Pid || !st.CreatedAt.AsTime().Equal(started.CreatedAt.AsTime()) || !json.Valid([]byte(st.Info["info"])) {
			t.Errorf("status %v", st)
		}
		if r, err := p.Platform(ctx, &sandbox.PlatformRequest{SandboxID: "pod1"}); err != nil || r.Platform.OS != "linux" || r.Platform.Architecture != runtime.GOARCH {
			t.Errorf("platform %v, %v", r, err)
		}
		waited := make(chan *sandbox.WaitSandboxResponse, 1)
		go func() {
			w, err := p.WaitSandbox(ctx, &sandbox.WaitSandboxRequest{SandboxID: "pod1"})
			if err != nil {
				t.Error(err)
			}
			waited <- w
		}()

		t.Log("two containers that share what a pod's do")
		ro := func(s *specs.Spec) { s.Root.Readonly = true }
		shm := func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}})
		}
		a := p.member(t, "a", started.Pid, hulltest.Args("do", "write", "/dev/shm/mark", "shared\n", ",", "sleep", "100"), shm)
		a.create(&task.CreateTaskRequest{})
		a.run("")
		event[*events.TaskStart](d)
		out := d.fifo("out")
		said := d.reader(out)
		const mark = "/dev/shm/mark"
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if st, err := os.Stat(filepath.Join(p.bundle, "rootfs", "shm", "mark")); err == nil && st.Size() > 0 {
				break
			} else if time.Now().After(end) {
				t.Fatalf("what is in a container's /dev/shm isn't in the pod's: %v", err)
			}
		}
		b := p.member(t, "b", started.Pid, hulltest.Args("do", "cat", mark, "/etc/hostname", "/etc/resolv.conf", ",", "hostname"), shm, ro)
		b.create(&task.CreateTaskRequest{Stdout: out})
		b.run("")
		event[*events.TaskStart](d)
		if w, err := b.Wait(ctx, &task.WaitRequest{ID: "b"}); err != nil || w.ExitStatus != 0 {
			t.Errorf("wait %v, %v", w, err)
		}
		want := "shared\nweb-1\nsearch a.example b.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\nweb-1 (none)\n"
		if got := <-said; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
		event[*events.TaskExit](d)
		if _, err := b.Delete(ctx, &task.DeleteRequest{ID: "b"}); err != nil {
			t.Error(err)
		}
		event[*events.TaskDelete](d)
		if _, err := p.Shutdown(ctx, &task.ShutdownRequest{ID: "b"}); err != nil {
			t.Error(err)
		}
		p.checkMetrics(t)

		t.Log("the end")
		if _, err := p.StopSandbox(ctx, &sandbox.StopSandboxRequest{SandboxID: "pod1"}); err != nil {
			t.Fatal(err)
		}
		if w := <-waited; w == nil || w.ExitStatus != 128+9 || w.ExitedAt.AsTime().IsZero() {
			t.Errorf("wait %v", w)
		}
		if st := status(); st.State != "SANDBOX_NOTREADY" || st.Pid != 0 || st.ExitedAt.AsTime().IsZero() {
			t.Errorf("status %v", st)
		}
		if e := event[*events.TaskExit](d); e.ContainerID != "a" {
			t.Errorf("event %v", e)
		}
		c := p.member(t, "c", started.Pid, hulltest.Args("true"))
		if _, err := c.Create(ctx, &task.CreateTaskRequest{ID: "c", Bundle: c.bundle, Options: c.options()}); grpcstatus.Code(err) != codes.FailedPrecondition {
			t.Errorf("a container in a pod that was stopped: %v", err)
		}
		if _, err := p.StopSandbox(ctx, &sandbox.StopSandboxRequest{SandboxID: "pod1"}); err != nil {
			t.Errorf("a second stop: %v", err)
		}
		if _, err := a.Delete(ctx, &task.DeleteRequest{ID: "a"}); err != nil {
			t.Error(err)
		}
		event[*events.TaskDelete](d)
		p.gone(t)
	})
}

// gone shuts the pod down, and looks for what is left. The answer has to come, although the shim ends.
func (p *pod) gone(t *testing.T) {
	t.Helper()
	if _, err := p.ShutdownSandbox(withTimeout(t, 20*time.Second), &sandbox.ShutdownSandboxRequest{SandboxID: p.id}); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(p.socket); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the shim doesn't end")
		}
	}
	p.nothingLeft(t)
}

func (p *pod) nothingLeft(t *testing.T) {
	t.Helper()
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), p.bundle) {
		t.Errorf("a mount is left: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(p.bundle, "rootfs")); err != nil || len(entries) > 0 {
		t.Errorf("left in the bundle: %v, %v", entries, err)
	}
	if entries, _ := os.ReadDir(filepath.Join(p.dir, "root", "ns")); len(entries) > 0 {
		t.Errorf("states left: %v", entries)
	}
}

// checkMetrics reads what is counted for the pod, with the messages that containerd has.
func (p *pod) checkMetrics(t *testing.T) {
	t.Helper()
	r, err := p.SandboxMetrics(t.Context(), &sandbox.SandboxMetricsRequest{SandboxID: p.id})
	if err != nil {
		t.Fatal(err)
	}
	m := r.Metrics
	var memory, cpu uint64
	switch m.Data.TypeUrl {
	case "io.containerd.cgroups.v1.Metrics":
		var s cgroup1.Metrics
		err = proto.Unmarshal(m.Data.Value, &s)
		memory, cpu = s.Memory.Usage.Usage, s.CPU.Usage.Total
	case "io.containerd.cgroups.v2.Metrics":
		var s cgroup2.Metrics
		err = proto.Unmarshal(m.Data.Value, &s)
		memory, cpu = s.Memory.Usage, s.CPU.UsageUsec
	}
	if err != nil || m.ID != p.id || memory == 0 || cpu == 0 || time.Since(m.Timestamp.AsTime()) > time.Minute {
		t.Errorf("%v: memory %d, cpu %d; %v", m, memory, cpu, err)
	}
}

// removeCgroups removes the cgroup that containers of a test had theirs below, as the kubelet does.
func removeCgroups(t *testing.T, parent string) {
	t.Helper()
	all, err := filepath.Glob("/sys/fs/cgroup/*" + parent)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(all, "/sys/fs/cgroup"+parent) {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if err := unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
				break
			} else if time.Now().After(end) {
				t.Errorf("rmdir %s: %v", dir, err)
				break
			}
		}
	}
}

// TestSandboxFiles has a container with files of its own where the pod has some.
func TestSandboxFiles(t *testing.T) {
	p := newPod(newDaemon(t), "pod1", "")
	started := p.begin(t, &cri.PodSandboxConfig{Hostname: "pod"})
	own := filepath.Join(p.dir, "own")
	if err := os.WriteFile(own, []byte("own\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := p.fifo("out")
	said := p.reader(out)
	s := p.member(t, "c", started.Pid, hulltest.Args("cat", "/etc/hosts", "/etc/hostname"), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: own, Options: []string{"rbind"}})
	})
	s.create(&task.CreateTaskRequest{Stdout: out})
	s.run("")
	if got := <-said; got != "own\npod\n" {
		t.Errorf("said %q", got)
	}
}

// TestSandboxUserNamespace makes a pod with a user namespace: containerd has made the one that the pod's network is in, and what the shim
// tells of the pod names it by the pod's process, not by a file that the shim had open.
func TestSandboxUserNamespace(t *testing.T) {
	d := newDaemon(t)
	p := newPod(d, "pod", "")
	// As those of containerd are.
	for dir, mode := range map[string]os.FileMode{filepath.Dir(d.dir): 0o711, d.dir: 0o711, p.bundle: 0o700} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	const host, size = 100000, 65536
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: host, Size: size}}
	holder := exec.Command("sleep", "100")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	ns := func(pid int, kind string) string {
		t.Helper()
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	mapping := []*cri.IDMapping{{ContainerId: 0, HostId: host, Length: size}}
	config := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "web", Namespace: "default"},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
			UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping, Gids: mapping}}}}}
	if _, err := p.CreateSandbox(t.Context(), &sandbox.CreateSandboxRequest{SandboxID: p.id, BundlePath: p.bundle,
		NetnsPath: fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), Options: podConfig(t, config)}); err != nil {
		t.Fatal(err)
	}
	started, err := p.StartSandbox(t.Context(), &sandbox.StartSandboxRequest{SandboxID: p.id})
	if err != nil {
		t.Fatal(err)
	}
	pid := int(started.Pid)
	for _, kind := range []string{"user", "net"} {
		if got, want := ns(pid, kind), ns(holder.Process.Pid, kind); got != want {
			t.Errorf("its namespace is %s, want %s", got, want)
		}
	}
	var spec specs.Spec
	if err := json.Unmarshal(started.Spec.GetValue(), &spec); err != nil {
		t.Fatal(err)
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			if got, err := os.Readlink(n.Path); err != nil || got != ns(pid, "user") {
				t.Errorf("what is told of the pod names %s, which is %s (%v), want %s", n.Path, got, err, ns(pid, "user"))
			}
		}
	}
	m := p.member(t, "one", started.Pid, hulltest.Args("sleep", "100"), func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", pid)})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: host, Size: size}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	})
	// Snapshots are the mapped root's.
	if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%[1]d", host), filepath.Join(m.bundle, "rootfs")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	member := m.create(&task.CreateTaskRequest{})
	m.run("")
	for _, kind := range []string{"user", "net", "ipc"} {
		if got, want := ns(int(member), kind), ns(pid, kind); got != want {
			t.Errorf("the container's namespace is %s, want %s", got, want)
		}
	}
}

// TestSandboxShutdown shuts a pod down in which a container runs: nothing of either stays once containerd has had its say.
func TestSandboxShutdown(t *testing.T) {
	eachPod(t, func(t *testing.T, p *pod) {
		started := p.begin(t, &cri.PodSandboxConfig{})
		a := p.member(t, "a", started.Pid, hulltest.Args("sleep", "100"))
		a.create(&task.CreateTaskRequest{})
		a.run("")
		if _, err := p.ShutdownSandbox(withTimeout(t, 20*time.Second), &sandbox.ShutdownSandboxRequest{SandboxID: p.id}); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		p.command("a", a.bundle, nil, "-bundle", a.bundle, "delete")
		p.nothingLeft(t)
	})
}

// TestSandboxKilled kills the pod's process, and then the shim.
func TestSandboxKilled(t *testing.T) {
	eachPod(t, func(t *testing.T, p *pod) {
		started := p.begin(t, &cri.PodSandboxConfig{})
		c, err := p.Connect(t.Context(), &task.ConnectRequest{ID: p.id})
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(int(started.Pid), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if w, err := p.WaitSandbox(withTimeout(t, 20*time.Second), &sandbox.WaitSandboxRequest{SandboxID: p.id}); err != nil || w.ExitStatus != 128+9 {
			t.Errorf("wait %v, %v", w, err)
		}
		if err := unix.Kill(int(c.ShimPid), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.awaitEnd(int(c.ShimPid))
		var r task.DeleteResponse
		if err := proto.Unmarshal(p.command(p.id, p.bundle, nil, "-bundle", p.bundle, "delete"), &r); err != nil || r.ExitStatus != 128+9 {
			t.Errorf("delete %v, %v", &r, err)
		}
		os.Remove(p.socket)
		p.nothingLeft(t)
	})
}

// TestSandboxForward connects with the loopback of a pod's network namespace, as containerd does for kubectl's port-forward.
func TestSandboxForward(t *testing.T) {
	eachPod(t, func(t *testing.T, p *pod) {
		if strings.HasSuffix(t.Name(), "/sandbox") {
			hulltest.Require(t, hulltest.Kernel(5, 9))
		}
		started := p.begin(t, &cri.PodSandboxConfig{})
		a := p.member(t, "a", started.Pid, hulltest.Args("serve", "127.0.0.1:8080"))
		a.create(&task.CreateTaskRequest{})
		a.run("")
		netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", started.Pid))
		if err != nil {
			t.Fatal(err)
		}
		defer netns.Close()
		// read connects with a port, and returns what comes then.
		read := func(port int) (said string, err error) {
			done := make(chan bool)
			go func() {
				defer close(done)
				runtime.LockOSThread() // and with it the thread ends
				if err = unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
					return
				}
				fd, err2 := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err = err2; err != nil {
					return
				}
				defer unix.Close(fd)
				if err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
					return
				}
				buf := make([]byte, 64)
				n, err2 := unix.Read(fd, buf)
				said, err = string(buf[:max(n, 0)]), err2
			}()
			<-done
			return said, err
		}
		// Which is told when the connection is made, or right after it.
		if _, err := read(81); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a port that nobody listens at: %v", err)
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if said, err := read(8080); said == "hello\n" {
				break
			} else if time.Now().After(end) {
				t.Fatalf("the server says %q, %v", said, err)
			}
		}
		p.shutdown()
		if _, err := read(8080); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after the pod's end: %v", err)
		}
		p.command("a", a.bundle, nil, "-bundle", a.bundle, "delete")
		p.nothingLeft(t)
	})
}

// TestSandboxErrors is about pods that can't be made: nothing is left of them, and the shim ends.
func TestSandboxErrors(t *testing.T) {
	p := newPod(newDaemon(t), "pod1", "")
	for _, c := range []struct {
		request *sandbox.CreateSandboxRequest
		says    string
	}{
		{&sandbox.CreateSandboxRequest{Options: &anypb.Any{TypeUrl: "example.Pod"}}, "options of type example.Pod"},
		{&sandbox.CreateSandboxRequest{Options: &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: []byte{0xff}}}, "options: "},
		{&sandbox.CreateSandboxRequest{Rootfs: []*types.Mount{{Type: "bind", Source: "/"}}}, "rootfs: "},
		{&sandbox.CreateSandboxRequest{NetnsPath: "/no/such/netns", Options: podConfig(t, &cri.PodSandboxConfig{})}, "/no/such/netns"},
		{&sandbox.CreateSandboxRequest{Options: podConfig(t, &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{
			Sysctls: map[string]string{"net.no.such": "1"}}})}, "net.no.such"},
	} {
		c.request.SandboxID, c.request.BundlePath = p.id, p.bundle
		if _, err := p.CreateSandbox(t.Context(), c.request); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
	p.gone(t)
}

// TestSandboxGivenUp has a client give up while a pod is made, and shut it down, as containerd does.
func TestSandboxGivenUp(t *testing.T) {
	for delay := time.Duration(0); delay <= 16*time.Millisecond; delay += 2 * time.Millisecond {
		t.Run(delay.String(), func(t *testing.T) {
			p := newPod(newDaemon(t), "pod1", "")
			ctx, giveUp := context.WithTimeout(t.Context(), delay)
			defer giveUp()
			request := &sandbox.CreateSandboxRequest{SandboxID: p.id, BundlePath: p.bundle, Options: podConfig(t, &cri.PodSandboxConfig{})}
			_, _ = p.CreateSandbox(ctx, request)
			p.gone(t)
		})
	}
}

// TestSandboxSpec has a pod made by a client that isn't CRI, from a specification in the bundle.
func TestSandboxSpec(t *testing.T) {
	d := newDaemon(t)
	spec := specs.Spec{Version: specs.Version, Hostname: "given", Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "mount"}, {Type: "uts"}, {Type: "ipc"}, {Type: "pid"}, {Type: "network"}}}}
	bundle := filepath.Join(d.dir, "pod1")
	if err := os.MkdirAll(bundle, 0o711); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	p := newPod(d, "pod1", "")
	if _, err := p.CreateSandbox(t.Context(), &sandbox.CreateSandboxRequest{SandboxID: p.id, BundlePath: p.bundle, Annotations: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	started, err := p.StartSandbox(t.Context(), &sandbox.StartSandboxRequest{SandboxID: p.id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "root", "ns", p.id)); err != nil {
		t.Errorf("the runtime's options are not the pod's: %v", err)
	}
	out := d.fifo("out")
	said := d.reader(out)
	s := p.member(t, "c", started.Pid, hulltest.Args("hostname"))
	s.create(&task.CreateTaskRequest{Stdout: out})
	s.run("")
	if got := <-said; got != "given (none)\n" {
		t.Errorf("said %q", got)
	}
	if err := json.Unmarshal(started.Spec.Value, &spec); err != nil || spec.Annotations["k"] != "v" {
		t.Errorf("spec %s, %v", started.Spec.Value, err)
	}
}
