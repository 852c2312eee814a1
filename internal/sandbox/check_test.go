package sandbox

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/fault"
	"hull/spec"
)

func TestExampleIsPossible(t *testing.T) {
	s := spec.Example(spec.Options{})
	if err := Check(s); err != nil {
		t.Error(err)
	}
}

// The network that hull itself is in stays where it is.
func TestOwnNetwork(t *testing.T) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := checkOwn(own); !errors.Is(err, fault.Unsupported) {
		t.Errorf("the host's: %v", err)
	}
	other, err := os.Open("/proc/self/ns/uts") // any other file
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := checkOwn(other); err != nil {
		t.Errorf("another: %v", err)
	}
}

// What engines ask for by default, and is so anyway, is possible; nothing else.
func TestSysctls(t *testing.T) {
	for _, test := range []struct {
		name, value string
		network     bool
		want        string // in the error; or ""
	}{
		{"net.ipv4.tcp_sack", "1", true, ""}, {"net/ipv4/tcp_sack", " 0\n", true, ""},
		{"net.ipv4.tcp_sack", "1", false, "the network is the host's"},
		{"net.ipv4.tcp_sack", "2", true, "want a number from 0 to 1"},
		{"net.ipv4.tcp_rmem", "1 2", true, "want 3 numbers"}, {"net.ipv4.tcp_rmem", "3 2 1", true, "ascend"},
		{"net.ipv4.ip_local_port_range", "0 9", true, "from 1 to 65535"},
		{"kernel.domainname", "x", false, ""},
		{"net.core.somaxconn", "4096", true, "in its kernel it is 1024"}, {"net.ipv4.tcp_syncookies", "1", true, "no such setting"},
	} {
		s := new(specs.Linux)
		s.Sysctl = map[string]string{test.name: test.value}
		if test.network {
			s.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}
		}
		k := new(checker)
		k.sysctls(s, false)
		err := errors.Join(k.errs...)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%q: %v, want %q", test.name, test.value, err, test.want)
		}
	}
}

