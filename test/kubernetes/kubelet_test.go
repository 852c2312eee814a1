package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

func TestKubelet(t *testing.T) {
	for _, c := range classes {
		t.Run(c.name, func(t *testing.T) {
			n := startNode(t, c)
			for _, test := range []struct {
				name string
				run  func(*testing.T)
			}{
				{"life", n.life}, {"probes", n.probes}, {"streams", n.streams}, {"logs", n.logs}, {"forward", n.forward},
				{"limits", n.limits}, {"overhead", n.overhead}, {"processes", n.processes}, {"volumes", n.volumes}, {"security", n.security},
				{"grace", n.grace}, {"restarts", n.restarts},
			} {
				t.Run(test.name, test.run)
			}
			t.Run("nothing is left", n.nothingLeft)
		})
	}
}

// life is a pod with all kinds of containers, from its first to its last.
func (n *node) life(t *testing.T) {
	host := n.hostDir(t, "life")
	mounts := []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}, {Name: "host", MountPath: "/host"}}
	ends := func(name string) string {
		return "trap 'echo " + name + " ends >>/host/log; exit 0' TERM; echo " + name + " begins >>/host/log; while :; do sleep 0.05; done"
	}
	first, sidecar, second, main := box("first", "echo first >>/host/log; echo kept >/shared/file"), box("sidecar", "touch /shared/sidecar; "+ends("sidecar")),
		box("second", "test -f /shared/sidecar && echo second >>/host/log"), box("main", ends("main"))
	sidecar.RestartPolicy = ptr(v1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = probe("test", "-f", "/shared/sidecar")
	main.ReadinessProbe = probe("test", "-f", "/shared/file")
	main.Lifecycle = &v1.Lifecycle{
		PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"touch", "/shared/poststart"}}},
		PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo before >>/host/log"}}},
	}
	for _, c := range []*v1.Container{&first, &sidecar, &second, &main} {
		c.VolumeMounts = mounts
	}
	p := n.start(t, "life", v1.PodSpec{
		InitContainers: []v1.Container{first, sidecar, second},
		Containers:     []v1.Container{main},
		Volumes:        []v1.Volume{emptyDir("shared", nil), hostPath("host", host)},
	})
	v := p.ready(t)
	if s := status(v, "sidecar"); s.State.Running == nil || !s.Ready {
		t.Errorf("the sidecar's state is %v", s)
	}
	if s := status(v, "first"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
		t.Errorf("the first init container's state is %v", s)
	}
	p.says(t, "kept", "main", "cat /shared/file; test -f /shared/poststart")
	p.stop(t)
	log, err := os.ReadFile(filepath.Join(host, "log"))
	if want := "first sidecar begins second main begins before main ends sidecar ends"; strings.Join(strings.Fields(string(log)), " ") != want {
		t.Errorf("the containers' log is %q, %v, want %s", log, err, want)
	}
}

// probes of all kinds; only the containers' states tell what became of them.
func (n *node) probes(t *testing.T) {
	c := box("main", "mkdir /tmp/www; echo page >/tmp/www/index.html; httpd -p 8080 -h /tmp/www; echo started; "+sleeps)
	c.ReadinessProbe = probe("test", "-f", "/tmp/ready")
	c.ReadinessProbe.FailureThreshold = 1
	c.LivenessProbe = probe("test", "!", "-f", "/tmp/dead")
	c.LivenessProbe.FailureThreshold = 1
	c.StartupProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1, FailureThreshold: 60}
	d := box("tcp", sleeps)
	d.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1, FailureThreshold: 60}
	p := n.start(t, "probes", v1.PodSpec{Containers: []v1.Container{c, d}})
	v := p.become(t, "started", func(v *v1.Pod) bool {
		s := status(v, "main").Started
		return s != nil && *s && status(v, "tcp").Ready
	})
	if isReady(v) {
		t.Error("it is ready before its probe says so")
	}
	p.sh(t, "main", "touch /tmp/ready")
	p.ready(t)
	p.sh(t, "main", "rm /tmp/ready")
	p.become(t, "not ready", func(v *v1.Pod) bool { return !isReady(v) })
	p.sh(t, "main", "touch /tmp/dead")
	v = p.become(t, "started again", func(v *v1.Pod) bool {
		s := status(v, "main")
		return s.RestartCount == 1 && s.State.Running != nil
	})
	if last := status(v, "main").LastTerminationState.Terminated; last == nil || last.ExitCode != 0 {
		t.Errorf("the container that was ended: %v", last)
	}
	if got := p.logs(t, "main", "previous=true"); got != "started\n" {
		t.Errorf("its log is %q", got)
	}
}

