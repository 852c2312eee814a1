package engines

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// cniConfig is a bridge, as clusters of one machine have it.
const cniConfig = `{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.85.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`

// ownPIDs is a security context with a pid namespace for each container, as Kubernetes has it by default.
var ownPIDs = map[string]any{"namespace_options": map[string]any{"pid": 1}}

// podsCgroup is what a kubelet names as the cgroup of pods.
func podsCgroup() string {
	if emulated {
		return "pods.slice"
	}
	return "/pods"
}

// A pod is one of CRI, with what made it.
type pod struct {
	crictl client
	dir    string
	config string // the file
	id     string
}

// runPod starts a pod.
func runPod(t *testing.T, crictl client, c contestant, more map[string]any) *pod {
	t.Helper()
	n := name("pod")
	p := &pod{crictl: crictl, dir: t.TempDir()}
	config := map[string]any{
		"metadata":      map[string]any{"name": n, "namespace": "default", "uid": n, "attempt": 1},
		"hostname":      n,
		"log_directory": p.dir,
		"linux":         map[string]any{"cgroup_parent": podsCgroup(), "security_context": ownPIDs},
	}
	for k, v := range more {
		config[k] = v
	}
	p.config = writeJSON(t, p.dir, "pod.json", config)
	p.id = crictl.ok(t, "runp", "--runtime="+c.name, p.config)
	t.Cleanup(func() {
		if t.Failed() {
			crictl.run(t, "rmp", "-f", p.id)
		}
	})
	return p
}

