package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/spec"
)

// specVersion is what the bundles declare: the newest that crun 1.8, Debian 12's, takes. They use nothing newer.
const specVersion = "1.0.2"

// profile is the seccomp profile of the engines' configuration.
const profile = "internal/seccomp/testdata/default.json"

// config is a kind of configuration.
type config struct {
	name string
	edit func(*specs.Spec)
}

func exampleConfig() config { return config{"example", func(*specs.Spec) {}} }

// engineConfig is what a container engine asks for by default: fourteen capabilities, a seccomp profile, which has to be
// loaded without the help of noNewPrivileges, a writable root, and the devices everybody may use.
func engineConfig() (config, error) {
	text, err := os.ReadFile(profile)
	if err != nil {
		return config{}, fmt.Errorf("not at the top of the repository: %w", err)
	}
	var filter specs.LinuxSeccomp
	if err := json.Unmarshal(text, &filter); err != nil {
		return config{}, fmt.Errorf("%s: %w", profile, err)
	}
	return config{"engine", func(s *specs.Spec) {
		caps := engineCapabilities
		s.Process.NoNewPrivileges = false
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		s.Root.Readonly = false
		s.Linux.Seccomp = &filter
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, engineDevices()...)
	}}, nil
}

var engineCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// engineDevices are null, zero, random, urandom, tty and console.
func engineDevices() (rules []specs.LinuxDeviceCgroup) {
	for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 8}, {1, 9}, {5, 0}, {5, 1}} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Minor: &d[1], Access: "rwm"})
	}
	return rules
}

// memoryLimit limits the memory of a container.
func memoryLimit(bytes int64) config {
	return config{fmt.Sprintf("memory-%d", bytes), func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &bytes}
	}}
}

// bundles makes bundles below a directory; they share a root file system.
type bundles struct{ dir string }

func newBundles(dir string) (bundles, error) {
	b := bundles{filepath.Join(dir, "bundles")}
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(b.root(), d), 0o755); err != nil {
			return b, err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return b, err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return b, err
	}
	if err := os.WriteFile(filepath.Join(b.root(), "bin/busybox"), program, 0o755); err != nil {
		return b, err
	}
	for _, applet := range []string{"sh", "sleep", "true"} {
		if err := os.Symlink("busybox", filepath.Join(b.root(), "bin", applet)); err != nil {
			return b, err
		}
	}
	return b, nil
}

func (b bundles) root() string { return filepath.Join(b.dir, "rootfs") }

// bundle returns a bundle that runs a program in a configuration. It is made at its first use.
func (b bundles) bundle(c config, args ...string) (string, error) {
	dir := filepath.Join(b.dir, c.name+"-"+args[0])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	s := spec.Example(spec.Options{Args: args})
	s.Version = specVersion
	s.Process.Terminal = false
	s.Root.Path = b.root()
	c.edit(s)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, spec.Write(dir, s)
}