// streams are exec and attach through the kubelet's server.
func (n *node) streams(t *testing.T) {
	p := n.start(t, "streams", v1.PodSpec{Containers: []v1.Container{box("main", "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo line $i; sleep 0.1; done")}})
	p.ready(t)
	var s streams
	if code, err := p.exec(t, "main", &s, "sh", "-c", "echo out; echo err >&2; exit 7"); code != 7 || err != nil || s.out.String() != "out\n" || s.err.String() != "err\n" {
		t.Errorf("exec: status %d, %v, %q, %q", code, err, s.out.String(), s.err.String())
	}
	s = streams{in: strings.Repeat("0123456789abcdef", 1<<14)}
	if code, err := p.exec(t, "main", &s, "cat"); code != 0 || err != nil || s.out.String() != s.in {
		t.Errorf("cat: status %d, %v, %d bytes of %d", code, err, s.out.Len(), len(s.in))
	}
	s = streams{}
	if code, err := p.exec(t, "main", &s, "no-such"); err == nil && code == 0 || !strings.Contains(fmt.Sprint(err, s.err.String()), "no-such") && code != 127 {
		t.Errorf("a program that isn't there: status %d, %v, %q", code, err, s.err.String())
	}
	// A terminal's input has no end while kubectl runs. Where it ends first, containerd closes the output, whatever the runtime.
	s = streams{in: "typed\n", open: true, tty: true}
	if code, err := p.exec(t, "main", &s, "sh", "-c", "tty; read x; echo got $x; exit 3"); code != 3 || err != nil || strings.Count(s.out.String(), "typed\r\n") != 2 || !strings.HasSuffix(s.out.String(), "got typed\r\n") || !strings.Contains(s.out.String(), "/dev/pts/") {
		t.Errorf("a terminal: status %d, %v, %q", code, err, s.out.String())
	}
	s = streams{tty: true}
	if code, err := p.exec(t, "main", &s, "tty"); code != 0 || err != nil || !strings.HasPrefix(s.out.String(), "/dev/pts/") {
		t.Errorf("a terminal without input: status %d, %v, %q", code, err, s.out.String())
	}
	for range 30 { // as probes come
		p.says(t, "x", "main", "echo", "x")
	}
	a := &streams{}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := p.stream(ctx, p.path("attach", "main")+"?output=1&error=1", a); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(a.out.String(), "line ") {
		t.Errorf("attach: %v, %q", err, a.out.String())
	}
}

