package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// soon is how long is waited for what a kubelet does by itself: its loops have periods of seconds.
const soon = 90 * time.Second

// Names of images, which are never pulled.
const (
	boxImage   = "localhost/box:latest"
	pauseImage = "localhost/pause:latest"
)

// A class is a runtime as Kubernetes knows it: by the name of a RuntimeClass, and by containerd's name for the handler.
type class struct{ name, handler string }

var classes = []class{{"hull", "hull"}, {"hull-sandbox", "hull-s"}}

// With HULL_TEST_PEER, another handler that containerd has by itself, such as runc, pods are that one's: so one sees whether a
// failure is hull's.
func init() {
	if peer := os.Getenv("HULL_TEST_PEER"); peer != "" {
		classes = []class{{peer, peer}}
	}
}

func (c class) sandbox() bool { return c.handler == "hull-s" }

// A node is containerd and a kubelet.
type node struct {
	class      class // of pods: without an API server there are no RuntimeClasses, and all have containerd's default
	api        *api  // or nil
	dir        string
	containerd *exec.Cmd
	kubelet    *exec.Cmd
}

const (
	nodeName = "node"
	nodeIP   = "10.98.0.1"
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

// containerdConfig is that of version 3, of containerd 2. hull install adds the runtimes. Without restrict_oom_score_adj a root
// without CAP_SYS_RESOURCE can't start a container.
const containerdConfig = `version = 3
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "%[2]s"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "%[1]s/cni"
`

// kubeletConfig has an open door: what calls it is the test.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://%[1]s/socket
staticPodPath: %[1]s/pods
volumePluginDir: %[1]s/plugins
fileCheckFrequency: 200ms
syncFrequency: 1s
evictionHard: {memory.available: 1Mi, nodefs.available: 0%%, imagefs.available: 0%%, nodefs.inodesFree: 0%%, imagefs.inodesFree: 0%%}
localStorageCapacityIsolation: false
resolvConf: %[1]s/resolv.conf
contentType: application/json
configMapAndSecretChangeDetectionStrategy: Watch
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
`

const kubeconfig = `apiVersion: v1
kind: Config
current-context: tests
contexts: [{name: tests, context: {cluster: tests, user: tests}}]
clusters: [{name: tests, cluster: {server: "%s"}}]
users: [{name: tests, user: {}}]
`

// startNode starts containerd and a kubelet, whose pods are of a class, and ends both with the test.
func startNode(t *testing.T, c class) *node {
	t.Helper()
	return startNodeOf(t, c, nil)
}

// startNodeOf is startNode with what tells the kubelet of pods beside files, or nil.
func startNodeOf(t *testing.T, c class, a *api) *node {
	t.Helper()
	need(t)
	n := &node{class: c, api: a, dir: "/run/node-" + c.name}
	n.makeFiles(t)
	n.startContainerd(t)
	t.Cleanup(func() { end(t, n.containerd, syscall.SIGTERM) })
	run(t, filepath.Join(enginesDir, "ctr"), "--address", n.socket(), "--namespace", "k8s.io", "image", "import", filepath.Join(n.dir, "image.tar"))
	n.startKubelet(t)
	t.Cleanup(func() { end(t, n.kubelet, syscall.SIGTERM) })
	return n
}

func (n *node) socket() string { return n.dir + "/socket" }

// makeFiles writes all that the daemons read.
func (n *node) makeFiles(t *testing.T) {
	t.Helper()
	for _, d := range []string{"cni", "pods", "plugins", "host"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("ip", "link", "add", "uplink", "type", "bridge").CombinedOutput(); err == nil {
		run(t, "ip", "addr", "add", nodeIP+"/24", "dev", "uplink")
		run(t, "ip", "link", "set", "uplink", "up")
		run(t, "ip", "route", "add", "default", "dev", "uplink") // a kubelet wants one
	} else if !bytes.Contains(out, []byte("File exists")) {
		t.Fatalf("%v: %s", err, out)
	}
	image, err := boxImages()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cni/10-pods.conflist": cniConfig,
		"config.toml":          fmt.Sprintf(containerdConfig, n.dir, n.class.handler),
		"kubelet.yaml":         fmt.Sprintf(kubeletConfig, n.dir),
		"resolv.conf":          "nameserver 192.0.2.53\n",
		"image.tar":            string(image),
	} {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	said := run(t, filepath.Join(installer(t), "libexec/hull/hull-node"), "--config", filepath.Join(n.dir, "config.toml"), "--unit=", "install")
	if !strings.Contains(said, "runtime hull-s is added: /opt/hull/bin/containerd-shim-hull-v1") || !strings.Contains(said, "containerd has to be restarted") {
		t.Fatalf("hull-node says: %s", said)
	}
}

// run runs a program that must succeed, and returns what it prints.
func run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (n *node) startContainerd(t *testing.T) {
	t.Helper()
	n.containerd = daemon(t, filepath.Join(n.dir, "containerd.log"), filepath.Join(enginesDir, "containerd"), "--log-level=warn",
		"--config", filepath.Join(n.dir, "config.toml"), "--root", "/var/lib/containerd-"+n.class.name, "--state", n.dir+"/state", "--address", n.socket())
	become(t, "containerd answers", func() error {
		return exec.Command(filepath.Join(enginesDir, "ctr"), "--address", n.socket(), "version").Run()
	})
}

func (n *node) startKubelet(t *testing.T) {
	t.Helper()
	args := []string{filepath.Join(kubeDir, "kubelet"),
		"--config=" + filepath.Join(n.dir, "kubelet.yaml"), "--root-dir=/var/lib/kubelet-" + n.class.name, "--cert-dir=" + filepath.Join(n.dir, "pki"),
		"--hostname-override=" + nodeName, "--node-ip=" + nodeIP, "--v=2"}
	if n.api != nil {
		file := filepath.Join(n.dir, "kubeconfig")
		if err := os.WriteFile(file, []byte(fmt.Sprintf(kubeconfig, n.api.server.URL)), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--kubeconfig="+file)
	}
	n.kubelet = daemon(t, filepath.Join(n.dir, "kubelet.log"), args...)
	become(t, "the kubelet answers", func() error {
		_, err := n.get("/healthz")
		return err
	})
}

// daemon starts a program with its output at the end of a file.
func daemon(t *testing.T, log string, argv ...string) *exec.Cmd {
	t.Helper()
	f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	// containerd looks there for the shim of a peer, which is of its version.
	cmd.Env = append(os.Environ(), "GRPC_ENFORCE_ALPN_ENABLED=true", "PATH="+enginesDir+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logEnd(t, log)
		}
	})
	return cmd
}

func logEnd(t *testing.T, log string) {
	text, _ := os.ReadFile(log)
	lines := strings.Split(string(text), "\n")
	t.Logf("%s:\n%s", log, strings.Join(lines[max(0, len(lines)-logLines):], "\n"))
}

// logLines is how much of a daemon's log is shown of a test that has failed.
const logLines = 60

// end ends a daemon by a signal.
func end(t *testing.T, cmd *exec.Cmd, signal os.Signal) {
	t.Helper()
	_ = cmd.Process.Signal(signal)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(soon):
		_ = cmd.Process.Kill()
		t.Errorf("%s has not ended", cmd.Path)
	}
}

// become waits until there is no error any more.
func become(t *testing.T, what string, check func() error) {
	t.Helper()
	becomeWithin(t, soon, what, check)
}

func becomeWithin(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not after %v: %v", what, patience, err)
}

const base = "https://127.0.0.1:10250"

var anyCertificate = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: soon}

// get asks the kubelet.
func (n *node) get(path string) ([]byte, error) {
	r, err := anyCertificate.Get(base + path)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, r.Status, body)
	}
	return body, err
}

var errGone = errors.New("there is no such pod")

// pod is what the kubelet says of a pod.
func (n *node) pod(name string) (*v1.Pod, error) {
	body, err := n.get("/pods")
	if err != nil {
		return nil, err
	}
	var all v1.PodList
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, err
	}
	for _, p := range all.Items {
		if p.Name == name+"-"+nodeName {
			return &p, nil
		}
	}
	return nil, errGone
}
