package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hull/hulltest"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// fakeHull edits a configuration as hull does: by lines at its end.
const fakeHull = `#!/bin/sh
[ "$2 $4" = "--config containerd" ] || exit 9
case $1 in
install) grep -q '^hull$' "$3" || echo hull >>"$3"; echo installed;;
uninstall) grep -v '^hull$' "$3" >"$3.new"; cat "$3.new" >"$3"; rm "$3.new";;
esac
`

// machine has an image's files, a containerd that counts its restarts, and an API server.
type machine struct {
	Machine
	log      bytes.Buffer
	restarts int
	broken   error // of the next restart
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	hulltest.Require(t, hulltest.Command("sh"))
	dir := t.TempDir()
	m := &machine{Machine: Machine{From: filepath.Join(dir, "image"), To: filepath.Join(dir, "opt/hull"), Config: filepath.Join(dir, "config.toml"), Unit: "containerd.service"}}
	m.Log = &m.log
	m.restart = func(context.Context, string) error {
		if m.broken != nil {
			return m.broken
		}
		m.restarts++
		return nil
	}
	write(t, filepath.Join(m.From, "bin/hull"), fakeHull, 0o755)
	write(t, filepath.Join(m.From, "bin/containerd-shim-hull-v1"), "shim", 0o755)
	write(t, filepath.Join(m.From, "libexec/hull/hull-sandbox"), "sandbox", 0o755)
	if err := os.Symlink("hull", filepath.Join(m.From, "bin/hull-s")); err != nil {
		t.Fatal(err)
	}
	write(t, m.Config, "version = 3\n", 0o644)
	return m
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode)); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) is(t *testing.T, config string, restarts int, files ...string) {
	t.Helper()
	got, err := os.ReadFile(m.Config)
	if err != nil || string(got) != config {
		t.Errorf("the configuration is %q, %v, want %q", got, err, config)
	}
	if m.restarts != restarts {
		t.Errorf("containerd was restarted %d times, want %d", m.restarts, restarts)
	}
	var have []string
	_ = filepath.WalkDir(m.To, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			have = append(have, strings.TrimPrefix(path, m.To+"/"))
		}
		return err
	})
	if diff := cmp.Diff(files, have); diff != "" {
		t.Errorf("files: -want +got:\n%s", diff)
	}
}

const (
	without = "version = 3\n"
	with    = "version = 3\nhull\n"
)

var all = []string{"bin/containerd-shim-hull-v1", "bin/hull", "bin/hull-s", "libexec/hull/hull-sandbox"}

func TestInstall(t *testing.T) {
	m := newMachine(t)
	do := func(verb func(context.Context) error) {
		t.Helper()
		if err := verb(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, m.log.String())
		}
	}
	do(m.Install)
	m.is(t, with, 1, all...)
	if fi, err := os.Stat(filepath.Join(m.To, "bin/hull-s")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("hull-s: %v, %v", fi, err)
	}
	do(m.Install)
	m.is(t, with, 1, all...)
	// Another release: what is different, what is gone, and what one that was killed has left.
	write(t, filepath.Join(m.From, "bin/containerd-shim-hull-v1"), "a newer shim", 0o755)
	write(t, filepath.Join(m.To, "bin/old"), "", 0o755)
	write(t, filepath.Join(m.To, "bin", temporary+"hull"), "hal", 0o755)
	m.log.Reset()
	do(m.Install)
	m.is(t, with, 1, all...)
	if got, _ := os.ReadFile(filepath.Join(m.To, "bin/containerd-shim-hull-v1")); string(got) != "a newer shim" || !strings.Contains(m.log.String(), "1 files are new") {
		t.Errorf("the shim is %q\n%s", got, m.log.String())
	}
	do(m.Uninstall)
	m.is(t, without, 2)
	do(m.Uninstall)
	m.is(t, without, 2)
}

// A restart that failed, or wasn't come to, is made up for, though the configuration is as it should be.
func TestInstallGoesOn(t *testing.T) {
	m := newMachine(t)
	m.broken = errors.New("no systemd")
	if err := m.Install(t.Context()); err == nil || err.Error() != "restart of containerd.service: no systemd" {
		t.Errorf("a restart that fails: %v", err)
	}
	m.broken = nil
	if err := m.Install(t.Context()); err != nil {
		t.Error(err)
	}
	m.is(t, with, 1, all...)
	m.Unit = ""
	write(t, m.Config, without, 0o644)
	if err := m.Install(t.Context()); err != nil || !strings.Contains(m.log.String(), "containerd has to be restarted") {
		t.Errorf("without a unit: %v\n%s", err, m.log.String())
	}
	m.is(t, with, 1, all...)
}

