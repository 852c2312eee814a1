package sandbox

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/engine"
	"hull/internal/linux"
)

// jail returns the configuration of the process that the sandbox is: what the host's kernel keeps it in.
//
// All of the container's own configuration is for the kernel in the sandbox. For the host there is one process in
// namespaces of its own, with an empty root that it can't write to and no path to anything; in the container's cgroup,
// with its limits; without a way to gain privileges. It is in a user namespace, which has all ids unless the configuration
// has one with others, where the capabilities that it needs to make files of any owner reach the donated mounts and
// nothing else; with that of chroot(2) it leaves its /proc behind for good.
func jail(s *specs.Spec, args []string) *specs.Spec {
	names := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_SYS_CHROOT"}
	l := &specs.Linux{
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			{Type: specs.CgroupNamespace}, {Type: specs.UserNamespace},
		},
		UIDMappings: ownIDs("/proc/self/uid_map"),
		GIDMappings: ownIDs("/proc/self/gid_map"),
		CgroupsPath: s.Linux.CgroupsPath,
		Resources:   s.Linux.Resources,
		IntelRdt:    s.Linux.IntelRdt,
	}
	joins := joined(s)
	for _, ns := range s.Linux.Namespaces {
		if joins(ns) {
			l.Namespaces = slices.DeleteFunc(l.Namespaces, func(own specs.LinuxNamespace) bool { return own.Type == ns.Type })
		}
	}
	// At the place that it has in config.json, which errors name.
	for i, ns := range s.Linux.Namespaces {
		if joins(ns) {
			l.Namespaces = slices.Insert(l.Namespaces, min(i, len(l.Namespaces)), ns)
		}
	}
	if engine.HasNamespace(s, specs.UserNamespace) {
		l.UIDMappings, l.GIDMappings = s.Linux.UIDMappings, s.Linux.GIDMappings
	}
	// An ordinary user's has one id, who needs no capabilities to be itself. If that isn't 0, execve(2) leaves it none but
	// those that are ambient.
	var user specs.User
	sets := &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
	if m := l.UIDMappings; len(m) == 1 && m[0].Size == 1 && len(l.GIDMappings) == 1 {
		user.UID, user.GID = m[0].ContainerID, l.GIDMappings[0].ContainerID
		chroot := []string{"CAP_SYS_CHROOT"}
		sets = &specs.LinuxCapabilities{Bounding: chroot, Effective: chroot, Permitted: chroot, Inheritable: chroot, Ambient: chroot}
	}
	return &specs.Spec{
		Version:     s.Version,
		Annotations: s.Annotations,
		Root:        &specs.Root{Path: "/", Readonly: true},
		// The kernel in the sandbox looks at the host's processor and its own memory before it takes anything of the container.
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"ro", "nosuid", "nodev", "noexec"}}},
		Process: &specs.Process{
			Args: args, Cwd: "/", User: user, NoNewPrivileges: true, OOMScoreAdj: s.Process.OOMScoreAdj, Capabilities: sets,
			// HOME, or there would be a search for it; and GOMAXPROCS, or Go would look for a limit of processor time in the
			// cgroup, which the kernel in the sandbox doesn't go by: it has as many threads as it sees processors.
			Env: []string{"HOME=/", "GOMAXPROCS=" + strconv.Itoa(runtime.NumCPU())},
		},
		Linux: l,
	}
}

// ownIDs returns mappings of all ids that this program can map, each to itself: the file, of a form as in user_namespaces(7), has
// those of its own user namespace.
func ownIDs(file string) []specs.LinuxIDMapping {
	var own []specs.LinuxIDMapping
	b, err := linux.ReadFile(file, nil)
	for line := range strings.Lines(string(b)) {
		var m specs.LinuxIDMapping
		var outside uint32
		if _, serr := fmt.Sscan(line, &m.ContainerID, &outside, &m.Size); serr != nil {
			err = serr
		}
		m.HostID = m.ContainerID
		own = append(own, m)
	}
	if err != nil || len(own) == 0 {
		return []specs.LinuxIDMapping{{Size: math.MaxUint32}}
	}
	return own
}

// network returns the network namespace that the container has: none is that of the host.
func network(s *specs.Spec) []specs.LinuxNamespace {
	return slices.DeleteFunc(slices.Clone(s.Linux.Namespaces), func(ns specs.LinuxNamespace) bool { return ns.Type != specs.NetworkNamespace })
}
