package oci

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/task"
)

// find returns a container's namespace of a type. Without one the container stays in the runtime's.
func find(l *specs.Linux, t specs.LinuxNamespaceType) *specs.LinuxNamespace {
	if l == nil {
		return nil
	}
	for i := range l.Namespaces {
		if l.Namespaces[i].Type == t {
			return &l.Namespaces[i]
		}
	}
	return nil
}

// lacks says whether the container has no namespace of that type, so that a setting would change the host. If the
// namespaces could not be read it says no: their mistake is enough.
func (k *checker) lacks(l *specs.Linux, t specs.LinuxNamespaceType) bool {
	return find(l, t) == nil && !k.isBroken("linux.namespaces")
}

// isNew says whether the container gets a new namespace of that type.
func (k *checker) isNew(l *specs.Linux, t specs.LinuxNamespaceType) bool {
	n := find(l, t)
	return n != nil && n.Path == "" && !k.isBroken("linux.namespaces")
}

func (k *checker) namespaces(list []specs.LinuxNamespace) {
	var seen uint // bit n: the nth known type was there
	for i, n := range list {
		field := elem("linux.namespaces", i)
		bit := namespaceBit(n.Type)
		switch {
		case bit == 0:
			k.mistake(field+".type", "unknown namespace type %s, want cgroup, ipc, mount, network, pid, time, user or uts",
				quote(string(n.Type)))
		case seen&bit != 0:
			k.mistake(field+".type", "a second %s namespace", n.Type)
		}
		seen |= bit
		if n.Path != "" && !path.IsAbs(n.Path) {
			k.mistake(field+".path", "got %s, want an absolute path", quote(n.Path))
		}
	}
}

// namespaceBit gives each known type a bit of its own, and 0 to others.
func namespaceBit(t specs.LinuxNamespaceType) uint {
	for i, known := range [...]specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	} {
		if t == known {
			return 1 << i
		}
	}
	return 0
}

// uts checks the names of the container. Both are at most __NEW_UTS_LEN bytes long (include/uapi/linux/utsname.h).
func (k *checker) uts(s *specs.Spec) {
	const longest = 64
	for _, n := range []struct{ field, name string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		switch {
		case n.name == "":
		case k.lacks(s.Linux, specs.UTSNamespace):
			k.mistake(n.field, "needs a uts namespace in linux.namespaces: it would rename the host")
		case len(n.name) > longest:
			k.mistake(n.field, "%d bytes, want at most %d", len(n.name), longest)
		}
	}
}

// maxIDRanges is what the kernel takes in uid_map and gid_map since Linux 4.15 (user_namespaces(7)).
const maxIDRanges = 340

// idMap checks one map as the kernel does (map_write in kernel/user_namespace.c), which says EINVAL and no more.
func (k *checker) idMap(field string, m []specs.LinuxIDMapping) {
	if len(m) > maxIDRanges {
		k.mistake(field, "%d ranges, want at most %d", len(m), maxIDRanges)
		return
	}
	for i, r := range m {
		at := elem(field, i)
		switch {
		case r.Size == 0:
			k.mistake(at+".size", "0: the range has no ids")
		case uint64(r.ContainerID)+uint64(r.Size) > 1<<32-1:
			k.mistake(at, "ends at container id %d, beyond the last", uint64(r.ContainerID)+uint64(r.Size)-1)
		case uint64(r.HostID)+uint64(r.Size) > 1<<32-1:
			k.mistake(at, "ends at host id %d, beyond the last", uint64(r.HostID)+uint64(r.Size)-1)
		}
		for j, o := range m[:i] {
			switch {
			case overlap(r.ContainerID, r.Size, o.ContainerID, o.Size):
				k.mistake(at, "has container ids of range %d, too", j)
			case overlap(r.HostID, r.Size, o.HostID, o.Size):
				k.mistake(at, "has host ids of range %d, too", j)
			}
		}
	}
}

func overlap(a, aSize, b, bSize uint32) bool {
	return uint64(a) < uint64(b)+uint64(bSize) && uint64(b) < uint64(a)+uint64(aSize)
}

// idMaps checks the maps of the user namespace. Whether the maps beside a path are those of the namespace there is for
// whoever opens it.
func (k *checker) idMaps(l *specs.Linux) {
	for _, m := range []struct {
		field string
		m     []specs.LinuxIDMapping
	}{
		{"linux.uidMappings", l.UIDMappings},
		{"linux.gidMappings", l.GIDMappings},
	} {
		switch {
		case len(m.m) == 0 && k.isNew(l, specs.UserNamespace):
			k.mistake(m.field, "missing: a new user namespace needs it")
		case len(m.m) > 0 && k.lacks(l, specs.UserNamespace):
			k.mistake(m.field, "needs a user namespace in linux.namespaces")
		default:
			k.idMap(m.field, m.m)
		}
	}
}