// logs are what containers write, also while they do.
func (n *node) logs(t *testing.T) {
	p := n.start(t, "logs", v1.PodSpec{Containers: []v1.Container{box("main", "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; "+sleeps)}})
	p.ready(t)
	become(t, "log", func() error {
		// Of two streams the order is nobody's.
		got := p.logs(t, "main", "")
		if rest := strings.Replace(got, "err\n", "", 1); len(rest) != len(got)-len("err\n") || rest != "out\n"+strings.Repeat("x", 20000)+"\n" {
			return fmt.Errorf("it is %d bytes: %.40q", len(got), got)
		}
		return nil
	})
	if got := p.logs(t, "main", "tailLines=1&limitBytes=5"); got != "xxxxx" && got != "err\n" {
		t.Errorf("its end is %.40q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+p.path("containerLogs", "main")+"?follow=true&tailLines=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := anyCertificate.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	p.sh(t, "main", "echo followed >/proc/1/fd/1")
	line := make([]byte, len("followed\n"))
	if _, err := io.ReadFull(answer.Body, line); err != nil || string(line) != "followed\n" {
		t.Errorf("followed: %q, %v", line, err)
	}
}

// forward is kubectl port-forward.
func (n *node) forward(t *testing.T) {
	p := n.start(t, "forward", v1.PodSpec{Containers: []v1.Container{box("main", "mkdir /tmp/www; echo page >/tmp/www/index.html; httpd -p 8080 -h /tmp/www; httpd -p 127.0.0.1:8081 -h /tmp/www; "+sleeps)}})
	v := p.ready(t)
	get := func(address string) (body string, err error) {
		r, err := anyCertificate.Get("http://" + address + "/")
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		return string(text), err
	}
	become(t, "its address answers", func() error {
		if body, err := get(v.Status.PodIP + ":8080"); err != nil || body != "page\n" {
			return fmt.Errorf("%q, %w", body, err)
		}
		return nil
	})
	u, err := url.Parse(base + p.path("portForward", ""))
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(insecure)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var said bytes.Buffer
	f, err := portforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), []string{"127.0.0.1"}, []string{"0:8080", "0:8081"}, stop, ready, io.Discard, &said)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		if body, err := get("127.0.0.1:" + strconv.Itoa(int(port.Local))); err != nil || body != "page\n" {
			t.Errorf("port %d: %q, %v", port.Remote, body, err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err, said.String())
	}
}

// limits are those of cgroups, and what becomes of one that passes its own.
func (n *node) limits(t *testing.T) {
	c := box("main", sleeps)
	c.Resources = v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("64Mi")},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("96Mi")},
	}
	p := n.start(t, "limits", v1.PodSpec{Containers: []v1.Container{c}})
	v := p.ready(t)
	if v.Status.QOSClass != v1.PodQOSBurstable {
		t.Errorf("its class is %s", v.Status.QOSClass)
	}
	pod := "/kubepods/burstable/pod" + string(v.UID)
	for file, want := range map[string]string{
		"/sys/fs/cgroup/memory" + pod + "/memory.limit_in_bytes": strconv.Itoa(96 << 20),
		"/sys/fs/cgroup/cpu" + pod + "/cpu.cfs_quota_us":         "50000",
		"/sys/fs/cgroup/cpu" + pod + "/cpu.shares":               "102",
	} {
		if got, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q, %v, want %s", file, got, err, want)
		}
	}
	if !n.class.sandbox() {
		p.says(t, strconv.Itoa(96<<20), "main", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes")
	}
	// The first process is what grows: it is ended by the kernel, whichever isolates it.
	g := box("main", "echo begins; sleep 1; a=x; while :; do a=$a$a; done")
	g.Resources = c.Resources
	o := n.start(t, "oom", v1.PodSpec{Containers: []v1.Container{g}})
	v = o.become(t, "ended for its memory", func(v *v1.Pod) bool { return status(v, "main").LastTerminationState.Terminated != nil })
	last := status(v, "main").LastTerminationState.Terminated
	t.Logf("the end: %s, status %d, signal %d", last.Reason, last.ExitCode, last.Signal)
	if last.Reason != "OOMKilled" {
		t.Errorf("the container has ended for %q, status %d", last.Reason, last.ExitCode)
	}
}

