package native

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/rootfs"
	"hull/internal/stub"
)

// ptmx is the multiplexer in the container's devpts. /dev/ptmx may be anything that the image wants it to be.
const ptmx = "/dev/pts/ptmx"

// rootfsConfig returns what package rootfs needs to know of a container.
func rootfsConfig(r *engine.CreateRequest) (rootfs.Config, error) {
	cgroups, err := cgroupMounts(r)
	return rootfs.Config{
		Spec:     r.Spec,
		Bundle:   r.Bundle,
		UserNS:   hasNamespace(r.Spec, specs.UserNamespace),
		Rootless: os.Geteuid() != 0,
		NoPivot:  r.NoPivot,
		Terminal: r.Spec.Process.Terminal,
		Cgroups:  cgroups,
		Kernel:   rootfs.Probe(),
		HostNS:   !hasNamespace(r.Spec, specs.MountNamespace),
		Overlay:  r.Overlay,
		NoLabels: r.Spec.Linux.MountLabel != "" && !seLinuxEnabled(),
	}, err
}

// openConsole emits the making of the terminal, once the container's own devpts is where it is looked for, and mounts
// it on /dev/console by its descriptor (CVE-2025-52565).
func (c *creation) openConsole(b *stub.Batch) {
	slave := openTerminal(b, ptmx, c.Spec.Process.ConsoleSize)
	if c.root != nil {
		c.root.Console(b, slave)
	}
}

// traceFunc turns the stub's calls into lines.
func traceFunc(trace func(string)) func(stub.Call) {
	if trace == nil {
		return nil
	}
	return func(c stub.Call) { trace(c.String()) }
}

// errnoOf returns the errno in err, or err.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// explainNamespaces adds a hint to a failure to make or join namespaces.
func explainNamespaces(err error) error {
	var e *fault.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
		e.Hint = userNamespaceHint()
	case errors.Is(err, unix.ENOSPC):
		e.Hint = "a limit below /proc/sys/user is reached (namespaces(7))"
	}
	return err
}

// userNamespaceHint says which setting of this host keeps ordinary users from making user namespaces.
func userNamespaceHint() string {
	for _, s := range []struct{ file, bad string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0"},
		{"/proc/sys/user/max_user_namespaces", "0"},
	} {
		b, err := os.ReadFile(s.file)
		if err == nil && len(b) > 0 && string(b[:1]) == s.bad && (len(b) == 1 || b[1] == '\n') {
			return fmt.Sprintf("user namespaces are restricted here: %s is %s", s.file, s.bad)
		}
	}
	return "a container needs root, or a user namespace in linux.namespaces (hull spec --rootless)"
}

// cgroupMounts returns what a mount of type cgroup shows.
func cgroupMounts(r *engine.CreateRequest) (rootfs.Cgroups, error) {
	_, namespaced := namespace(r.Spec, specs.CgroupNamespace)
	c := rootfs.Cgroups{V2: r.Cgroup.Mode() == cgroup.V2, NewNamespace: namespaced, Unified: r.Cgroup.Path("")}
	hs, err := r.Cgroup.Hierarchies()
	for _, h := range hs {
		c.Hierarchies = append(c.Hierarchies, rootfs.Hierarchy{Name: h.Name, Options: h.Options, Dir: h.Dir})
	}
	return c, err
}
