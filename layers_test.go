package hull_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// pkg is what `go list` tells of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	CgoFiles   []string
	Doc        string
	GoFiles    []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps,CgoFiles,Doc,GoFiles"}, args...)...).Output()
	if err != nil {
		t.Skipf("needs the go command: %v", err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

// layers are the packages from the top down. A package may import what stands below it, not beside or above it.
var layers = [][]string{
	{"hull/cmd/hull", "hull/cmd/hull-metrics", "hull/cmd/hull-net", "hull/cmd/hull-node", "hull/cmd/hull-sandbox", "hull/cmd/containerd-shim-hull-v1"},
	{"hull/internal/cli", "hull/internal/metrics", "hull/internal/natd", "hull/internal/node", "hull/internal/sentry/boot", "hull/internal/shim"},
	{"hull/internal/doctor", "hull/internal/shim/pause", "hull/internal/shim/stdio"},
	{"hull"},
	{"hull/internal/sentry/network", "hull/internal/sentry/rootfs"},
	{"hull/internal/sandbox", "hull/internal/sentry/checksum", "hull/internal/sentry/fileserver", "hull/internal/sentry/filter", "hull/internal/sentry/platform", "hull/internal/sentry/stream", "hull/internal/sentry/task", "hull/internal/sentry/terminal"},
	{"hull/internal/native", "hull/internal/pool", "hull/internal/store", "hull/internal/oci", "hull/spec", "hull/internal/tty", "hull/internal/sdnotify"},
	{"hull/internal/checkpoint"},
	{"hull/internal/proc"},
	{"hull/internal/engine", "hull/internal/kvm"},
	{"hull/internal/sandbox/wire"},
	{"hull/internal/rootfs", "hull/internal/containerd", "hull/internal/netdev", "hull/internal/upper", "hull/internal/nat", "hull/internal/hook", "hull/internal/sandbox/image"},
	{"hull/internal/mnt", "hull/internal/cgroup", "hull/internal/seccomp", "hull/internal/task", "hull/internal/user", "hull/internal/rdt", "hull/internal/overlay", "hull/internal/program", "hull/internal/nft", "hull/internal/criu"},
	{"hull/internal/caps", "hull/internal/cgroup/device", "hull/internal/cgroup/systemd", "hull/internal/sklookup"},
	{"hull/internal/stub", "hull/internal/sigaction", "hull/internal/mountinfo", "hull/internal/adopt"},
	{"hull/internal/linux", "hull/internal/elf", "hull/internal/install", "hull/internal/sentry/errno", "hull/internal/sentry/heap"},
	{"hull/internal/fault", "hull/internal/ttrpc", "hull/internal/typo"},
}

func layer(path string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, path) })
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range list(t, "./cmd/...", "./internal/...", "./spec", ".") {
		if strings.Contains(p.ImportPath, "/gen") {
			continue
		}
		at := layer(p.ImportPath)
		if at < 0 {
			t.Errorf("%s has no layer", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			if !strings.HasPrefix(i, "hull") {
				continue
			}
			if below := layer(i); below <= at {
				t.Errorf("%s (layer %d) imports %s (layer %d)", p.ImportPath, at, i, below)
			}
		}
	}
}

// forbidden are imports that cost every start of hull time, or that have one home.
var forbidden = []struct{ importPath, reason string }{
	{"net", "its init costs 0.1 ms; sockets are made by internal/linux"},
	{"net/http", "hull serves nothing"},
	{"crypto/rand", "twenty packages come with it, most of which initialise something; getrandom(2) is one call"},
	{"text/template", "it keeps the linker from dropping unused methods"},
	{"regexp", "compiling expressions at start costs time"},
	{"log", "what is printed is internal/cli's"},
}

func TestCommandLineStartsFast(t *testing.T) {
	for _, p := range list(t, "./cmd/hull") {
		for _, f := range forbidden {
			if slices.Contains(p.Deps, f.importPath) {
				t.Errorf("%s depends on %s: %s", p.ImportPath, f.importPath, f.reason)
			}
		}
		for _, d := range p.Deps {
			if strings.HasPrefix(d, "gvisor.dev/") {
				t.Errorf("%s links %s", p.ImportPath, d)
			}
		}
	}
}

// gvisorTrees are the packages that may link gVisor's: programs of their own, so that hull starts fast and holds none of it.
var gvisorTrees = []string{"hull/cmd/hull-sandbox", "hull/internal/sentry/", "hull/cmd/hull-net", "hull/internal/natd"}

func TestSentryIsApart(t *testing.T) {
	for _, p := range list(t, "./...") {
		if slices.ContainsFunc(gvisorTrees, func(tree string) bool { return strings.HasPrefix(p.ImportPath, tree) }) {
			continue
		}
		for _, d := range p.Deps {
			if strings.HasPrefix(d, "gvisor.dev/") {
				t.Errorf("%s links %s", p.ImportPath, d)
			}
		}
	}
	for _, p := range list(t, "./cmd/hull-sandbox") {
		for _, d := range p.Deps {
			if strings.HasPrefix(d, "gvisor.dev/gvisor/runsc") || d == "hull" || d == "hull/internal/native" {
				t.Errorf("%s links %s", p.ImportPath, d)
			}
		}
	}
}

func TestNoCgo(t *testing.T) {
	for _, p := range list(t, "./...") {
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo: %v", p.ImportPath, p.CgoFiles)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
