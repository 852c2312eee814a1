package hull_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	actorPath = "/bin/actor" // of this test binary in a container
	sharedDir = "/shared"    // of a directory of the host's
)

// staticTests is this test binary without libraries, as it must be to run in a container: itself if cgo is off, else
// one that is built for it.
var staticTests actorBinary

type actorBinary struct {
	once sync.Once
	dir  string
	file string
	err  error
}

func (a *actorBinary) path(t testing.TB) string {
	t.Helper()
	self := testBinary(t)
	a.once.Do(func() {
		maps, err := os.ReadFile("/proc/self/maps")
		if a.file, a.err = self, err; err != nil || !bytes.Contains(maps, []byte("/ld-linux")) {
			return
		}
		if a.dir, a.err = os.MkdirTemp("/var/tmp", "hulltest-actor-"); a.err != nil {
			return
		}
		a.file = filepath.Join(a.dir, "actor")
		cmd := exec.Command("go", "test", "-c", "-o", a.file, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			a.err = err
			t.Logf("%s", out)
		}
	})
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.file
}

func (a *actorBinary) remove() {
	if a.dir != "" {
		_ = os.RemoveAll(a.dir)
	}
}

// withActor puts this test binary into the container, and a directory of the host.
func withActor(t testing.TB, dir string) func(*specs.Spec) {
	t.Helper()
	exe := staticTests.path(t)
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: actorPath, Source: exe, Options: []string{"bind", "ro"}},
			specs.Mount{Destination: sharedDir, Source: dir, Options: []string{"bind"}})
	}
}

// playing makes the container's program this test binary in a role.
func playing(role string, more ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.Args = append([]string{actorPath}, more...)
		s.Process.Env = append(s.Process.Env, envRole+"="+role)
	}
}
