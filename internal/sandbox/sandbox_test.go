package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/sandbox/wire"
)

// A sandbox that ends without a word about its program is explained, unless somebody has killed it.
func TestEndIsExplained(t *testing.T) {
	const exited2, sigsys, sigkill = unix.WaitStatus(2 << 8), unix.WaitStatus(unix.SIGSYS), unix.WaitStatus(unix.SIGKILL)
	const terminated = unix.WaitStatus((128 + int(unix.SIGTERM)) << 8)
	for _, test := range []struct {
		report, log string
		ws, want    unix.WaitStatus
		warning     string
	}{
		{report: "256", ws: exited2, want: 256},
		{report: "9", ws: exited2, want: sigkill},
		{log: "W1 some warning\npanic: it is full\n\ngoroutine 1 [running]:\n", ws: exited2, want: exited2, warning: ": panic: it is full"},
		{ws: exited2, want: exited2, warning: ": exit status 2"},
		{ws: terminated, want: terminated}, // while it waited for its start
		{ws: sigsys, want: sigsys, warning: "a system call that its jail forbids"},
		{ws: sigkill, want: sigkill},
		{report: "nonsense", ws: sigkill, want: sigkill},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(test.report)
		w.Close()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, wire.Log), []byte(test.log), 0o600); err != nil {
			t.Fatal(err)
		}
		warned := ""
		request := &engine.CreateRequest{Container: engine.Container{Dir: dir}, Warn: func(line string) { warned += line }}
		c := &creation{CreateRequest: request, report: r}
		if got := c.ended()(test.ws); got != test.want {
			t.Errorf("%+v: status %#x", test, got)
		}
		if test.warning == "" && warned != "" || !strings.Contains(warned, test.warning) {
			t.Errorf("%+v: warning %q", test, warned)
		}
	}
}

// What engines write: containerd and CRI-O say of which kind a container is, Podman did until 4.
func TestPodID(t *testing.T) {
	const containerd, containerdID = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
	const crio, crioID = "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"
	for _, test := range []struct {
		annotations     map[string]string
		id, field, fail string
	}{
		{annotations: nil},
		{annotations: map[string]string{containerd: "sandbox", containerdID: "p"}},
		{annotations: map[string]string{containerd: "container", containerdID: "p"}, id: "p", field: containerdID},
		{annotations: map[string]string{containerdID: "p"}},
		{annotations: map[string]string{crio: "sandbox", crioID: "p"}},
		{annotations: map[string]string{crio: "container", crioID: "p"}, id: "p", field: crioID},
		{annotations: map[string]string{crioID: "p"}, id: "p", field: crioID},
		{annotations: map[string]string{crio: "container"}, fail: "annotations." + crioID},
		{annotations: map[string]string{crio: "pod", crioID: "p"}, fail: "neither sandbox nor container"},
	} {
		id, field, err := PodID(test.annotations)
		if test.field != "" {
			test.field = "annotations." + test.field
		}
		if id != test.id || field != test.field || (err == nil) != (test.fail == "") || err != nil && !strings.Contains(err.Error(), test.fail) {
			t.Errorf("%v: got %q, %q, %v", test.annotations, id, field, err)
		}
	}
}