// TestCopyOfLargePrograms has the memory of a container whose limit is below the size of a program.
func TestCopyOfLargePrograms(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	const size = 40 << 20
	write(t, from, strings.Repeat("hull", size/4), 0o755)
	copied := func(want bool) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		changed, err := copyFile(from, to)
		runtime.ReadMemStats(&after)
		if err != nil || changed != want {
			t.Errorf("changed: %v, %v, want %v", changed, err, want)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > size/10 {
			t.Errorf("it took %d bytes of memory for a file of %d", n, size)
		}
		a, err := os.ReadFile(from)
		b, errB := os.ReadFile(to)
		if err != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("the copy is another: %v, %v", err, errB)
		}
	}
	copied(true)
	copied(false)
	// Of the same length, and another one at the very end; then a longer one, and a shorter one.
	f, err := os.OpenFile(from, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{size - 1, size} {
		if _, err := f.WriteAt([]byte("-"), at); err != nil {
			t.Fatal(err)
		}
		copied(true)
		copied(false)
	}
	if err := f.Truncate(size - 3); err != nil {
		t.Fatal(err)
	}
	copied(true)
	copied(false)
}

// What runs is not taken away, whoever runs it.
func TestUninstallOfWhatRuns(t *testing.T) {
	hulltest.Require(t, hulltest.Command("sleep"))
	m := newMachine(t)
	if err := m.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(m.To, "bin/containerd-shim-hull-v1")
	write(t, shim, string(program), 0o755)
	cmd := exec.Command(shim, "100")
	cmd.Args[0] = "sleep"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if err := m.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.is(t, without, 2, all...)
	if !strings.Contains(m.log.String(), "stays: "+shim+" runs") {
		t.Error(m.log.String())
	}
	// Nor does it go when another release has taken its name.
	fi, err := os.Stat(shim)
	if err != nil {
		t.Fatal(err)
	}
	old := fmt.Sprintf("bin/%s%d-containerd-shim-hull-v1", running, fi.Sys().(*syscall.Stat_t).Ino)
	for range 2 {
		if err := m.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.is(t, with, 3, append([]string{old}, all...)...)
	}
	if text, err := os.ReadFile(shim); err != nil || string(text) != "shim" {
		t.Errorf("the shim is not the new one: %v", err)
	}
	m.log.Reset()
	if err := m.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.is(t, without, 4, append([]string{old}, all...)...)
	if want := "stays: " + filepath.Join(m.To, old) + " runs"; !strings.Contains(m.log.String(), want) {
		t.Errorf("%s, want %s", m.log.String(), want)
	}
	// When it has ended, all goes.
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := m.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.is(t, with, 5, all...)
}

// Where the kernel lets others write to what runs, a lease tells: of a file that is open, as the kernel has a program open.
func TestIsOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "program")
	write(t, file, "program", 0o755)
	if isOpen(file) {
		t.Error("a file that nobody has open is open")
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !isOpen(file) || !runs(file) {
		t.Error("a file that is open isn't")
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.Link(file, other), f.Close()); err != nil {
		t.Fatal(err)
	}
	if isOpen(file) || runs(other) {
		t.Error("a file that was closed is open")
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if runs(path) {
			t.Errorf("%s runs", path)
		}
	}
}

