package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

const arch = runtime.GOARCH

// sleeps is a program that ends at once when it is told to, even as process 1.
const sleeps = "trap 'exit 0' TERM; while :; do sleep 0.05; done"

// A pod is one of a file.
type pod struct {
	n    *node
	name string
	file string
}

// box is a container of busybox's shell.
func box(name, script string) v1.Container {
	return v1.Container{Name: name, Image: boxImage, ImagePullPolicy: v1.PullNever, Command: []string{"sh", "-c", script}}
}

// start gives the kubelet a pod, which is taken away at the end of the test.
func (n *node) start(t *testing.T, name string, spec v1.PodSpec) *pod {
	t.Helper()
	return n.startFor(t, name, 20, spec)
}

// startFor starts a pod that is given some seconds to end.
func (n *node) startFor(t *testing.T, name string, grace int64, spec v1.PodSpec) *pod {
	t.Helper()
	spec.TerminationGracePeriodSeconds = &grace
	text, err := json.Marshal(v1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": name}},
		Spec:       spec,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{n: n, name: name, file: filepath.Join(n.dir, "pods", name+".json")}
	// The kubelet ignores names that begin with a dot.
	hidden := filepath.Join(n.dir, "pods", "."+name)
	if err := errors.Join(os.WriteFile(hidden, text, 0o644), os.Rename(hidden, p.file)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
	return p
}

func ptr[T any](v T) *T { return &v }

// stop takes the pod away and waits until nothing is left of it.
func (p *pod) stop(t *testing.T) {
	t.Helper()
	if t.Failed() {
		if v, err := p.n.pod(p.name); err == nil {
			text, _ := json.MarshalIndent(v.Status, "", " ")
			t.Logf("%s: %s", p.name, text)
		}
	}
	if err := os.Remove(p.file); errors.Is(err, os.ErrNotExist) {
		return
	}
	become(t, p.name+" is gone", func() error {
		if _, err := p.n.pod(p.name); !errors.Is(err, errGone) {
			return errors.Join(errors.New("it is still there"), err)
		}
		// What the kubelet forgets at once may still run; what has ended containerd keeps until the kubelet collects it.
		var err error
		ctr := func(args ...string) string {
			out, err2 := exec.Command(filepath.Join(enginesDir, "ctr"), append([]string{"--address", p.n.socket(), "--namespace", "k8s.io"}, args...)...).Output()
			err = errors.Join(err, err2)
			return string(out)
		}
		tasks := ctr("tasks", "ls", "-q")
		for id := range strings.FieldsSeq(ctr("containers", "ls", "-q", `labels."io.kubernetes.pod.name"==`+p.name+"-"+nodeName)) {
			if strings.Contains(tasks, id) {
				err = errors.Join(err, errors.New(id+" still runs"))
			}
		}
		return err
	})
}

// become waits until the pod's state is as wanted.
func (p *pod) become(t *testing.T, what string, check func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	var v *v1.Pod
	become(t, p.name+": "+what, func() (err error) {
		if v, err = p.n.pod(p.name); err == nil && !check(v) {
			text, _ := json.Marshal(v.Status)
			err = fmt.Errorf("its status is %s", text)
		}
		return err
	})
	return v
}

// ready waits until the pod is ready.
func (p *pod) ready(t *testing.T) *v1.Pod {
	t.Helper()
	return p.become(t, "ready", isReady)
}

func isReady(v *v1.Pod) bool {
	for _, c := range v.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// status is that of a container.
func status(v *v1.Pod, container string) v1.ContainerStatus {
	for _, s := range append(v.Status.InitContainerStatuses, v.Status.ContainerStatuses...) {
		if s.Name == container {
			return s
		}
	}
	return v1.ContainerStatus{}
}

// path is that of a container, or of the pod if it has no name, at one of the kubelet's services.
func (p *pod) path(service, container string) string {
	return strings.TrimSuffix("/"+service+"/default/"+p.name+"-"+nodeName+"/"+container, "/")
}

// streams are what a program in a container reads and writes.
type streams struct {
	in       string
	open     bool // in doesn't end before the program does
	out, err bytes.Buffer
	tty      bool
}

// exec runs a program in a container, as kubectl does through the API server, and returns its status.
func (p *pod) exec(t *testing.T, container string, s *streams, args ...string) (int, error) {
	t.Helper()
	q := url.Values{"command": args, "output": {"1"}}
	if !s.tty {
		q.Set("error", "1")
	} else {
		q.Set("tty", "1")
	}
	if s.in != "" || s.open {
		q.Set("input", "1")
	}
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	return p.stream(ctx, p.path("exec", container)+"?"+q.Encode(), s)
}

func (p *pod) stream(ctx context.Context, path string, s *streams) (int, error) {
	u, err := url.Parse(base + path)
	if err != nil {
		return 0, err
	}
	e, err := remotecommand.NewSPDYExecutor(insecure, http.MethodPost, u)
	if err != nil {
		return 0, err
	}
	o := remotecommand.StreamOptions{Stdout: &s.out, Tty: s.tty}
	if !s.tty {
		o.Stderr = &s.err
	}
	if s.in != "" {
		o.Stdin = strings.NewReader(s.in)
	}
	if s.open {
		r, w := io.Pipe()
		defer w.Close()
		o.Stdin = io.MultiReader(strings.NewReader(s.in), r)
	}
	err = e.StreamWithContext(ctx, o)
	if exit := (interface{ ExitStatus() int })(nil); errors.As(err, &exit) {
		return exit.ExitStatus(), nil
	}
	return 0, err
}

var insecure = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

// says checks what a command in a container prints.
func (p *pod) says(t *testing.T, want, container string, args ...string) {
	t.Helper()
	if got := p.sh(t, container, args...); got != want {
		t.Errorf("%s: %s says %q, want %q", p.name, strings.Join(args, " "), got, want)
	}
}

// sh runs a command in a container, which has to succeed, and returns what it prints.
func (p *pod) sh(t *testing.T, container string, args ...string) string {
	t.Helper()
	if len(args) == 1 {
		args = []string{"sh", "-c", args[0]}
	}
	var s streams
	code, err := p.exec(t, container, &s, args...)
	if err != nil || code != 0 {
		t.Errorf("%s: %s: status %d, %v\n%s%s", p.name, strings.Join(args, " "), code, err, s.out.String(), s.err.String())
	}
	return strings.TrimSpace(s.out.String())
}

// logs are what a container has written.
func (p *pod) logs(t *testing.T, container, query string) string {
	t.Helper()
	body, err := p.n.get(p.path("containerLogs", container) + "?" + query)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}
