package kubernetes

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"hull/hulltest/ociimage"
)

// later is how long is waited for what several programs do one after the other.
const later = 3 * soon

// workers is how many a cluster has.
const workers = 3

// bothLabels are those of a node that can run pods of both classes.
const bothLabels = "hull.run/native=true hull.run/sandbox=true"

// replicas is how many pods each Deployment has.
const replicas = 4

// serving are the containers of a pod that answers with its version.
const serving = `[{name: main, image: "localhost/box:latest", imagePullPolicy: Never,
        command: [sh, -c, "mkdir /tmp/www; echo $VERSION >/tmp/www/index.html; httpd -p 8080 -h /tmp/www; echo begins; trap 'exit 0' TERM; while :; do sleep 0.2; done"],
        env: [{name: VERSION, value: one}],
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, timeoutSeconds: 10}}]
`

// deployment is one of pods of a class.
const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 2}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      runtimeClassName: %[1]s
      terminationGracePeriodSeconds: 5
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: %[1]s}}}
      containers: ` + serving

// pinned is a pod of a class on one node.
const pinned = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s-%[2]s}
spec:
      runtimeClassName: %[1]s
      nodeSelector: {kubernetes.io/hostname: %[2]s}
      terminationGracePeriodSeconds: 5
      containers: ` + serving

