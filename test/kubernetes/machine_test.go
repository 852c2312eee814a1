// Package kubernetes has a kubelet run pods in hull's two classes, with containerd and hull's shim: pods of files, and for the
// RuntimeClasses those of as much of an API server as a kubelet needs. A cluster has it all: several of these on machines of their own
// below that of the tests, and Kubernetes's control plane.
//
// It is a module of its own, so that what Kubernetes brings along is no dependency of hull's. All of it happens in a machine of
// the tests' own.
package kubernetes

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hull/hulltest"
	"hull/hulltest/machine"
)

// Directories of programs in the machine.
const (
	distDir    = "/run/dist"    // what make dist has made
	enginesDir = "/run/engines" // containerd, ctr
	kubeDir    = "/run/kube"    // kubelet, kube-apiserver and what else belongs to it, etcd, kubectl
)

// sources are the directories that these come from, by the environment variables that say so.
var sources = map[string]string{"HULL_TEST_DIST": distDir, "HULL_TEST_CONTAINERD": enginesDir, "HULL_TEST_KUBERNETES": kubeDir}

// sysctls are what a kubelet sets where it finds them otherwise, and these are the host's.
var sysctls = map[string]string{
	"/proc/sys/vm/overcommit_memory":      "1\n",
	"/proc/sys/vm/panic_on_oom":           "0\n",
	"/proc/sys/kernel/panic":              "10\n",
	"/proc/sys/kernel/panic_on_oops":      "1\n",
	"/proc/sys/kernel/keys/root_maxkeys":  "1000000\n",
	"/proc/sys/kernel/keys/root_maxbytes": "25000000\n",
}

func TestMain(m *testing.M) {
	if name := os.Getenv(envWorker); name != "" {
		runWorker(name)
	}
	c := machine.Config{
		Name:    "hull-kubernetes",
		Private: []string{"/run", "/opt", "/tmp", "/var/lib", "/var/log", "/var/tmp"},
		Bind:    map[string]string{},
		Files:   sysctls,
		Env:     map[string]string{"TMPDIR": "/tmp", "HOME": "/run", "XDG_RUNTIME_DIR": "", "HULL_ISOLATION": "", "KUBECONFIG": ""},
	}
	for name, dir := range sources {
		if from := os.Getenv(name); from != "" {
			c.Bind[dir] = from
		}
	}
	if len(c.Bind) < len(sources) || os.Getuid() != 0 {
		os.Exit(m.Run()) // what needs no machine, and the reasons of the others
	}
	machine.Main(m, c)
}

// need skips the test where it can't run; see hulltest.Require.
func need(t testing.TB) {
	t.Helper()
	needs := []hulltest.Need{hulltest.Root, hulltest.Command("busybox"), hulltest.Command("ip"), hulltest.Command("iptables"), hulltest.Command("/usr/lib/cni/bridge")}
	for name, dir := range sources {
		needs = append(needs, hulltest.Need{Name: filepath.Base(dir), Check: func() error {
			if os.Getenv(name) == "" {
				return errors.New(name + " names no directory; see make test-kubernetes")
			}
			return nil
		}})
	}
	hulltest.Require(t, needs...)
}
