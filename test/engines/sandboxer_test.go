package engines

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"hull/hulltest"
)

// TestSandboxer has hull's shim make the pods (sandboxer = "shim"): without the container of an image that only waits.
func TestSandboxer(t *testing.T) {
	need(t, "containerd-shim-runc-v2")
	hulltest.Require(t, hulltest.Need{Name: "containerd-newest", Check: func() error {
		if os.Getenv(containerdDir) == "" {
			return os.ErrNotExist
		}
		return nil
	}})
	d := startContainerd(t, newestRelease(), "/run/containerd-sandboxer")
	defer func() { d.end(t, os.Interrupt) }()
	crictl := crictlOf(t, d)
	for _, c := range containerdContestants(t) {
		if !c.shim() {
			continue
		}
		c.name += podsSuffix
		t.Run(c.name, func(t *testing.T) {
			t.Run("life", func(t *testing.T) {
				clean(t)
				testPod(t, crictl, c)
			})
			t.Run("pod", func(t *testing.T) {
				clean(t)
				testPodAlone(t, d, crictl, c)
			})
		})
	}
}

// testPodAlone is about what the shim does for a pod that a pause container and containerd do else; and about containerd ending meanwhile.
func testPodAlone(t *testing.T, d *containerd, crictl client, c contestant) {
	p := runPod(t, crictl, c, map[string]any{
		"dns_config": map[string]any{"servers": []string{"192.0.2.1"}, "searches": []string{"pods.example"}, "options": []string{"ndots:5"}},
		"linux":      map[string]any{"cgroup_parent": podsCgroup(), "security_context": map[string]any{"namespace_options": map[string]any{}}}, // one pid namespace
	})
	shared := map[string]any{"linux": map[string]any{"security_context": map[string]any{"namespace_options": map[string]any{}}}}
	ready := func(want string) {
		t.Helper()
		crictl.says(t, want, "inspectp", "-o", "go-template", "--template", "{{.status.state}}", p.id)
	}
	ready("SANDBOX_READY")
	if out := d.ok(t, "--namespace", "k8s.io", "containers", "ls", "-q"); strings.Contains(out, p.id) {
		t.Errorf("the pod has a container: %s", out)
	}
	a := p.start(t, shared, "sh", "-c", "echo shared >/dev/shm/mark; "+sleeps)
	b := p.start(t, shared, "sh", "-c", sleeps)
	crictl.become(t, "shared", "exec", "-s", b, "cat", "/dev/shm/mark")
	crictl.says(t, "search pods.example\nnameserver 192.0.2.1\noptions ndots:5", "exec", "-s", b, "cat", "/etc/resolv.conf")
	hostname := crictl.ok(t, "exec", "-s", b, "hostname")
	crictl.says(t, hostname, "exec", "-s", b, "cat", "/etc/hostname")
	if !strings.HasPrefix(hostname, "pod-") {
		t.Errorf("hostname %q", hostname)
	}
	if out := crictl.ok(t, "exec", "-s", b, "ps", "-o", "pid,args"); !strings.Contains(out, "1 /pause") || !strings.Contains(out, "shared >/dev/shm/mark") {
		t.Errorf("processes of the pod:\n%s", out)
	}
	if out := crictl.ok(t, "statsp", "-o", "json", "--id", p.id); !strings.Contains(out, "workingSetBytes") {
		t.Errorf("stats: %s", out)
	}
	d.end(t, syscall.SIGKILL)
	d.start(t)
	ready("SANDBOX_READY")
	crictl.says(t, "shared", "exec", "-s", a, "cat", "/dev/shm/mark")
	c3 := p.start(t, shared, "sh", "-c", "exit 3")
	crictl.become(t, "CONTAINER_EXITED 3", "inspect", "-o", "go-template", "--template", "{{.status.state}} {{.status.exitCode}}", c3)
	crictl.ok(t, "stopp", p.id)
	ready("SANDBOX_NOTREADY")
	crictl.ok(t, "rmp", p.id)
}
