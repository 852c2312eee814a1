package oci

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/task"
)

func (k *checker) linux(l *specs.Linux) {
	k.namespaces(l.Namespaces)
	k.idMaps(l)
	k.sysctl(l)
	k.timeOffsets(l)
	k.netDevices(l)
	for i := range l.Devices {
		k.device(elem("linux.devices", i), &l.Devices[i])
	}
	if l.Resources != nil {
		k.resources(l.Resources)
	}
	k.propagation(l.RootfsPropagation)
	k.paths(l, "linux.maskedPaths", l.MaskedPaths)
	k.paths(l, "linux.readonlyPaths", l.ReadonlyPaths)
	if l.Seccomp != nil {
		k.listener(l.Seccomp)
	}
	if l.IntelRdt != nil {
		k.intelRdt(l.IntelRdt)
	}
	if m := l.MemoryPolicy; m != nil && k.listFits("linux.memoryPolicy.nodes", m.Nodes) {
		_, err := task.MemoryPolicy(m)
		k.take(err)
	}
	if l.Personality != nil {
		_, err := task.Personality(l.Personality)
		k.take(err)
	}
}

// device checks a device node. Larger numbers don't fit the 12 and 20 bits of the kernel's dev_t (include/linux/kdev_t.h),
// and mknod(2) would make another device's node of them.
func (k *checker) device(field string, d *specs.LinuxDevice) {
	const (
		maxMajor = 1<<12 - 1
		maxMinor = 1<<20 - 1
		modeBits = 0o7777
		typeBits = 0o170000 // S_IFMT: engines pass st_mode on as it is
	)
	k.absolute(field+".path", d.Path)
	switch d.Type {
	case "c", "b", "u":
		if d.Major < 0 || d.Major > maxMajor {
			k.mistake(field+".major", "%d is out of range, want 0 to %d", d.Major, maxMajor)
		}
		if d.Minor < 0 || d.Minor > maxMinor {
			k.mistake(field+".minor", "%d is out of range, want 0 to %d", d.Minor, maxMinor)
		}
	case "p":
	default:
		k.mistake(field+".type", "got %s, want b, c, u or p", quote(d.Type))
	}
	if d.FileMode != nil && *d.FileMode&^(modeBits|typeBits) != 0 {
		k.mistake(field+".fileMode", "%d (0%[1]o) has bits beyond 07777", uint32(*d.FileMode))
	}
}

// resources checks what internal/cgroup doesn't: the rules for devices, and what has no effect.
func (k *checker) resources(r *specs.LinuxResources) {
	k.deviceRules(r.Devices)
	m := r.Memory
	if m == nil {
		return
	}
	if kernel := m.Kernel; kernel != nil && *kernel > 0 {
		k.warn("linux.resources.memory.kernel", "not used: Linux has given up limits of kernel memory")
	}
	if tcp := m.KernelTCP; tcp != nil && *tcp > 0 {
		k.warn("linux.resources.memory.kernelTCP", "not used: it is deprecated")
	}
	if m.UseHierarchy != nil && !*m.UseHierarchy {
		k.warn("linux.resources.memory.useHierarchy", "not used: Linux always accounts hierarchically")
	}
}

// deviceRules checks linux.resources.devices. -1 stands for every number, as does leaving it out.
func (k *checker) deviceRules(rules []specs.LinuxDeviceCgroup) {
	for i, r := range rules {
		field := elem("linux.resources.devices", i)
		switch r.Type {
		case "", "a", "b", "c":
		default:
			k.mistake(field+".type", "got %s, want a, b or c", quote(r.Type))
		}
		if r.Major != nil && (*r.Major < -1 || *r.Major > 1<<32-1) {
			k.mistake(field+".major", "%d is not a device number", *r.Major)
		}
		if r.Minor != nil && (*r.Minor < -1 || *r.Minor > 1<<32-1) {
			k.mistake(field+".minor", "%d is not a device number", *r.Minor)
		}
		switch {
		case strings.Trim(r.Access, "a") == "" || strings.Trim(r.Access, "rwma") != "":
			k.mistake(field+".access", "got %s, want letters of r, w and m", quote(r.Access))
		case strings.Contains(r.Access, "a"):
			// A type, which some write here too. Other runtimes pass over it.
			k.warn(field+".access", "got %s: a is no kind of access, not used", quote(r.Access))
		}
	}
}

func (k *checker) propagation(p string) {
	switch p {
	case "", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable":
	default:
		k.mistake("linux.rootfsPropagation",
			"got %s, want shared, slave, private or unbindable, or one of them with an r before it", quote(p))
	}
}

// paths checks masked and read-only paths. In the host's mount namespace they would hide the host's files.
func (k *checker) paths(l *specs.Linux, field string, paths []string) {
	if len(paths) > 0 && k.lacks(l, specs.MountNamespace) {
		k.mistake(field, "needs a mount namespace in linux.namespaces")
	}
	for i, p := range paths {
		if !path.IsAbs(p) {
			k.absolute(elem(field, i), p)
		}
	}
}

// listener checks what concerns the seccomp agent. internal/seccomp checks the filter when it compiles it.
func (k *checker) listener(s *specs.LinuxSeccomp) {
	if s.ListenerPath != "" {
		return
	}
	if s.ListenerMetadata != "" {
		k.mistake("linux.seccomp.listenerMetadata", "needs linux.seccomp.listenerPath")
	}
	if s.DefaultAction == specs.ActNotify ||
		slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return c.Action == specs.ActNotify }) {
		k.mistake("linux.seccomp.listenerPath", "missing: %s waits for the agent that listens there", specs.ActNotify)
	}
}

// intelRdt checks what becomes a directory's name and lines of a file in resctrl.
func (k *checker) intelRdt(r *specs.LinuxIntelRdt) {
	if id := r.ClosID; id == "." || id == ".." || id != "/" && strings.Contains(id, "/") {
		k.mistake("linux.intelRdt.closID", "got %s, want the name of a directory, or / for the default class", quote(id))
	}
	line := func(field, s string) {
		if strings.Contains(s, "\n") {
			k.mistake(field, "got %s, want one line", quote(s))
		}
	}
	line("linux.intelRdt.l3CacheSchema", r.L3CacheSchema)
	line("linux.intelRdt.memBwSchema", r.MemBwSchema)
	if s := r.MemBwSchema; s != "" && !strings.HasPrefix(s, "MB:") {
		k.mistake("linux.intelRdt.memBwSchema", "got %s, want it to begin with MB:", quote(s))
	}
	for i, s := range r.Schemata {
		line(elem("linux.intelRdt.schemata", i), s)
	}
}