// TestCluster is a cluster's life with hull: it is installed as docs/kubernetes.md says, runs Deployments of both classes, which are
// rolled, loses a worker, and is without hull in the end.
func TestCluster(t *testing.T) {
	need(t)
	startControl(t)
	clusterImages(t)
	var all []*worker
	for n := 1; n <= workers; n++ {
		w := newWorker(t, n)
		w.boot(t)
		all = append(all, w)
		t.Cleanup(func() {
			if t.Failed() {
				for _, log := range []string{"console", "containerd.service.log", "kubelet.service.log"} {
					logEnd(t, filepath.Join(w.disk, "log", log))
				}
			}
			w.kill(t)
		})
	}
	for _, w := range all {
		w.ready(t)
	}
	before := configurations(t, all)
	t.Cleanup(func() {
		if t.Failed() {
			for _, args := range []string{"get pods -A -o wide", "describe pods -A", "get nodes --show-labels", "get events -A"} {
				out, err := tryKubectl("", strings.Fields(args)...)
				t.Logf("kubectl %s: %v\n%s", args, err, out)
			}
		}
	})

	manifests := releasedManifests(t)
	kubectl(t, "apply", "-f", filepath.Join(manifests, "runtimeclass.yaml"))
	for _, c := range classes {
		if _, err := tryKubectl(fmt.Sprintf(deployment, c.name, replicas), "apply", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	// No node can run these yet, and the scheduler knows.
	for _, c := range classes {
		becomeWithin(t, later, c.name+" waits for nodes", func() error {
			for _, p := range podsOf(t, c.name) {
				if cond := condition(p, v1.PodScheduled); cond.Status != v1.ConditionFalse || cond.Reason != v1.PodReasonUnschedulable {
					return fmt.Errorf("%s: %v", p.Name, cond)
				}
			}
			return enough(t, c.name)
		})
	}
	kubectl(t, "apply", "-f", filepath.Join(manifests, "hull-system.yaml"), "-f", filepath.Join(manifests, "hull-node.yaml"))
	kubectl(t, "-n", "hull-system", "rollout", "status", "daemonset", "hull-node", "--timeout=240s")
	for _, w := range all {
		if got := hullLabels(t, w.name); got != bothLabels {
			t.Errorf("%s has the labels %q", w.name, got)
		}
		if _, err := os.Stat(w.path("/opt/hull/bin/hull")); err != nil {
			t.Error(err)
		}
	}
	for name, text := range configurations(t, all) {
		if text == before[name] {
			t.Errorf("%s: containerd's configuration is as it was", name)
		}
	}
	for _, c := range classes {
		available(t, c, "one")
		for _, w := range all {
			runsOn(t, c, w)
		}
	}

	t.Run("a Deployment is rolled", func(t *testing.T) {
		for _, c := range classes {
			kubectl(t, "set", "env", "deployment/"+c.name, "VERSION=two")
		}
		for _, c := range classes {
			least := replicas
			becomeWithin(t, later, c.name+" is rolled", func() error {
				d := get[appsv1.Deployment](t, "deployment", c.name)
				least = min(least, int(d.Status.AvailableReplicas))
				if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != replicas || s.Replicas != replicas || s.AvailableReplicas != replicas {
					return fmt.Errorf("%+v", s)
				}
				return nil
			})
			if least < replicas {
				t.Errorf("%s: %d of %d pods were there meanwhile", c.name, least, replicas)
			}
			available(t, c, "two")
		}
	})
	t.Run("another hull-node comes", func(t *testing.T) {
		was, restarts := podUIDs(t), make(map[string]int)
		const program = "/opt/hull/libexec/hull/hull-metrics"
		for _, w := range all {
			restarts[w.name] = w.restarts(t)
			// That of another release.
			if err := os.Remove(w.path(program)); err != nil {
				t.Fatal(err)
			}
			writeFile(t, w.path(program), "another\n")
		}
		kubectl(t, "-n", "hull-system", "rollout", "restart", "daemonset", "hull-node")
		kubectl(t, "-n", "hull-system", "rollout", "status", "daemonset", "hull-node", "--timeout=240s")
		for _, w := range all {
			if out, err := exec.Command(w.path(program), "--help").CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", w.name, err, out)
			}
			if got := w.restarts(t) - restarts[w.name]; got != 0 {
				t.Errorf("%s: its containerd was restarted %d times", w.name, got)
			}
			if got := hullLabels(t, w.name); got != bothLabels {
				t.Errorf("%s has the labels %q", w.name, got)
			}
		}
		if is := podUIDs(t); !slices.Equal(is, was) {
			t.Errorf("pods were %v, and are %v", was, is)
		}
		for _, c := range classes {
			available(t, c, "two")
		}
	})
	lost := all[workers-1]
	t.Run("a worker is lost", func(t *testing.T) {
		lost.kill(t)
		for _, c := range classes {
			becomeWithin(t, later, c.name+" is elsewhere", func() error {
				if where := nodesOf(t, c.name); where[lost.name] > 0 {
					return fmt.Errorf("on %v", where)
				}
				return enough(t, c.name)
			})
			available(t, c, "two")
		}
	})
	t.Run("it comes back", func(t *testing.T) {
		lost.boot(t)
		lost.ready(t)
		// What it had is gone, as the cluster knows it.
		becomeWithin(t, later, "its old pods are gone", func() error {
			for _, p := range get[v1.PodList](t, "pods").Items {
				if p.DeletionTimestamp != nil {
					return fmt.Errorf("%s on %s is ending", p.Name, p.Spec.NodeName)
				}
			}
			return nil
		})
		kubectl(t, "-n", "hull-system", "rollout", "status", "daemonset", "hull-node", "--timeout=240s")
		for _, c := range classes {
			runsOn(t, c, lost)
			// The scheduler promises nothing about where else they go.
			kubectl(t, "patch", "deployment", c.name, "--patch", `{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "`+lost.name+`"}}}}}`)
			kubectl(t, "rollout", "status", "deployment/"+c.name, "--timeout=240s")
			becomeWithin(t, later, c.name+" is there", func() error {
				if where := nodesOf(t, c.name); where[lost.name] != replicas || len(where) > 1 {
					return fmt.Errorf("on %v", where)
				}
				return nil
			})
			available(t, c, "two")
		}
	})
	t.Run("hull is removed", func(t *testing.T) {
		for _, c := range classes {
			kubectl(t, "delete", "deployment", c.name)
			kubectl(t, "wait", "--for=delete", "pod", "-l", "app="+c.name, "--timeout=240s")
		}
		system, daemonSet := filepath.Join(manifests, "hull-system.yaml"), filepath.Join(manifests, "hull-node.yaml")
		// Deleted at once its pods may not ask for their DaemonSet any more: what they do then is no matter, once both are there again.
		kubectl(t, "delete", "-f", system, "-f", daemonSet)
		kubectl(t, "apply", "-f", system, "-f", daemonSet)
		kubectl(t, "-n", "hull-system", "rollout", "status", "daemonset", "hull-node", "--timeout=240s")
		restarts := make(map[string]int)
		for _, w := range all {
			if got := hullLabels(t, w.name); got != bothLabels {
				t.Errorf("%s has the labels %q", w.name, got)
			}
			restarts[w.name] = w.restarts(t)
		}
		kubectl(t, "delete", "--cascade=foreground", "-f", daemonSet)
		for _, w := range all {
			if got := w.restarts(t) - restarts[w.name]; got != 1 {
				t.Errorf("%s: its containerd was restarted %d times", w.name, got)
			}
			if got := hullLabels(t, w.name); got != "" {
				t.Errorf("%s has the labels %q", w.name, got)
			}
			if left, _ := filepath.Glob(w.path("/opt/hull/*")); len(left) > 0 {
				t.Errorf("%s has %v", w.name, left)
			}
		}
		if after := configurations(t, all); !maps.Equal(before, after) {
			t.Errorf("containerd's configurations were %v, and are %v", before, after)
		}
		kubectl(t, "delete", "-f", system, "-f", filepath.Join(manifests, "runtimeclass.yaml"))
		nothingRuns(t)
	})
}

// clusterImages writes those that workers have without a registry.
func clusterImages(t *testing.T) {
	t.Helper()
	image, err := boxImages()
	if err != nil {
		t.Fatal(err)
	}
	installer, err := os.ReadFile(imageArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(sharedDir, "box.tar"), string(image))
	writeFile(t, filepath.Join(sharedDir, "hull-node.tar"), string(installer))
}

// pauses does nothing but to reap, as the pause of Kubernetes does.
const pauses = "trap 'exit 0' TERM; while :; do sleep 100000 & wait; done"

// boxImages is an archive of the images of pods.
func boxImages() ([]byte, error) {
	layer, err := ociimage.Busybox(nil)
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=/bin"}
	return ociimage.Layout(
		ociimage.Image{Name: boxImage, Arch: arch, Layer: layer, Config: ociimage.Config{Env: env, Cmd: []string{"sh"}}},
		ociimage.Image{Name: pauseImage, Arch: arch, Layer: layer, Config: ociimage.Config{Env: env, Cmd: []string{"sh", "-c", pauses}}})
}

// releasedManifests is a directory with the manifests of the tarball that goes with the image.
func releasedManifests(t *testing.T) string {
	t.Helper()
	archive := strings.Replace(strings.TrimSuffix(imageArchive(t), ".oci.tar"), "hull-node-", "hull-", 1) + ".tar.gz"
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.Name, "/deploy/kubernetes/") && h.Typeflag == tar.TypeReg {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, filepath.Base(h.Name)), string(text))
		}
	}
}