func writeJSON(t testing.TB, dir, name string, v any) string {
	t.Helper()
	path := filepath.Join(dir, name)
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// start creates and starts a container of the pod.
func (p *pod) start(t *testing.T, more map[string]any, args ...string) (id string) {
	t.Helper()
	n := name("container")
	config := map[string]any{
		"metadata": map[string]any{"name": n, "attempt": 1},
		"image":    map[string]any{"image": imageName},
		"command":  args,
		"log_path": n + ".log",
		"linux":    map[string]any{"security_context": ownPIDs},
	}
	for k, v := range more {
		config[k] = v
	}
	id = p.crictl.ok(t, "create", p.id, writeJSON(t, p.dir, n+".json", config), p.config)
	p.crictl.ok(t, "start", id)
	return id
}

// crictlOf is the command line for CRI of a daemon.
func crictlOf(t testing.TB, d *containerd) client {
	t.Helper()
	c := crictlAt(t, d.dir+"/socket")
	if err := os.MkdirAll("/etc/cni/net.d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/etc/cni/net.d/10-pods.conflist", []byte(cniConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	c.become(t, "true", "info", "-o", "go-template", "--template", networkReady)
	return c
}

// crictlAt is the command line for CRI of who listens at a socket.
func crictlAt(t testing.TB, socket string) client {
	t.Helper()
	bin := os.Getenv(containerdDir)
	if bin == "" {
		t.Skip("needs crictl, which make test-engines builds")
	}
	socket = "unix://" + socket
	// By itself it gives up after 2 s.
	return client{argv: []string{filepath.Join(bin, "crictl"), "--timeout", patience.String(), "--runtime-endpoint", socket, "--image-endpoint", socket}}
}

// networkReady has crictl info print "true" when pods can have a network.
const networkReady = `{{range .status.conditions}}{{if eq .type "NetworkReady"}}{{.status}}{{end}}{{end}}`

func TestCRI(t *testing.T) {
	eachContainerd(t, func(t *testing.T, d *containerd, c contestant) { testPod(t, crictlOf(t, d), c) })
}

// testPod has a pod of two containers live.
func testPod(t *testing.T, crictl client, c contestant) {
	state := func(id string) []string {
		return []string{"inspect", "-o", "go-template", "--template", "{{.status.state}}", id}
	}
	p := runPod(t, crictl, c, nil)
	a := p.start(t, nil, "sh", "-c", "echo out; echo err >&2; echo page >/tmp/index.html; httpd -h /tmp -p 80; "+sleeps)
	b := p.start(t, map[string]any{
		"envs": []any{map[string]any{"key": "K", "value": "v"}},
		"linux": map[string]any{
			"security_context": ownPIDs,
			"resources":        map[string]any{"memory_limit_in_bytes": 64 << 20, "cpu_quota": 50000, "cpu_period": 100000},
		},
	}, "sh", "-c", sleeps)
	t.Run("exec", func(t *testing.T) {
		crictl.become(t, "out", "logs", a)
		crictl.says(t, "v", "exec", "-s", b, "sh", "-c", "echo $K")
		crictl.says(t, "synchronously", "exec", "-s", a, "echo", "synchronously")
		if r := crictl.run(t, "exec", "-s", a, "sh", "-c", "exit 3"); r.code == 0 || !strings.Contains(r.err, "3") {
			t.Error(r)
		}
		if r := crictl.run(t, "exec", a, "sh", "-c", "echo streamed; exit 3"); r.code == 0 || r.out != "streamed\n" {
			t.Error(r)
		}
		if r := crictl.feed(t, "typed", "exec", "-i", a, "cat"); r.out != "typed" || r.code != 0 {
			t.Error(r)
		}
		if r := crictl.run(t, "exec", "-s", a, "no-such"); r.code == 0 || !strings.Contains(r.err, "executable file not found in $PATH") {
			t.Error(r)
		}
		crictl.terminal(t, "exec", "-it", a, "sh").shell(t, 1)
	})
	t.Run("shared", func(t *testing.T) {
		// One network and one set of IPC objects, two of files and processes.
		crictl.says(t, "page", "exec", "-s", b, "wget", "-qO-", "http://127.0.0.1/")
		crictl.ok(t, "exec", "-s", a, "touch", "/tmp/a")
		if r := crictl.run(t, "exec", "-s", b, "ls", "/tmp/a"); r.code == 0 {
			t.Error(r)
		}
		address := crictl.ok(t, "inspectp", "-o", "go-template", "--template", "{{.status.network.ip}}", p.id)
		client{argv: []string{"busybox", "wget", "-qO-"}}.become(t, "page", "http://"+address+"/")
		if out := crictl.ok(t, "exec", "-s", b, "ps", "-o", "args"); strings.Contains(out, "httpd") {
			t.Errorf("processes of the other container: %s", out)
		}
	})
	t.Run("stats", func(t *testing.T) {
		var stats struct {
			Stats []struct {
				Attributes struct{ ID string }
				Memory     struct{ WorkingSetBytes struct{ Value json.Number } }
			}
		}
		out := crictl.ok(t, "stats", "-o", "json", "--id", a)
		if err := json.Unmarshal([]byte(out), &stats); err != nil || len(stats.Stats) != 1 || stats.Stats[0].Memory.WorkingSetBytes.Value == "" {
			t.Errorf("%v: %s", err, out)
		}
		crictl.ok(t, "update", "--memory", "100663296", b)
	})
	t.Run("host network", func(t *testing.T) { podOnHost(t, crictl, c) })
	t.Run("stop", func(t *testing.T) {
		crictl.ok(t, "stop", "--timeout=10", a)
		crictl.says(t, "CONTAINER_EXITED", state(a)...)
		crictl.says(t, "CONTAINER_RUNNING", state(b)...)
		crictl.ok(t, "rm", a)
		a = p.start(t, nil, "sh", "-c", "exit 4")
		crictl.become(t, "CONTAINER_EXITED 4", "inspect", "-o", "go-template", "--template", "{{.status.state}} {{.status.exitCode}}", a)
		a = p.start(t, nil, "sh", "-c", "kill -9 $$; sleep 0.1; a=x; while :; do a=$a$a; done & sleep 1000")
		crictl.ok(t, "stop", "--timeout=0", a)
		crictl.says(t, "CONTAINER_EXITED", state(a)...)
	})
	crictl.ok(t, "stopp", p.id)
	crictl.ok(t, "rmp", p.id)
}

// TestPodsAtOnce starts 50 pods at once, each of which gets a network, and says how long it takes until all are there.
func TestPodsAtOnce(t *testing.T) {
	long(t)
	need(t, "containerd", "ctr", "containerd-shim-runc-v2")
	all := containerdContestants(t)
	d := startContainerd(t, newestRelease(), "/run/containerd-pods")
	defer d.end(t, os.Interrupt)
	crictl := crictlOf(t, d)
	crictl.argv = append(crictl.argv, "--timeout", patience.String())
	eachOf(t, all, func(t *testing.T, c contestant) {
		clean(t)
		const pods = 50
		took, ids := podsAtOnce(t, crictl, c, pods)
		if got := strings.Fields(crictl.ok(t, "pods", "-q", "--state", "ready")); len(got) != pods {
			t.Errorf("%d pods are ready", len(got))
		}
		t.Logf("%d pods in %.1f s", pods, took.Seconds())
		crictl.ok(t, append([]string{"rmp", "-f"}, ids...)...)
	})
}

// podsAtOnce starts so many pods, and says how long it took until all of them ran.
func podsAtOnce(t *testing.T, crictl client, c contestant, pods int) (took time.Duration, ids []string) {
	t.Helper()
	dir := t.TempDir()
	ids = make([]string, pods)
	var wg sync.WaitGroup
	begun := time.Now()
	for i := range pods {
		n := name("pod")
		file := writeJSON(t, dir, n+".json", map[string]any{
			"metadata": map[string]any{"name": n, "namespace": "default", "uid": n, "attempt": 1}, "hostname": n, "log_directory": dir,
			"linux": map[string]any{"cgroup_parent": podsCgroup(), "security_context": ownPIDs},
		})
		wg.Go(func() {
			r := crictl.run(t, "runp", "--runtime="+c.name, file)
			if r.code != 0 {
				t.Error(r)
			}
			ids[i] = strings.TrimSpace(r.out)
		})
	}
	wg.Wait()
	return time.Since(begun), ids
}

// podOnHost is a pod with the host's network, which has the host's name by that.
func podOnHost(t *testing.T, crictl client, c contestant) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "the host's") })}
	go server.Serve(l)
	defer server.Close()
	security := map[string]any{"security_context": map[string]any{"namespace_options": map[string]any{"pid": 1, "network": 2}}}
	p := runPod(t, crictl, c, map[string]any{"hostname": "", "linux": map[string]any{
		"cgroup_parent": podsCgroup(), "security_context": security["security_context"],
	}})
	id := p.start(t, map[string]any{"linux": security}, "sh", "-c", sleeps)
	crictl.says(t, host, "exec", "-s", id, "hostname")
	crictl.says(t, "the host's", "exec", "-s", id, "wget", "-qO-", "http://"+l.Addr().String()+"/")
	crictl.ok(t, "rmp", "-f", p.id)
}