// mappedUser checks that the process's ids exist in its user namespace: setuid(2) and setgroups(2) say EINVAL otherwise.
func (k *checker) mappedUser(l *specs.Linux, u *specs.User) {
	if !k.isNew(l, specs.UserNamespace) {
		return
	}
	k.mapped("process.user.uid", u.UID, "linux.uidMappings", l.UIDMappings)
	k.mapped("process.user.gid", u.GID, "linux.gidMappings", l.GIDMappings)
	for i, gid := range u.AdditionalGids {
		k.mapped(elem("process.user.additionalGids", i), gid, "linux.gidMappings", l.GIDMappings)
	}
}

func (k *checker) mapped(field string, id uint32, mapField string, m []specs.LinuxIDMapping) {
	if len(m) == 0 || k.isBroken(mapField) {
		return
	}
	if !slices.ContainsFunc(m, func(r specs.LinuxIDMapping) bool { return overlap(id, 1, r.ContainerID, r.Size) }) {
		k.mistake(field, "%d is in no range of %s", id, mapField)
	}
}

// sysctl checks that each parameter belongs to a namespace that the container has of its own.
func (k *checker) sysctl(l *specs.Linux) {
	paths := make(map[string]string, len(l.Sysctl))
	for _, name := range slices.Sorted(maps.Keys(l.Sysctl)) {
		field := "linux.sysctl " + quote(name)
		s, err := task.ParseSysctl(name)
		if err != nil {
			k.take(err)
			continue
		}
		if k.lacks(l, s.Namespace) {
			k.mistake(field, "needs a namespace of type %s in linux.namespaces: it would change the host", s.Namespace)
		}
		if other, ok := paths[s.Path]; ok {
			k.mistake(field, "is the same parameter as %s", quote(other))
		}
		paths[s.Path] = name
	}
}

func (k *checker) timeOffsets(l *specs.Linux) {
	if len(l.TimeOffsets) == 0 {
		return
	}
	switch {
	case k.lacks(l, specs.TimeNamespace):
		k.mistake("linux.timeOffsets", "needs a time namespace in linux.namespaces")
	case !k.isNew(l, specs.TimeNamespace):
		k.mistake("linux.timeOffsets", "needs a new time namespace: the offsets of one that has processes are fixed")
	}
	for _, clock := range slices.Sorted(maps.Keys(l.TimeOffsets)) {
		field := "linux.timeOffsets " + quote(clock)
		if clock != "monotonic" && clock != "boottime" {
			k.mistake(field, "unknown clock, want monotonic or boottime")
		}
		if n := l.TimeOffsets[clock].Nanosecs; n >= 1e9 {
			k.mistake(field+".nanosecs", "%d is out of range, want 0 to 999999999", n)
		}
	}
}

func (k *checker) netDevices(l *specs.Linux) {
	if len(l.NetDevices) == 0 {
		return
	}
	if k.lacks(l, specs.NetworkNamespace) {
		k.mistake("linux.netDevices", "needs a network namespace in linux.namespaces to move the devices to")
	}
	targets := make(map[string]string, len(l.NetDevices))
	for _, name := range slices.Sorted(maps.Keys(l.NetDevices)) {
		field := "linux.netDevices " + quote(name)
		if why := badDeviceName(name); why != "" {
			k.mistake(field, "not the name of a network device: %s", why)
		}
		target := name
		if renamed := l.NetDevices[name].Name; renamed != "" {
			target = renamed
			if why := badDeviceName(strings.Replace(renamed, "%d", "", 1)); why != "" {
				k.mistake(field+".name", "%s is not a name for a network device: %s", quote(renamed), why)
			}
		}
		if other, ok := targets[target]; ok && !strings.Contains(target, "%d") {
			k.mistake(field, "gets the name %s, as does %s", quote(target), quote(other))
		}
		targets[target] = name
	}
}

// badDeviceName holds the rules of dev_valid_name in net/core/dev.c. There, too, a % may only stand in one %d.
func badDeviceName(name string) string {
	const ifNameSize = 16 // IFNAMSIZ, with the NUL behind the name
	switch {
	case name == "":
		return "it is empty"
	case len(name) >= ifNameSize:
		return fmt.Sprintf("longer than %d bytes", ifNameSize-1)
	case name == "." || name == "..":
		return "it is a directory"
	case strings.ContainsAny(name, "/:% \t\n\v\f\r"):
		return "it has a character of / : % or white space"
	}
	return ""
}
