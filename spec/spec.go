// Package spec makes configurations of containers to begin with, and writes them into bundles.
//
// docs/spec.md says where they differ from those of other runtimes.
package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/fault"
)

// Options are what Example fills in. Their zero values make the configuration most people begin with.
type Options struct {
	Args  []string // the program and its arguments; nil: sh
	Cwd   string   // absolute; "": /
	NetNS string   // a network namespace to join, by path; "": a new one

	// CgroupV1 makes a configuration for a host whose cgroups are v1: without a cgroup namespace. Container engines and
	// runc make none there either, and programs that add one of their own to the file would make it two.
	CgroupV1 bool

	// Rootless makes a configuration for a caller without privileges, whose ids on the host are UID and GID: the
	// container's root is the caller.
	Rootless bool
	UID, GID uint32
}

// Check returns what is wrong with the options: paths that a configuration must not have.
func (o Options) Check() error {
	if o.Cwd != "" && !path.IsAbs(o.Cwd) {
		return fault.Spec("process.cwd", fmt.Sprintf("got %q, want an absolute path", o.Cwd))
	}
	if o.NetNS != "" && !path.IsAbs(o.NetNS) {
		return fault.Spec("linux.namespaces", fmt.Sprintf("network: got %q, want an absolute path", o.NetNS))
	}
	return nil
}

// Example returns a configuration that runs a program in a root file system at rootfs, of which it can write nothing,
// with a terminal and in namespaces of its own.
func Example(o Options) *specs.Spec {
	s := &specs.Spec{
		Version:  specs.Version,
		Process:  process(o),
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "hull",
		Mounts:   mounts(),
		Linux: &specs.Linux{
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces:    namespaces(o),
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
		},
	}
	if o.Rootless {
		rootless(s, o)
	}
	return s
}

func process(o Options) *specs.Process {
	p := &specs.Process{
		Terminal: true,
		Args:     []string{"sh"},
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"TERM=xterm",
		},
		Cwd: "/",
		// Inheritable and ambient capabilities stay empty: a program with file capabilities, or one run by another
		// user of the container, must not come to have more than its file says (CVE-2022-29162).
		Capabilities: &specs.LinuxCapabilities{
			Bounding:  capabilities(),
			Effective: capabilities(),
			Permitted: capabilities(),
		},
		Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		NoNewPrivileges: true,
	}
	if len(o.Args) > 0 {
		p.Args = slices.Clone(o.Args)
	}
	if o.Cwd != "" {
		p.Cwd = o.Cwd
	}
	return p
}

func capabilities() []string {
	return []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
}

func mounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue",
			Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs",
			Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
}

func namespaces(o Options) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.NetworkNamespace, Path: o.NetNS},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.MountNamespace},
	}
	if !o.CgroupV1 {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi",
		"/proc/asound",
		"/proc/kcore",
		"/proc/keys",
		"/proc/latency_stats",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/proc/sched_debug",
		"/sys/firmware",
		"/proc/scsi",
	}
}

func readonlyPaths() []string {
	return []string{
		"/proc/bus",
		"/proc/fs",
		"/proc/irq",
		"/proc/sys",
		"/proc/sysrq-trigger",
	}
}

// rootless turns s into what a caller without privileges can run.
func rootless(s *specs.Spec, o Options) {
	l := s.Linux
	// A network namespace of its own would have no way out that the caller could make.
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path == ""
	})
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	l.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: o.UID, Size: 1}}
	l.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: o.GID, Size: 1}}
	// No cgroup may have been delegated to the caller.
	l.Resources = nil
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.Destination == "/sys" {
			// sysfs shows a network namespace; without one of the container's own the kernel refuses to mount it.
			*m = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys",
				Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		}
		// One id is mapped: no other can own a file.
		m.Options = slices.DeleteFunc(m.Options, func(option string) bool {
			return strings.HasPrefix(option, "gid=") || strings.HasPrefix(option, "uid=")
		})
	}
}

// Print writes s as JSON, indented by tabs.
func Print(w io.Writer, s *specs.Spec) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	if err := e.Encode(s); err != nil {
		return &fault.Error{Step: "write the configuration", Err: err}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Write writes s to config.json of a bundle. A file that is there already, or a symbolic link to nowhere, stays as it is
// and is an error. A file that could not be written whole is removed.
func Write(bundle string, s *specs.Spec) error {
	file := filepath.Join(bundle, "config.json")
	return writeNew(file, func(w io.Writer) error { return Print(w, s) })
}
