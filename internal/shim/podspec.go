package shim

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/containerd"
	"hull/internal/shim/pause"
)

// Annotations by which hull finds a pod's first container, as containerd gives them to pause containers.
const (
	kindAnnotation = "io.kubernetes.cri.container-type"
	podAnnotation  = "io.kubernetes.cri.sandbox-id"
)

const (
	podScore  = -998 // oom_score_adj of what holds a pod: the kubelet's for it
	podShares = 2    // of the processor, the least: it waits
)

// podSpec returns the configuration of the process that holds a pod's namespaces: like a pause container's, without an image.
func podSpec(id string, c *containerd.PodConfig, netns string) (*specs.Spec, error) {
	shares := uint64(podShares)
	score, err := ownScore(podScore)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootfsDir, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/" + pause.File}, Cwd: "/", NoNewPrivileges: true, OOMScoreAdj: &score, Capabilities: &specs.LinuxCapabilities{},
			User: specs.User{UID: pause.User, GID: pause.User},
		},
		Hostname: c.Hostname,
		Mounts:   []specs.Mount{{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}}},
		Annotations: map[string]string{
			kindAnnotation: "sandbox", podAnnotation: id,
			"io.kubernetes.cri.sandbox-name": c.Name, "io.kubernetes.cri.sandbox-namespace": c.Namespace, "io.kubernetes.cri.sandbox-uid": c.UID,
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}},
			Sysctl:    podSysctls(c),
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
				Syscalls: []specs.LinuxSyscall{{Names: pause.Calls, Action: specs.ActAllow}}},
		},
	}
	if c.CgroupParent != "" {
		s.Linux.CgroupsPath = path.Join(c.CgroupParent, id)
		if slice := path.Base(c.CgroupParent); strings.HasSuffix(slice, ".slice") { // systemd's
			s.Linux.CgroupsPath = slice + ":cri-containerd:" + id
		}
	}
	if err := podNamespaces(s, &c.Security, netns); err != nil {
		return nil, err
	}
	return s, nil
}

func podNamespaces(s *specs.Spec, c *containerd.PodSecurity, netns string) error {
	add := func(kind specs.LinuxNamespaceType, path string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	add(specs.MountNamespace, "")
	if cgroup.Detect() == cgroup.V2 {
		add(specs.CgroupNamespace, "")
	}
	if c.Network != containerd.NodeNamespace {
		add(specs.NetworkNamespace, netns)
		add(specs.UTSNamespace, "")
	} else {
		s.Hostname = "" // it is the host's
	}
	if c.PID != containerd.NodeNamespace {
		add(specs.PIDNamespace, "")
	}
	if c.IPC != containerd.NodeNamespace {
		add(specs.IPCNamespace, "")
	}
	u := c.User
	if u == nil || u.Mode == containerd.NodeNamespace {
		return nil
	}
	if u.Mode != containerd.PodNamespace {
		return fmt.Errorf("user namespace: mode %d is neither the pod's nor the node's", u.Mode)
	}
	add(specs.UserNamespace, "")
	// Sysctls are written to a procfs, and the kernel lets a user namespace mount one only where one is to be seen.
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}})
	s.Linux.UIDMappings, s.Linux.GIDMappings = mappings(u.UIDs), mappings(u.GIDs)
	if hostID(u.UIDs, pause.User) < 0 || hostID(u.GIDs, pause.User) < 0 {
		s.Process.User = specs.User{}
	}
	return nil
}

func mappings(list []containerd.IDMapping) []specs.LinuxIDMapping {
	all := make([]specs.LinuxIDMapping, len(list))
	for i, m := range list {
		all[i] = specs.LinuxIDMapping{HostID: m.Host, ContainerID: m.Container, Size: m.Size}
	}
	return all
}

// hostID returns what an id of a user namespace is outside, or -1.
func hostID(list []containerd.IDMapping, id uint32) int {
	for _, m := range list {
		if id >= m.Container && id-m.Container < m.Size {
			return int(m.Host + (id - m.Container))
		}
	}
	return -1
}

// podSysctls are the pod's, and those that containerd gives to pods with pause containers unless they have others: in a
// network of a pod's own, low ports and pings are for all.
func podSysctls(c *containerd.PodConfig) map[string]string {
	all := make(map[string]string)
	if c.Security.Network != containerd.NodeNamespace {
		all["net.ipv4.ip_unprivileged_port_start"] = "0"
		if c.Security.User == nil || c.Security.User.Mode == containerd.NodeNamespace {
			all["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	for k, v := range c.Sysctls {
		all[strings.ReplaceAll(k, "/", ".")] = v
	}
	return all
}

// ownScore returns the oom_score_adj that a process may have which wants a certain one: less than the shim's needs CAP_SYS_RESOURCE.
func ownScore(want int) (int, error) {
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, os.NewSyscallError("capget", err)
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return want, nil
	}
	return max(own, want), nil
}

// Files of a pod that its containers share, below its root file system: they are bound where containerd leaves that to the shim.
const (
	etcDir = "etc"
	shmDir = "shm"
)

// podFiles are the destinations in a container.
var podFiles = []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}

// shareFiles adds to a container's mounts what it shares with the others of its pod, where it has nothing of its own.
func shareFiles(s *specs.Spec, podRoot string) {
	has := func(destination string) bool {
		return slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == destination })
	}
	access := "rw"
	if s.Root != nil && s.Root.Readonly {
		access = "ro"
	}
	bind := func(destination, source, access string) specs.Mount {
		return specs.Mount{Destination: destination, Source: filepath.Join(podRoot, source), Type: "bind", Options: []string{"rbind", "rprivate", access}}
	}
	for _, f := range podFiles {
		if !has(f) {
			s.Mounts = append(s.Mounts, bind(f, f, access))
		}
	}
	for i, m := range s.Mounts {
		if path.Clean(m.Destination) == "/dev/shm" && m.Type == "tmpfs" { // of the container alone, as it is by default
			s.Mounts[i] = bind(m.Destination, shmDir, "rw")
		}
	}
}

// resolvConf returns the text of a pod's resolv.conf.
func resolvConf(c *containerd.DNSConfig) string {
	var b strings.Builder
	if len(c.Searches) > 0 {
		b.WriteString("search " + strings.Join(c.Searches, " ") + "\n")
	}
	for _, server := range c.Servers {
		b.WriteString("nameserver " + server + "\n")
	}
	if len(c.Options) > 0 {
		b.WriteString("options " + strings.Join(c.Options, " ") + "\n")
	}
	return b.String()
}
