package oci

import (
	"strings"

	"hull/internal/typo"
)

// How hull treats a field.
type How uint8

const (
	Applied   How = iota // by the package of hull's that Claim.By names
	Refused              // with the reason By
	Tolerated            // without effect, for the reason By
	Renamed              // read as the field By, which took its place in a newer version
)

// A Claim says what hull does with one field of the configuration. Nothing in it is ignored in silence: a test fails on
// a field of specs.Spec that nobody claims.
type Claim struct {
	Field string // its path; [] is an element of an array, {} an entry of an object with free keys
	How   How
	By    string
}

// Claims returns the claims of all fields. Sections for other platforms are claimed as a whole.
func Claims() []Claim { return claims[:] }

// claimed writes a path as Claim.Field has it.
func claimed(path []step) string {
	var b strings.Builder
	for i, s := range path {
		if s.kind == property && i > 0 {
			b.WriteByte('.')
		}
		switch s.kind {
		case property:
			b.WriteString(s.name)
		case entry:
			b.WriteString("{}")
		case element:
			b.WriteString("[]")
		}
	}
	return b.String()
}

// otherCase returns the known field that differs from path only in case, or "".
func otherCase(path []step) string {
	name := claimed(path)
	for i := range claims {
		field := claims[i].Field
		if bare := strings.TrimRight(field, "[]{}"); strings.EqualFold(bare, name) {
			return bare[strings.LastIndexByte(bare, '.')+1:]
		}
	}
	return ""
}

// meant returns the field that the author of an unknown property may have had in mind, or "": one of the same object that is
// written nearly so, by its name alone; or the only one that has this name elsewhere, with its path.
func meant(path []step) string {
	last := path[len(path)-1].name
	object := ""
	if len(path) > 1 {
		object = claimed(path[:len(path)-1]) + "."
	}
	var siblings, elsewhere []string
	for i := range claims {
		field := strings.TrimRight(claims[i].Field, "[]{}")
		if rest, ok := strings.CutPrefix(field, object); ok && !strings.Contains(rest, ".") {
			siblings = append(siblings, rest)
		}
		if field[strings.LastIndexByte(field, '.')+1:] == last && claims[i].How != Refused {
			elsewhere = append(elsewhere, field)
		}
	}
	if name := typo.Nearest(last, siblings); name != "" {
		return name
	}
	if len(elsewhere) == 1 && !strings.ContainsAny(elsewhere[0], "[{") {
		return elsewhere[0]
	}
	return ""
}