// overhead is what a pod that does nothing takes, of which its class says how much it is beside the pod's programs.
func (n *node) overhead(t *testing.T) {
	p := n.start(t, "overhead", v1.PodSpec{Containers: []v1.Container{box("main", pauses)}})
	v := p.ready(t)
	pod := "/kubepods/besteffort/pod" + string(v.UID)
	number := func(file, field string) (n int64) {
		t.Helper()
		text, err := os.ReadFile(file)
		if err == nil {
			_, after, _ := strings.Cut("\n"+string(text), "\n"+field)
			_, err = fmt.Sscan(after, &n)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return n
	}
	memory, cpu := "/sys/fs/cgroup/memory"+pod+"/", "/sys/fs/cgroup/cpuacct"+pod+"/cpuacct.usage"
	time.Sleep(2 * time.Second) // its start is over
	begin, cpuBegin := time.Now(), number(cpu, "")
	time.Sleep(10 * time.Second)
	used := time.Duration(number(cpu, "") - cpuBegin)
	// As the kubelet counts: without what the kernel would give up at once.
	bytes := number(memory+"memory.usage_in_bytes", "") - number(memory+"memory.stat", "total_inactive_file ")
	milli := 1000 * used.Seconds() / time.Since(begin).Seconds()
	t.Logf("a pod that sleeps: %.1f MiB, %.2f thousandths of a processor", float64(bytes)/(1<<20), milli)
	for _, o := range manifests(t, "runtimeclass.yaml") {
		c := o.(*nodev1.RuntimeClass)
		if c.Handler != n.class.handler || c.Overhead == nil {
			continue
		}
		if most := c.Overhead.PodFixed[v1.ResourceMemory]; bytes > most.Value() {
			t.Errorf("that is more memory than the %s of its class", most.String())
		}
		if most := c.Overhead.PodFixed[v1.ResourceCPU]; milli > float64(most.MilliValue()) {
			t.Errorf("that is more of a processor than the %s of its class", most.String())
		}
	}
}

// processes are those of a pod, which share a namespace or not.
func (n *node) processes(t *testing.T) {
	for _, share := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared %v", share), func(t *testing.T) {
			p := n.start(t, fmt.Sprintf("processes-%v", share), v1.PodSpec{
				ShareProcessNamespace: &share,
				Containers:            []v1.Container{box("a", "trap 'exit 0' TERM; echo $$$$ >/tmp/pid; while :; do sleep 0.071; done"), box("b", sleeps)},
			})
			p.ready(t)
			if out := p.sh(t, "b", "ps", "-o", "args"); strings.Contains(out, "0.071") != share {
				t.Errorf("the other container sees:\n%s", out)
			}
			if pid := p.sh(t, "a", "cat /tmp/pid"); (pid == "1") == share {
				t.Errorf("the process's id is %s", pid)
			}
			if !share {
				return
			}
			// One container may end the other's process then.
			p.sh(t, "b", "kill $(ps -o pid,args | awk '/[w]hile.*0.071/ {print $1}')")
			p.become(t, "started again", func(v *v1.Pod) bool { return status(v, "a").RestartCount == 1 && status(v, "a").State.Running != nil })
		})
	}
}

