package sandbox

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What becomes of a field in a sandbox.
const (
	inside  = "inside"  // package boot applies it
	outside = "outside" // the jail, or package hull, does on the host
	both    = "both"
	denied  = "denied"  // Check refuses it: refused has it
	checked = "checked" // package oci has looked at it, and nobody needs it
	foreign = "foreign" // of another platform: package oci refuses it
)

// fields are all fields that can mean something for a container on Linux. One that is new in the specification has to be
// put here, and into the table of docs/isolation.md.
var fields = map[string]string{
	"ociVersion": checked, "process": inside, "root": inside, "hostname": inside, "domainname": inside, "mounts": inside,
	"hooks": outside, "annotations": outside, "linux": inside,
	"solaris": foreign, "windows": foreign, "vm": foreign, "zos": foreign, "freebsd": foreign,

	"process.terminal": both, "process.consoleSize": outside, "process.user": inside, "process.args": inside,
	"process.commandLine": foreign, "process.env": inside, "process.cwd": inside, "process.capabilities": inside,
	"process.rlimits": inside, "process.noNewPrivileges": inside, "process.apparmorProfile": denied,
	"process.oomScoreAdj": both, "process.scheduler": denied, "process.selinuxLabel": denied, "process.ioPriority": denied,
	"process.execCPUAffinity": denied,

	"process.user.uid": inside, "process.user.gid": inside, "process.user.umask": inside,
	"process.user.additionalGids": inside, "process.user.username": checked,

	"root.path": outside, "root.readonly": both,

	"mounts.destination": inside, "mounts.type": inside, "mounts.source": outside, "mounts.options": both,
	"mounts.uidMappings": outside, "mounts.gidMappings": outside,

	"hooks.prestart": outside, "hooks.createRuntime": outside, "hooks.createContainer": outside,
	"hooks.startContainer": inside, "hooks.poststart": outside, "hooks.poststop": outside,

	"linux.uidMappings": outside, "linux.gidMappings": outside, "linux.sysctl": denied, "linux.resources": outside,
	"linux.cgroupsPath": outside, "linux.namespaces": outside, "linux.devices": inside, "linux.netDevices": denied,
	"linux.seccomp": inside, "linux.rootfsPropagation": denied, "linux.maskedPaths": inside, "linux.readonlyPaths": inside,
	"linux.mountLabel": denied, "linux.intelRdt": outside, "linux.memoryPolicy": denied, "linux.personality": denied,
	"linux.timeOffsets": denied,

	"linux.namespaces.type": outside, "linux.namespaces.path": denied,

	"linux.devices.path": inside, "linux.devices.type": denied, "linux.devices.major": inside, "linux.devices.minor": inside,
	"linux.devices.fileMode": inside, "linux.devices.uid": inside, "linux.devices.gid": inside,

	"linux.seccomp.defaultAction": inside, "linux.seccomp.defaultErrnoRet": inside, "linux.seccomp.architectures": inside,
	"linux.seccomp.flags": checked, "linux.seccomp.listenerPath": denied, "linux.seccomp.listenerMetadata": checked,
	"linux.seccomp.syscalls": inside,
}

func TestEveryFieldIsLookedAt(t *testing.T) {
	seen := make(map[string]bool)
	for prefix, v := range map[string]any{
		"": specs.Spec{}, "process.": specs.Process{}, "process.user.": specs.User{}, "root.": specs.Root{},
		"mounts.": specs.Mount{}, "hooks.": specs.Hooks{}, "linux.": specs.Linux{}, "linux.namespaces.": specs.LinuxNamespace{},
		"linux.devices.": specs.LinuxDevice{}, "linux.seccomp.": specs.LinuxSeccomp{},
	} {
		for f := range reflect.TypeOf(v).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			seen[prefix+name] = true
			if fields[prefix+name] == "" {
				t.Errorf("%s%s: nobody says what becomes of it in a sandbox", prefix, name)
			}
		}
	}
	for name := range fields {
		if !seen[name] {
			t.Errorf("%s: there is no such field", name)
		}
	}
}

// Who looks for a field in the documentation finds it by its name.
func TestEveryFieldIsInTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/isolation.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := make(map[string]bool) // fields that are described by those in them
	for name := range fields {
		if i := strings.LastIndexByte(name, '.'); i > 0 {
			parts[name[:i]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if fields[name] != foreign && !parts[name] && !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("%s: docs/isolation.md doesn't say what becomes of it", name)
		}
	}
}

// indexes takes the indexes and values out of what an error calls a field.
func indexes(text string) string {
	field, _, _ := strings.Cut(text, ":")
	field, _, _ = strings.Cut(field, " ")
	for {
		before, rest, found := strings.Cut(field, "[")
		if !found {
			return field
		}
		_, after, _ := strings.Cut(rest, "]")
		field = before + after
	}
}

func TestWhatIsDeniedIsTested(t *testing.T) {
	tested := make(map[string]bool)
	for text := range maps.Keys(refused) {
		tested[indexes(text)] = true
	}
	// These are said of the whole.
	tested["mounts.uidMappings"], tested["mounts.gidMappings"] = tested["mounts"], tested["mounts"]
	tested["linux.devices.type"] = tested["linux.devices"]
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if fields[name] == denied && !tested[name] {
			t.Errorf("%s: no test that it is refused", name)
		}
	}
}
