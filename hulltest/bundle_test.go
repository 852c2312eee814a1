package hulltest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func readConfig(t *testing.T, bundle string) *specs.Spec {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(content, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBundle(t *testing.T) {
	bundle := Bundle(t)
	s := readConfig(t, bundle)
	if diff := cmp.Diff([]string{"/bin/testprog", "true"}, s.Process.Args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	if s.Process.Terminal || s.Root.Readonly || s.Root.Path != "rootfs" {
		t.Errorf("terminal %v, root %+v", s.Process.Terminal, s.Root)
	}
	out, err := exec.Command(filepath.Join(bundle, "rootfs", ProgPath), "echo", "hello").Output()
	if err != nil || string(out) != "hello\n" {
		t.Errorf("its program: %q, %v", out, err)
	}
	for _, path := range []string{"", "rootfs", "rootfs/bin", "rootfs/tmp", "rootfs" + ProgPath} {
		info, err := os.Stat(filepath.Join(bundle, path))
		if err != nil {
			t.Fatal(err)
		}
		if perm := info.Mode().Perm(); perm != 0o755 {
			t.Errorf("%q has mode %o", path, perm)
		}
	}
}

func TestBundlesShareNothing(t *testing.T) {
	a, b := Bundle(t), Bundle(t)
	if a == b {
		t.Fatal("the same directory twice")
	}
	ca, cb := readConfig(t, a).Linux.CgroupsPath, readConfig(t, b).Linux.CgroupsPath
	if ca == cb || filepath.Dir(ca) != "/" || filepath.Dir(cb) != "/" {
		t.Errorf("cgroups %s and %s", ca, cb)
	}
	inode := func(bundle string) os.FileInfo {
		info, err := os.Stat(filepath.Join(bundle, "rootfs", ProgPath))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if os.SameFile(inode(a), inode(b)) {
		t.Error("both have the same program: a container that writes to its own changes the other's")
	}
}

func TestBundleEdits(t *testing.T) {
	bundle := Bundle(t,
		func(s *specs.Spec) { s.Process.Args = Args("exit", "3") },
		func(s *specs.Spec) { s.Process.Args = append(s.Process.Args, "x"); s.Hostname = "edited" })
	s := readConfig(t, bundle)
	if diff := cmp.Diff([]string{"/bin/testprog", "exit", "3", "x"}, s.Process.Args); diff != "" || s.Hostname != "edited" {
		t.Errorf("hostname %s, args (-want +got):\n%s", s.Hostname, diff)
	}
}

func TestBundleGoesAwayWithItsTest(t *testing.T) {
	var bundle string
	t.Run("inner", func(t *testing.T) { bundle = Bundle(t) })
	if _, err := os.Stat(bundle); !os.IsNotExist(err) {
		t.Errorf("stat: %v", err)
	}
}