// volumes are what a kubelet mounts, and files that it makes.
func (n *node) volumes(t *testing.T) {
	host := n.hostDir(t, "volumes")
	if err := os.MkdirAll(filepath.Join(host, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(host, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("file", "of the host\n")
	write("a/b/file", "below\n")
	c := box("main", sleeps)
	c.VolumeMounts = []v1.VolumeMount{
		{Name: "empty", MountPath: "/empty"}, {Name: "memory", MountPath: "/memory"}, {Name: "host", MountPath: "/host"},
		{Name: "host", MountPath: "/readonly", ReadOnly: true}, {Name: "host", MountPath: "/below", SubPath: "a/b"},
		{Name: "file", MountPath: "/etc/one"}, {Name: "self", MountPath: "/self"},
	}
	c.Env = []v1.EnvVar{{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}
	c.TerminationMessagePath = "/dev/termination-log"
	d := box("other", sleeps)
	d.VolumeMounts = c.VolumeMounts
	p := n.start(t, "volumes", v1.PodSpec{
		Containers:  []v1.Container{c, d},
		HostAliases: []v1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"alias.test"}}},
		DNSPolicy:   v1.DNSNone,
		DNSConfig:   &v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}},
		Volumes: []v1.Volume{
			emptyDir("empty", nil), emptyDir("memory", &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}),
			hostPath("host", host), hostPath("file", filepath.Join(host, "file")),
			{Name: "self", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
		},
	})
	v := p.ready(t)
	p.says(t, "of the host", "main", "cat /host/file")
	p.says(t, "of the host", "main", "cat /etc/one")
	p.says(t, "below", "main", "cat /below/file")
	p.says(t, `app="volumes"`, "main", "cat /self/labels")
	p.says(t, v.Status.PodIP, "main", "echo $IP")
	p.says(t, "192.0.2.1 alias.test", "main", "grep alias /etc/hosts | tr '\t' ' '")
	p.says(t, "nameserver 192.0.2.9", "main", "cat /etc/resolv.conf")
	p.says(t, "volumes-"+nodeName, "main", "hostname")
	p.sh(t, "main", "echo both >/empty/file; echo both >/memory/file; echo container >/host/new")
	p.says(t, "both both", "other", "echo $(cat /empty/file /memory/file)")
	if got, err := os.ReadFile(filepath.Join(host, "new")); err != nil || string(got) != "container\n" {
		t.Errorf("the host sees %q, %v", got, err)
	}
	write("later", "later\n")
	p.says(t, "later", "main", "cat /host/later")
	p.says(t, "refused", "main", "touch /readonly/x 2>/dev/null || echo refused")
	p.says(t, "refused", "main", "dd if=/dev/zero of=/memory/large bs=1M count=2 2>/dev/null || echo refused")
}

// security is what a security context asks for.
func (n *node) security(t *testing.T) {
	c := box("main", sleeps)
	c.SecurityContext = &v1.SecurityContext{
		RunAsUser: ptr(int64(1000)), RunAsNonRoot: ptr(true), ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false),
		Capabilities:   &v1.Capabilities{Drop: []v1.Capability{"ALL"}},
		SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault},
	}
	c.VolumeMounts = []v1.VolumeMount{{Name: "empty", MountPath: "/empty"}}
	p := n.start(t, "security", v1.PodSpec{
		SecurityContext: &v1.PodSecurityContext{FSGroup: ptr(int64(2000)), SupplementalGroups: []int64{3000}, Sysctls: []v1.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "40000 50000"}}},
		Containers:      []v1.Container{c},
		Volumes:         []v1.Volume{emptyDir("empty", nil)},
	})
	p.ready(t)
	p.says(t, "1000", "main", "id -u")
	p.says(t, "2000 3000", "main", "id -G | tr ' ' '\\n' | grep '[23]000' | sort | xargs")
	p.says(t, "0000000000000000 1 2", "main", "sed -n 's/^\\(CapEff\\|CapBnd\\|NoNewPrivs\\|Seccomp\\):\t//p' /proc/self/status | uniq | xargs")
	p.says(t, "refused", "main", "touch /tmp/x 2>/dev/null || echo refused")
	p.says(t, "2000", "main", "touch /empty/x; stat -c %g /empty/x")
	p.says(t, "40000 50000", "main", "xargs </proc/sys/net/ipv4/ip_local_port_range")
}

