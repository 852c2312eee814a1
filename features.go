package hull

import (
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"hull/internal/caps"
	"hull/internal/cgroup"
	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/oci"
	"hull/internal/sandbox"
	"hull/internal/seccomp"
	"hull/internal/task"
)

// Features tells what this hull can do on this host (features.md). What depends on the kernel is asked of the kernel.
func Features() *features.Features {
	yes := true
	group := cgroup.Supported()
	modes, flags := task.MemoryPolicies()
	return &features.Features{
		OCIVersionMin: oci.VersionMin,
		OCIVersionMax: oci.VersionMax,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mnt.Options(),
		Linux: &features.Linux{
			Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
			Capabilities: caps.Supported().Names(),
			Cgroup:       &features.Cgroup{V1: &group.V1, V2: &group.V2, Systemd: &group.Systemd, SystemdUser: &group.SystemdUser, Rdma: &group.RDMA},
			Seccomp: &features.Seccomp{
				Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(), Archs: seccomp.Archs(),
				KnownFlags: seccomp.KnownFlags(), SupportedFlags: seccomp.SupportedFlags(),
			},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			MemoryPolicy:    &features.MemoryPolicy{Modes: modes, Flags: flags},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		Annotations:                        map[string]string{"run.hull.version": Version, "run.hull.isolations": isolations()},
		PotentiallyUnsafeConfigAnnotations: []string{"org.systemd.property.", "run.oci.keep_original_groups"},
	}
}

// isolations names those that the caller can have on this host.
func isolations() string {
	if (sandbox.Engine{}).Available() != nil {
		return string(Native)
	}
	return string(Native) + " " + string(Sandbox)
}

// CPUFeatures returns the features of this machine's processor that sandboxes are shown, as /proc/cpuinfo has them: what a saved
// container was started with must be there where it is restored.
func (r *Runtime) CPUFeatures() ([]string, error) {
	features, err := sandbox.Engine{Program: r.SandboxProgram, Release: Version}.CPUFeatures()
	return features, fault.In("cpu-features", "", err)
}