var claims = [...]Claim{
	{"ociVersion", Applied, "oci"},
	{"process", Applied, "native"},
	{"process.terminal", Applied, "tty"},
	{"process.consoleSize", Applied, "tty"},
	{"process.consoleSize.height", Applied, "tty"},
	{"process.consoleSize.width", Applied, "tty"},
	{"process.user", Applied, "task"},
	{"process.user.uid", Applied, "task"},
	{"process.user.gid", Applied, "task"},
	{"process.user.additionalGids[]", Applied, "task"},
	{"process.user.umask", Applied, "task"},
	{"process.user.username", Tolerated, "a Windows user; uid and gid say who it is: a warning"},
	{"process.args[]", Applied, "native"},
	{"process.env[]", Applied, "native"},
	{"process.cwd", Applied, "native"},
	{"process.capabilities", Applied, "caps"},
	{"process.capabilities.bounding[]", Applied, "caps"},
	{"process.capabilities.effective[]", Applied, "caps"},
	{"process.capabilities.inheritable[]", Applied, "caps"},
	{"process.capabilities.permitted[]", Applied, "caps"},
	{"process.capabilities.ambient[]", Applied, "caps"},
	{"process.rlimits[]", Applied, "task"},
	{"process.rlimits[].type", Applied, "task"},
	{"process.rlimits[].hard", Applied, "task"},
	{"process.rlimits[].soft", Applied, "task"},
	{"process.noNewPrivileges", Applied, "native"},
	{"process.apparmorProfile", Applied, "native"},
	{"process.oomScoreAdj", Applied, "task"},
	{"process.selinuxLabel", Applied, "native"},
	{"process.scheduler", Applied, "task"},
	{"process.scheduler.policy", Applied, "task"},
	{"process.scheduler.nice", Applied, "task"},
	{"process.scheduler.priority", Applied, "task"},
	{"process.scheduler.flags[]", Applied, "task"},
	{"process.scheduler.runtime", Applied, "task"},
	{"process.scheduler.deadline", Applied, "task"},
	{"process.scheduler.period", Applied, "task"},
	{"process.ioPriority", Applied, "task"},
	{"process.ioPriority.class", Applied, "task"},
	{"process.ioPriority.priority", Applied, "task"},
	{"process.execCPUAffinity", Applied, "task"},
	{"process.execCPUAffinity.initial", Applied, "task"},
	{"process.execCPUAffinity.final", Applied, "task"},
	{"process.commandLine", Refused, "a command line for Windows"},
	{"root", Applied, "rootfs"},
	{"root.path", Applied, "rootfs"},
	{"root.readonly", Applied, "rootfs"},
	{"hostname", Applied, "native"},
	{"domainname", Applied, "native"},
	{"mounts[]", Applied, "mnt"},
	{"mounts[].destination", Applied, "mnt"},
	{"mounts[].type", Applied, "mnt"},
	{"mounts[].source", Applied, "mnt"},
	{"mounts[].options[]", Applied, "mnt"},
	{"mounts[].uidMappings[]", Applied, "mnt"},
	{"mounts[].uidMappings[].containerID", Applied, "mnt"},
	{"mounts[].uidMappings[].hostID", Applied, "mnt"},
	{"mounts[].uidMappings[].size", Applied, "mnt"},
	{"mounts[].gidMappings[]", Applied, "mnt"},
	{"mounts[].gidMappings[].containerID", Applied, "mnt"},
	{"mounts[].gidMappings[].hostID", Applied, "mnt"},
	{"mounts[].gidMappings[].size", Applied, "mnt"},
	{"hooks", Applied, "hook"},
	{"hooks.prestart[]", Applied, "hook"},
	{"hooks.prestart[].path", Applied, "hook"},
	{"hooks.prestart[].args[]", Applied, "hook"},
	{"hooks.prestart[].env[]", Applied, "hook"},
	{"hooks.prestart[].timeout", Applied, "hook"},
	{"hooks.poststart[]", Applied, "hook"},
	{"hooks.poststart[].path", Applied, "hook"},
	{"hooks.poststart[].args[]", Applied, "hook"},
	{"hooks.poststart[].env[]", Applied, "hook"},
	{"hooks.poststart[].timeout", Applied, "hook"},
	{"hooks.poststop[]", Applied, "hook"},
	{"hooks.poststop[].path", Applied, "hook"},
	{"hooks.poststop[].args[]", Applied, "hook"},
	{"hooks.poststop[].env[]", Applied, "hook"},
	{"hooks.poststop[].timeout", Applied, "hook"},
	{"hooks.createRuntime[]", Applied, "hook"},
	{"hooks.createRuntime[].path", Applied, "hook"},
	{"hooks.createRuntime[].args[]", Applied, "hook"},
	{"hooks.createRuntime[].env[]", Applied, "hook"},
	{"hooks.createRuntime[].timeout", Applied, "hook"},
	{"hooks.createContainer[]", Applied, "hook"},
	{"hooks.createContainer[].path", Applied, "hook"},
	{"hooks.createContainer[].args[]", Applied, "hook"},
	{"hooks.createContainer[].env[]", Applied, "hook"},
	{"hooks.createContainer[].timeout", Applied, "hook"},
	{"hooks.startContainer[]", Applied, "hook"},
	{"hooks.startContainer[].path", Applied, "hook"},
	{"hooks.startContainer[].args[]", Applied, "hook"},
	{"hooks.startContainer[].env[]", Applied, "hook"},
	{"hooks.startContainer[].timeout", Applied, "hook"},
	{"annotations{}", Applied, "store"},
	{"linux", Applied, "native"},
	{"linux.uidMappings[]", Applied, "native"},
	{"linux.uidMappings[].hostID", Applied, "native"},
	{"linux.uidMappings[].containerID", Applied, "native"},
	{"linux.uidMappings[].size", Applied, "native"},
	{"linux.gidMappings[]", Applied, "native"},
	{"linux.gidMappings[].hostID", Applied, "native"},
	{"linux.gidMappings[].containerID", Applied, "native"},
	{"linux.gidMappings[].size", Applied, "native"},
	{"linux.sysctl{}", Applied, "task"},
	{"linux.resources", Applied, "cgroup"},
	{"linux.resources.devices[]", Applied, "cgroup"},
	{"linux.resources.devices[].allow", Applied, "cgroup"},
	{"linux.resources.devices[].type", Applied, "cgroup"},
	{"linux.resources.devices[].major", Applied, "cgroup"},
	{"linux.resources.devices[].minor", Applied, "cgroup"},
	{"linux.resources.devices[].access", Applied, "cgroup"},
	{"linux.resources.memory", Applied, "cgroup"},
	{"linux.resources.memory.limit", Applied, "cgroup"},
	{"linux.resources.memory.reservation", Applied, "cgroup"},
	{"linux.resources.memory.swap", Applied, "cgroup"},
	{"linux.resources.memory.kernel", Tolerated, "Linux has given up limits of kernel memory (5.16): a warning unless 0 or -1"},
	{"linux.resources.memory.kernelTCP", Tolerated, "deprecated, and cgroup v2 has none: a warning unless 0 or -1"},
	{"linux.resources.memory.swappiness", Applied, "cgroup"},
	{"linux.resources.memory.disableOOMKiller", Applied, "cgroup"},
	{"linux.resources.memory.useHierarchy", Tolerated, "Linux always accounts hierarchically (5.11): a warning if false"},
	{"linux.resources.memory.checkBeforeUpdate", Applied, "cgroup"},
	{"linux.resources.cpu", Applied, "cgroup"},
	{"linux.resources.cpu.shares", Applied, "cgroup"},
	{"linux.resources.cpu.quota", Applied, "cgroup"},
	{"linux.resources.cpu.period", Applied, "cgroup"},
	{"linux.resources.cpu.realtimeRuntime", Applied, "cgroup"},
	{"linux.resources.cpu.realtimePeriod", Applied, "cgroup"},
	{"linux.resources.cpu.cpus", Applied, "cgroup"},
	{"linux.resources.cpu.mems", Applied, "cgroup"},
	{"linux.resources.cpu.burst", Applied, "cgroup"},
	{"linux.resources.cpu.idle", Applied, "cgroup"},
	{"linux.resources.pids", Applied, "cgroup"},
	{"linux.resources.pids.limit", Applied, "cgroup"},
	{"linux.resources.blockIO", Applied, "cgroup"},
	{"linux.resources.blockIO.weight", Applied, "cgroup"},
	{"linux.resources.blockIO.leafWeight", Applied, "cgroup"},
	{"linux.resources.blockIO.weightDevice[]", Applied, "cgroup"},
	{"linux.resources.blockIO.weightDevice[].major", Applied, "cgroup"},
	{"linux.resources.blockIO.weightDevice[].minor", Applied, "cgroup"},
	{"linux.resources.blockIO.weightDevice[].weight", Applied, "cgroup"},
	{"linux.resources.blockIO.weightDevice[].leafWeight", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadBpsDevice[]", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadBpsDevice[].major", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadBpsDevice[].minor", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadBpsDevice[].rate", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteBpsDevice[]", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteBpsDevice[].major", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteBpsDevice[].minor", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteBpsDevice[].rate", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadIOPSDevice[]", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadIOPSDevice[].major", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadIOPSDevice[].minor", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleReadIOPSDevice[].rate", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteIOPSDevice[]", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteIOPSDevice[].major", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteIOPSDevice[].minor", Applied, "cgroup"},
	{"linux.resources.blockIO.throttleWriteIOPSDevice[].rate", Applied, "cgroup"},
	{"linux.resources.hugepageLimits[]", Applied, "cgroup"},
	{"linux.resources.hugepageLimits[].pageSize", Applied, "cgroup"},
	{"linux.resources.hugepageLimits[].limit", Applied, "cgroup"},
	{"linux.resources.network", Applied, "cgroup"},
	{"linux.resources.network.classID", Applied, "cgroup"},
	{"linux.resources.network.priorities[]", Applied, "cgroup"},
	{"linux.resources.network.priorities[].name", Applied, "cgroup"},
	{"linux.resources.network.priorities[].priority", Applied, "cgroup"},
	{"linux.resources.rdma{}", Applied, "cgroup"},
	{"linux.resources.rdma{}.hcaHandles", Applied, "cgroup"},
	{"linux.resources.rdma{}.hcaObjects", Applied, "cgroup"},
	{"linux.resources.unified{}", Applied, "cgroup"},
	{"linux.cgroupsPath", Applied, "cgroup"},
	{"linux.namespaces[]", Applied, "native"},
	{"linux.namespaces[].type", Applied, "native"},
	{"linux.namespaces[].path", Applied, "native"},
	{"linux.devices[]", Applied, "rootfs"},
	{"linux.devices[].path", Applied, "rootfs"},
	{"linux.devices[].type", Applied, "rootfs"},
	{"linux.devices[].major", Applied, "rootfs"},
	{"linux.devices[].minor", Applied, "rootfs"},
	{"linux.devices[].fileMode", Applied, "rootfs"},
	{"linux.devices[].uid", Applied, "rootfs"},
	{"linux.devices[].gid", Applied, "rootfs"},
	{"linux.seccomp", Applied, "seccomp"},
	{"linux.seccomp.defaultAction", Applied, "seccomp"},
	{"linux.seccomp.architectures[]", Applied, "seccomp"},
	{"linux.seccomp.syscalls[]", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].names[]", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].action", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].args[]", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].args[].index", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].args[].value", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].args[].valueTwo", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].args[].op", Applied, "seccomp"},
	{"linux.seccomp.syscalls[].errnoRet", Applied, "seccomp"},
	{"linux.seccomp.flags[]", Applied, "seccomp"},
	{"linux.seccomp.defaultErrnoRet", Applied, "seccomp"},
	{"linux.seccomp.listenerPath", Applied, "seccomp"},
	{"linux.seccomp.listenerMetadata", Applied, "seccomp"},
	{"linux.rootfsPropagation", Applied, "rootfs"},
	{"linux.maskedPaths[]", Applied, "rootfs"},
	{"linux.readonlyPaths[]", Applied, "rootfs"},
	{"linux.mountLabel", Applied, "rootfs"},
	{"linux.intelRdt", Applied, "rdt"},
	{"linux.intelRdt.l3CacheSchema", Applied, "rdt"},
	{"linux.intelRdt.closID", Applied, "rdt"},
	{"linux.intelRdt.memBwSchema", Applied, "rdt"},
	{"linux.intelRdt.enableCMT", Renamed, "linux.intelRdt.enableMonitoring"},
	{"linux.intelRdt.enableMBM", Renamed, "linux.intelRdt.enableMonitoring"},
	{"linux.intelRdt.schemata[]", Applied, "rdt"},
	{"linux.intelRdt.enableMonitoring", Applied, "rdt"},
	{"linux.personality", Applied, "task"},
	{"linux.personality.domain", Applied, "task"},
	{"linux.personality.flags[]", Applied, "task"},
	{"linux.timeOffsets{}", Applied, "native"},
	{"linux.timeOffsets{}.secs", Applied, "native"},
	{"linux.timeOffsets{}.nanosecs", Applied, "native"},
	{"linux.netDevices{}", Applied, "netdev"},
	{"linux.netDevices{}.name", Applied, "netdev"},
	{"linux.memoryPolicy", Applied, "task"},
	{"linux.memoryPolicy.mode", Applied, "task"},
	{"linux.memoryPolicy.nodes", Applied, "task"},
	{"linux.memoryPolicy.flags[]", Applied, "task"},
	{"solaris", Refused, "another platform"},
	{"windows", Refused, "another platform"},
	{"vm", Refused, "hull runs no virtual machines"},
	{"zos", Refused, "another platform"},
	{"freebsd", Refused, "another platform"},
}