// grace is the time that a pod has to end, and what comes then.
func (n *node) grace(t *testing.T) {
	host := n.hostDir(t, "grace")
	c := box("main", "trap 'echo asked >>/host/log' TERM; echo begins >>/host/log; while :; do sleep 0.05; echo >>/host/beats; done")
	c.VolumeMounts = []v1.VolumeMount{{Name: "host", MountPath: "/host"}}
	p := n.startFor(t, "grace", 3, v1.PodSpec{Containers: []v1.Container{c}, Volumes: []v1.Volume{hostPath("host", host)}})
	p.ready(t)
	begin := time.Now()
	p.stop(t)
	if d := time.Since(begin); d < 3*time.Second || d > 30*time.Second {
		t.Errorf("it took %v, of which 3 s are its own", d)
	}
	if log, err := os.ReadFile(filepath.Join(host, "log")); err != nil || string(log) != "begins\nasked\n" {
		t.Errorf("its log is %q, %v", log, err)
	}
	beats, err := os.ReadFile(filepath.Join(host, "beats"))
	time.Sleep(300 * time.Millisecond)
	if later, err2 := os.ReadFile(filepath.Join(host, "beats")); err != nil || err2 != nil || len(beats) != len(later) {
		t.Errorf("it goes on: %d and then %d beats, %v", len(beats), len(later), errors.Join(err, err2))
	}
}

// restarts of the kubelet and of containerd are nothing to a pod.
func (n *node) restarts(t *testing.T) {
	c := box("main", "echo begins; "+sleeps)
	c.ReadinessProbe = probe("true")
	p := n.start(t, "restarts", v1.PodSpec{Containers: []v1.Container{c, box("ends", "trap 'exit 0' TERM; while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 5")}})
	before := p.ready(t)
	end(t, n.kubelet, syscall.SIGKILL)
	end(t, n.containerd, syscall.SIGKILL)
	n.startContainerd(t)
	n.startKubelet(t)
	after := p.ready(t)
	if a, b := status(before, "main"), status(after, "main"); a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		t.Errorf("the container %s is %s now, started again %d times", a.ContainerID, b.ContainerID, b.RestartCount)
	}
	p.says(t, "x", "main", "echo", "x")
	p.sh(t, "ends", "touch /tmp/end")
	after = p.become(t, "a container has ended and begun", func(v *v1.Pod) bool { return status(v, "ends").RestartCount == 1 })
	if last := status(after, "ends").LastTerminationState.Terminated; last == nil || last.ExitCode != 5 {
		t.Errorf("it has ended with %v", last)
	}
}

// running are the programs of hull's that run, in whatever machine.
func running() (programs []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if base := filepath.Base(exe); err == nil && (strings.HasPrefix(base, "hull") || strings.HasPrefix(base, "containerd-shim")) {
			programs = append(programs, e.Name()+" "+exe)
		}
	}
	return programs, nil
}

func nothingRuns(t *testing.T) {
	t.Helper()
	become(t, "nothing of hull's runs", func() error {
		programs, err := running()
		if len(programs) > 0 {
			err = errors.New(strings.Join(programs, "\n"))
		}
		return err
	})
}

// nothingLeft looks for what pods leave once they are gone.
func (n *node) nothingLeft(t *testing.T) {
	become(t, "nothing is left of hull's", func() error {
		left, err := running()
		if err != nil {
			return err
		}
		states, _ := filepath.Glob("/run/containerd/hull/k8s.io/*")
		cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/kubepods/*/pod*")
		more, _ := filepath.Glob("/sys/fs/cgroup/*/kubepods/pod*")
		left = append(append(append(left, states...), cgroups...), more...)
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); strings.Contains(f[4], "/rootfs") || strings.Contains(f[4], "/volumes/") {
				left = append(left, f[4])
			}
		}
		if len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
}

func (n *node) hostDir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(n.dir, "host", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func probe(args ...string) *v1.Probe {
	return &v1.Probe{
		ProbeHandler:  v1.ProbeHandler{Exec: &v1.ExecAction{Command: args}},
		PeriodSeconds: 1, FailureThreshold: 60, TimeoutSeconds: 10,
	}
}

func emptyDir(name string, source *v1.EmptyDirVolumeSource) v1.Volume {
	if source == nil {
		source = &v1.EmptyDirVolumeSource{}
	}
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: source}}
}

func hostPath(name, path string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}}}
}
