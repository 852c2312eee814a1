package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull"
	"hull/hulltest"
)

// What is no address is said to be none, with what one is: package net's words name no option.
func TestListenMisused(t *testing.T) {
	for _, address := range []string{"foo", "", "127.0.0.1", "[::1", "a:b:c"} {
		l, err := open(address)
		if err == nil {
			l.Close()
		}
		if want := fmt.Sprintf("--listen %q: want HOST:PORT or unix:PATH", address); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", address, err, want)
		}
	}
}

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// box makes a container that sleeps.
func box(t *testing.T, rt *hull.Runtime, id string, isolation hull.Isolation) *hull.Container {
	t.Helper()
	rt.Isolation = isolation
	bundle := hulltest.Bundle(t, func(s *specs.Spec) {
		s.Process.Args = hulltest.Args("sleep", "3600")
		limit := int64(64)
		s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	})
	c, err := rt.Run(t.Context(), id, hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = rt.Delete(context.Background(), id, hull.DeleteOptions{Force: true})
		_, _ = c.Init().Wait()
	})
	return c
}

func ask(h http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, target, nil)
	h.ServeHTTP(w, r)
	return w
}

func TestMetrics(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	rt := &hull.Runtime{Root: filepath.Join(t.TempDir(), "state"), SandboxProgram: hulltest.SandboxBinary(t)}
	h := &handler{runtime: rt, complain: func(line string) { t.Error(line) }}
	if got := ask(h, "GET", "http://127.0.0.1:9464/metrics"); got.Code != 200 || strings.Contains(got.Body.String(), "id=") {
		t.Errorf("without containers: %d\n%s", got.Code, got.Body)
	}
	box(t, rt, "plain", hull.Native)
	c := box(t, rt, "own", hull.Sandbox)
	text := ask(h, "GET", "http://localhost:9464/metrics").Body.String()
	lines := strings.Split(text, "\n")
	for _, want := range []string{
		`hull_container_info{id="plain",isolation="native"} 1`, `hull_container_info{id="own",isolation="sandbox"} 1`,
		`hull_container_status{id="own",status="running"} 1`, `hull_container_answers{id="own"} 1`,
		`hull_container_pids_limit{id="plain"} 64`, `hull_sandbox_pids{id="own"} `,
		"# TYPE hull_container_cpu_seconds_total counter", `hull_container_cpu_seconds_total{id="plain",mode="user"} `,
		`hull_container_memory_bytes{id="plain"} `, `hull_sandbox_memory_bytes{id="own"} `,
	} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Errorf("no line %q", want)
		}
	}
	if strings.Contains(text, `hull_sandbox_pids{id="plain"}`) || strings.Contains(text, "memory_limit_bytes{") || t.Failed() {
		t.Errorf("got\n%s", text)
	}
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	if got := ask(h, "GET", "http://[::1]/metrics").Body.String(); !strings.Contains(got, `hull_container_status{id="own",status="paused"} 1`) ||
		!strings.Contains(got, `hull_container_answers{id="own"} 1`) {
		t.Errorf("paused:\n%s", got)
	}
}

// TestTogether has several ask at once: none is told that a container doesn't answer because it answers another.
func TestTogether(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	rt := &hull.Runtime{Root: filepath.Join(t.TempDir(), "state")}
	h := &handler{runtime: rt, complain: func(line string) { t.Error(line) }}
	box(t, rt, "plain", hull.Native)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got := ask(h, "GET", "http://localhost/metrics").Body.String(); !strings.Contains(got, `hull_container_answers{id="plain"} 1`) {
				t.Error("it doesn't answer")
			}
		})
	}
	all.Wait()
}

func TestRequests(t *testing.T) {
	h := &handler{runtime: &hull.Runtime{Root: t.TempDir()}, complain: func(line string) { t.Error(line) }}
	for _, test := range []struct {
		method, target string
		want           int
	}{
		{"GET", "http://127.0.0.1/", 200}, {"GET", "http://127.0.0.1/x", 404}, {"POST", "http://127.0.0.1/metrics", 405},
		{"GET", "http://rebound.example:9464/metrics", 403}, {"HEAD", "http://localhost/metrics", 200},
	} {
		if got := ask(h, test.method, test.target).Code; got != test.want {
			t.Errorf("%s %s: %d, want %d", test.method, test.target, got, test.want)
		}
	}
	h.anyName = true
	if got := ask(h, "GET", "http://elsewhere.example/metrics").Code; got != 200 {
		t.Errorf("where any name is right: %d", got)
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	go func() { ended <- serve(ctx, "unix:"+path, &hull.Runtime{Root: t.TempDir()}) }()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer c.CloseIdleConnections()
	var r *http.Response
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if r, err = c.Get("http://hull/metrics"); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r.Body)
	r.Body.Close()
	fi, serr := os.Stat(path)
	if err != nil || serr != nil || !strings.Contains(string(text), "# HELP hull_container_info ") || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, %v\n%s", err, serr, fi.Mode(), text)
	}
	if _, err := open("unix:" + path); err == nil {
		t.Error("a socket that somebody listens at is taken away")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open("unix:" + path); err == nil {
		t.Error("a file is taken away")
	}
}