// ready waits until the cluster has the worker.
func (w *worker) ready(t *testing.T) {
	t.Helper()
	begun := metav1.Now()
	becomeWithin(t, later, w.name+" is ready", func() error {
		n, err := tryGet[v1.Node]("node", w.name)
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			// What was said before it was killed stays until somebody misses it.
			if c.Type == v1.NodeReady && c.Status == v1.ConditionTrue && c.LastHeartbeatTime.After(begun.Add(-1e9)) {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %v", n.Status.Conditions)
	})
}

// restarts is how often systemd has restarted containerd.
func (w *worker) restarts(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.disk, "log/console"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), restarted+"containerd.service\n")
}

// podsOf are the pods of a Deployment that are not being deleted.
func podsOf(t *testing.T, app string) (pods []v1.Pod) {
	t.Helper()
	for _, p := range get[v1.PodList](t, "pods", "-l", "app="+app).Items {
		if p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods
}

// podUIDs are those of the Deployments' pods, with how often their containers were started again.
func podUIDs(t *testing.T) (all []string) {
	t.Helper()
	for _, c := range classes {
		for _, p := range podsOf(t, c.name) {
			all = append(all, fmt.Sprint(p.UID, " ", status(&p, "main").RestartCount))
		}
	}
	slices.Sort(all)
	return all
}

// nodesOf are the nodes that pods of a Deployment are ready on, with how many.
func nodesOf(t *testing.T, app string) map[string]int {
	t.Helper()
	where := make(map[string]int)
	for _, p := range podsOf(t, app) {
		if isReady(&p) {
			where[p.Spec.NodeName]++
		}
	}
	return where
}

// enough tells whether a Deployment has all its pods, in whatever state.
func enough(t *testing.T, app string) error {
	t.Helper()
	if n := len(podsOf(t, app)); n != replicas {
		return fmt.Errorf("%d pods of %d", n, replicas)
	}
	return nil
}

func condition(p v1.Pod, kind v1.PodConditionType) v1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return v1.PodCondition{}
}