// Containers that runc's shim has made run nothing of hull's, and can't be ended without it.
func TestUninstallByRunc(t *testing.T) {
	m := newMachine(t)
	line := fmt.Sprintf("  BinaryName = %q\n", filepath.Join(m.To, "bin/hull"))
	write(t, filepath.Join(m.From, "bin/hull"), "#!/bin/sh\nif [ $1 = install ]; then echo '"+strings.TrimSuffix(line, "\n")+"' >>\"$3\"; else echo version = 3 >\"$3\"; fi\n", 0o755)
	if err := m.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	stay := append([]string{byRunc}, all...)
	m.is(t, without+line, 1, stay...)
	for range 2 { // the first may have been killed
		m.log.Reset()
		if err := m.Uninstall(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.is(t, without, 2, stay...)
		if want := m.To + " stays: runc's shim"; !strings.Contains(m.log.String(), want) {
			t.Errorf("%s, want %s", m.log.String(), want)
		}
	}
}

func TestMistakes(t *testing.T) {
	m := newMachine(t)
	write(t, filepath.Join(m.From, "bin/hull"), "#!/bin/sh\necho no TOML >&2; exit 1\n", 0o755)
	if err := m.Install(t.Context()); err == nil || err.Error() != "hull install: exit status 1: no TOML" {
		t.Errorf("of a configuration that hull refuses: %v", err)
	}
	m.From = filepath.Join(m.From, "none")
	if err := m.Install(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without programs: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if _, err := inCluster("n", "hull-node"); err == nil || !strings.Contains(err.Error(), "want NAMESPACE/NAME") {
		t.Errorf("of a DaemonSet without a namespace: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := inCluster("n", "a/b"); err == nil || !strings.Contains(err.Error(), "this is no pod") {
		t.Errorf("outside of a pod: %v", err)
	}
	for _, args := range [][]string{{"hull-node"}, {"hull-node", "instal"}, {"hull-node", "-x", "install"}, {"hull-node", "install", "x"}} {
		if status := Main(args); status != 2 {
			t.Errorf("%q: status %d", args, status)
		}
	}
}

// cluster is an API server that answers all requests alike.
func cluster(t *testing.T, status int, answer string) (c *Cluster, requests *[]string) {
	t.Helper()
	requests = new([]string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		*requests = append(*requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(body)))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "secret\n", 0o600)
	client := s.Client()
	t.Cleanup(client.CloseIdleConnections)
	return &Cluster{base: s.URL, node: "one", daemonSet: "hull-system/hull-node", token: token, client: client, pause: time.Millisecond}, requests
}

func TestLabels(t *testing.T) {
	m := newMachine(t)
	var requests *[]string
	m.Cluster, requests = cluster(t, 200, "{}")
	if err := m.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	patch := func(native, sandbox any) string {
		p, _ := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{labelNative: native, labelSandbox: sandbox}}})
		return "PATCH /api/v1/nodes/one Bearer secret " + string(p)
	}
	if diff := cmp.Diff([]string{patch("true", "true"), patch(nil, nil)}, *requests); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// A machine that can't have sandboxes.
	write(t, filepath.Join(m.From, "bin/hull"), "#!/bin/sh\necho '   note: without sandboxes: why'\n", 0o755)
	*requests = nil
	if err := m.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{patch("true", nil)}, *requests); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// One that can't be labelled is not ready; but it can be cleaned.
	m.Cluster, requests = cluster(t, 403, `{"message": "nodes is forbidden"}`)
	if err := m.Install(t.Context()); err == nil || !strings.Contains(err.Error(), "PATCH /api/v1/nodes/one: 403 nodes is forbidden") || len(*requests) != tries {
		t.Errorf("without the right to: %v, asked %d times", err, len(*requests))
	}
	if err := m.Uninstall(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		stays        bool
	}{
		{"there", `{"kind": "DaemonSet", "metadata": {"name": "hull-node"}}`, 200, true},
		{"being deleted", `{"kind": "DaemonSet", "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}`, 200, false},
		{"deleted", `{"kind": "Status", "reason": "NotFound", "details": {"name": "hull-node", "group": "apps", "kind": "daemonsets"}, "code": 404}`, 404, false},
		// None of these says that it is deleted.
		{"without an account", `{"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized", "code": 401}`, 401, true},
		{"without the right", `{"kind": "Status", "reason": "Forbidden", "details": {"name": "hull-node", "kind": "daemonsets"}, "code": 403}`, 403, true},
		{"a proxy's 404", `<html>no backend</html>`, 404, true},
		{"a server that doesn't know the group yet", "404 page not found\n", 404, true},
		{"another object", `{"kind": "Status", "reason": "NotFound", "details": {"name": "hull-system", "kind": "namespaces"}, "code": 404}`, 404, true},
		{"another kind", `{"kind": "Status", "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}`, 200, true},
		{"broken", "", 500, true},
		{"nonsense", "nonsense", 200, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			if err := m.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.Cluster, _ = cluster(t, c.status, c.answer)
			ctx, end := context.WithCancel(t.Context())
			end()
			if err := m.Wait(ctx); err != nil {
				t.Fatal(err)
			}
			if c.stays {
				m.is(t, with, 1, all...)
				if !strings.Contains(m.log.String(), "hull stays: ") {
					t.Errorf("it doesn't say so: %s", m.log.String())
				}
			} else {
				m.is(t, without, 2)
			}
		})
	}
}