func TestSysctl(t *testing.T) {
	for value, ok := range map[string]bool{"0": true, " 0": true, "1": false, "": false} {
		s := spec.Example(spec.Options{})
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": value, "net.ipv4.ping_group_range": "0\t2147483647"}
		if err := Check(s); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
	for value, ok := range map[string]bool{"0 0": true, "1 0": false, "1 100": false} {
		s := spec.Example(spec.Options{})
		s.Linux.Sysctl = map[string]string{"net.ipv4.ping_group_range": value}
		if err := Check(s); (err == nil) != ok {
			t.Errorf("ping_group_range %q: %v", value, err)
		}
	}
}

// What engines give every container on a host with AppArmor is taken; what somebody has chosen is refused.
func TestAppArmor(t *testing.T) {
	for profile, ok := range map[string]bool{
		"": true, "unconfined": true, "docker-default": true, "containers-default-0.50.1": true, "cri-containerd.apparmor.d": true, "crio-default": true,
		"docker-default-of-mine": false, "containers-default": false, "mine": false,
	} {
		s := spec.Example(spec.Options{})
		s.Process.ApparmorProfile = profile
		if err := Check(s); (err == nil) != ok {
			t.Errorf("%q: %v", profile, err)
		}
	}
}

// A pod with the host's network has its names, too, as engines make one.
func TestHostNetworkWithoutUTS(t *testing.T) {
	s := spec.Example(spec.Options{})
	without(specs.NetworkNamespace)(s)
	without(specs.UTSNamespace)(s)
	s.Hostname = ""
	if err := Check(s); err != nil {
		t.Error(err)
	}
}

func ptr[T any](v T) *T { return &v }

// refused are configurations that Check must refuse, by the field that it names.
var refused = map[string]func(*specs.Spec){
	`linux.namespaces: not possible in sandbox isolation: without the type "pid"`:   without(specs.PIDNamespace),
	`linux.namespaces: not possible in sandbox isolation: without the type "ipc"`:   without(specs.IPCNamespace),
	`linux.namespaces: not possible in sandbox isolation: without the type "uts"`:   without(specs.UTSNamespace),
	`linux.namespaces: not possible in sandbox isolation: without the type "mount"`: without(specs.MountNamespace),
	"linux.namespaces[0].path": func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
	"linux.namespaces[2].path": func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/proc/1/ns/ipc" }, // of no pod
	"linux.namespaces[0].type": func(s *specs.Spec) {
		s.Linux.Namespaces = append([]specs.LinuxNamespace{{Type: specs.TimeNamespace}}, s.Linux.Namespaces...)
	},
	"process.selinuxLabel":    func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
	"process.apparmorProfile": func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
	`process.rlimits[0] "RLIMIT_NOFILE"`: func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 1 << 31}}
	},
	"process.scheduler":       func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} },
	"process.ioPriority":      func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} },
	"process.execCPUAffinity": func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{} },
	"linux.sysctl":            func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"} },
	"linux.rootfsPropagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "rslave" },
	"linux.mountLabel":        func(s *specs.Spec) { s.Linux.MountLabel = "x" },
	"linux.personality":       func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} },
	"linux.memoryPolicy":      func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} },
	"linux.netDevices":        func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} },
	"linux.timeOffsets":       func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {}} },
	`linux.devices[0] "/dev/fuse"`: func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
	},
	`linux.devices[0] "/dev/sda"`: func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 1, Minor: 3}}
	},
	"linux.seccomp.listenerPath":  func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/x"} },
	"linux.seccomp.defaultAction": func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActNotify} },
	"linux.seccomp.syscalls[0].action: not possible in sandbox isolation: its kernel has no agents": filtering(specs.ActNotify),
	"linux.seccomp.syscalls[0].action: not possible in sandbox isolation: its kernel ends threads":  filtering(specs.ActKillProcess),
	"linux.seccomp.syscalls[0].action: not possible in sandbox isolation: its kernel logs no":       filtering(specs.ActLog),

	`mounts[0] "/x": not possible in sandbox isolation: remount`:         mounting("tmpfs", "remount"),
	`mounts[0] "/x": not possible in sandbox isolation: nosymfollow`:     mounting("tmpfs", "nosymfollow"),
	`mounts[0] "/x": not possible in sandbox isolation: options of a su`: mounting("tmpfs", "sync"),
	`mounts[0] "/x": not possible in sandbox isolation: rslave`:          mounting("bind", "rslave"),
	`mounts[0] "/x": not possible in sandbox isolation: shared`:          mounting("bind", "shared"),
	`mounts[0] "/x": not possible in sandbox isolation: an idmapped`: func(s *specs.Spec) {
		ids := []specs.LinuxIDMapping{{HostID: 5000, Size: 1000}}
		s.Mounts = []specs.Mount{{Destination: "/x", Source: "/y", Options: []string{"bind"}, UIDMappings: ids, GIDMappings: ids}}
	},
	`mounts[0] "/x": not possible in sandbox isolation: its kernel has`: mounting("ext4"),
	`mounts[0] "/x": not possible in sandbox isolation: option "huge`:   mounting("tmpfs", "huge=always"),
	`mounts[0] "/x": not possible in sandbox isolation: option "size=5`: mounting("tmpfs", "size=50%"),
	`mounts[0] "/x": not possible in sandbox isolation: option "hidepi`: mounting("proc", "hidepid=2"),
}

func without(kind specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
	}
}

func filtering(a specs.LinuxSeccompAction) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: a}}}
	}
}

func mounting(kind string, options ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = []specs.Mount{{Destination: "/x", Type: kind, Source: "/tmp", Options: options}}
	}
}

func TestRefused(t *testing.T) {
	for text, edit := range refused {
		s := spec.Example(spec.Options{})
		edit(s)
		err := Check(s)
		if err == nil || !strings.HasPrefix(err.Error(), text) || !errors.Is(err, fault.Unsupported) {
			t.Errorf("got %v, want %s…", err, text)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []string{"size=words", "mode=9", "uid=-1", "gid=x", "nr_inodes="} {
		s := spec.Example(spec.Options{})
		mounting("tmpfs", o)(s)
		err := Check(s)
		if err == nil || !strings.HasPrefix(err.Error(), `mounts[0] "/x": option `) || !errors.Is(err, fault.BadSpec) {
			t.Errorf("%s: got %v", o, err)
		}
	}
}

func TestTaken(t *testing.T) {
	for name, edit := range map[string]func(*specs.Spec){
		"options of a bind mount": mounting("bind", "rbind", "rprivate", "ro", "nosuid", "nodev", "noexec", "relatime"),
		"options of tmpfs":        mounting("tmpfs", "noatime", "size=1m,mode=700", "uid=1", "gid=1", "nr_inodes=5", "silent"),
		"user namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"devices of its kernel": func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3, FileMode: ptr(os.FileMode(0o600))}}
		},
		"own personality": func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux} },
		"propagation":     func(s *specs.Spec) { s.Linux.RootfsPropagation = "rprivate" },
	} {
		s := spec.Example(spec.Options{})
		edit(s)
		if err := Check(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