// runsOn has a pod of a class on one worker, which says by its kernel what isolates it.
func runsOn(t *testing.T, c class, w *worker) {
	t.Helper()
	name := c.name + "-" + w.name
	if _, err := tryKubectl(fmt.Sprintf(pinned, c.name, w.name), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	becomeWithin(t, later, name+" is ready", func() error {
		if p := get[v1.Pod](t, "pod", name); !isReady(&p) {
			return fmt.Errorf("its conditions are %v", p.Status.Conditions)
		}
		return nil
	})
	answers(t, get[v1.Pod](t, "pod", name), "one")
	// hull's own kernel says which it is.
	if got := strings.TrimSpace(kubectl(t, "exec", name, "--", "sh", "-c", "dmesg 2>/dev/null | grep -c gVisor; true")); (got != "0") != c.sandbox() {
		t.Errorf("%s: its kernel is another: %s lines", name, got)
	}
	if got := kubectl(t, "logs", name); got != "begins\n" {
		t.Errorf("%s: its log is %q", name, got)
	}
	kubectl(t, "delete", "pod", name)
}

// available waits until all pods of a Deployment are ready, and asks each of them for its version, from another machine.
func available(t *testing.T, c class, version string) {
	t.Helper()
	becomeWithin(t, later, c.name+" is available", func() error {
		n := 0
		for _, nodes := range nodesOf(t, c.name) {
			n += nodes
		}
		if n != replicas {
			return fmt.Errorf("%d pods of %d are ready", n, replicas)
		}
		return nil
	})
	for _, p := range podsOf(t, c.name) {
		answers(t, p, version)
	}
}

// answers asks a pod for its version.
func answers(t *testing.T, p v1.Pod, version string) {
	t.Helper()
	r, err := anyCertificate.Get("http://" + p.Status.PodIP + ":8080/")
	if err != nil {
		t.Errorf("%s on %s: %v", p.Name, p.Spec.NodeName, err)
		return
	}
	defer r.Body.Close()
	if text, err := io.ReadAll(r.Body); err != nil || string(text) != version+"\n" {
		t.Errorf("%s on %s says %q, %v, want %s", p.Name, p.Spec.NodeName, text, err, version)
	}
}

// hullLabels are a node's labels of hull's.
func hullLabels(t *testing.T, node string) string {
	t.Helper()
	var labels []string
	for k, v := range get[v1.Node](t, "node", node).Labels {
		if strings.HasPrefix(k, "hull.run/") {
			labels = append(labels, k+"="+v)
		}
	}
	slices.Sort(labels)
	return strings.Join(labels, " ")
}

// configurations are those of the workers' containerd, by the worker.
func configurations(t *testing.T, all []*worker) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	for _, w := range all {
		text, err := os.ReadFile(w.path("/etc/containerd/config.toml"))
		if err != nil {
			t.Fatal(err)
		}
		texts[w.name] = string(text)
	}
	return texts
}
