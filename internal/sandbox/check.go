package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup/device"
	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/sandbox/wire"
	"hull/internal/seccomp"
	"hull/internal/task"
)

// Check refuses what a sandbox can't do: nothing of a configuration is ignored. What is not looked at here is applied, by
// package boot inside or by the jail outside; fields_test.go has the list of all fields.
func Check(s *specs.Spec) error {
	k := &checker{}
	pod, _, err := PodID(s.Annotations)
	k.take(err)
	if pod != "" {
		k.memberNamespaces(s.Linux.Namespaces)
	} else {
		k.namespaces(s)
	}
	for i := range s.Mounts {
		k.mount(i, s.Mounts[i])
		k.idmap(i, s)
	}
	k.process(s.Process)
	k.linux(s.Linux)
	k.sysctls(s.Linux, pod != "")
	return errors.Join(k.errs...)
}

type checker struct{ errs []error }

func (k *checker) take(err error) {
	if err != nil {
		k.errs = append(k.errs, err)
	}
}

func (k *checker) refuse(given bool, field, reason string) {
	if given {
		k.errs = append(k.errs, &fault.Error{Field: field, Kind: fault.Unsupported,
			Err: errors.New("not possible in sandbox isolation: " + reason)})
	}
}

// namespaces refuses to share one with the host, or with others: what is in a sandbox has those of its own kernel.
//
// With the host's network uts may be left out, as containerd and CRI-O do for pods that have it (hostNetwork): such a pod is to
// be known by the host's name, which its kernel has then.
func (k *checker) namespaces(s *specs.Spec) {
	list, joins := s.Linux.Namespaces, joined(s)
	lacks := func(t specs.LinuxNamespaceType) bool {
		return !slices.ContainsFunc(list, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
	}
	for _, t := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace,
	} {
		hosts := t == specs.UTSNamespace && lacks(specs.NetworkNamespace)
		k.refuse(lacks(t) && !hosts, "linux.namespaces",
			fmt.Sprintf("without the type %q the container would have the host's, which its kernel has no part in", t))
	}
	for i, ns := range list {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		k.refuse(ns.Path != "" && !joins(ns), field+".path", "its kernel can't join namespaces of the host's")
		k.refuse(ns.Type == specs.TimeNamespace, field+".type", "its kernel has no time namespaces")
	}
}

// memberNamespaces refuses what a container can't have that joins others in a sandbox. Those of the pod that it names by paths are
// looked at when it joins; one that it doesn't have at all is the pod's.
func (k *checker) memberNamespaces(list []specs.LinuxNamespace) {
	k.refuse(!slices.ContainsFunc(list, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.MountNamespace }), "linux.namespaces",
		`without the type "mount" the container would have the host's, which its kernel has no part in`)
	for i, ns := range list {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		switch ns.Type {
		case specs.NetworkNamespace:
			k.refuse(ns.Path == "", field, "its kernel has one network, the pod's: name it by its path, or leave it out")
		case specs.MountNamespace, specs.CgroupNamespace:
			k.refuse(ns.Path != "", field+".path", "its kernel can't join namespaces of the host's")
		case specs.TimeNamespace:
			k.refuse(true, field+".type", "its kernel has no time namespaces")
		}
	}
}

// dataOptions are the options that the file systems of the sandbox's kernel know.
var dataOptions = map[string][]string{
	"tmpfs":   {"size", "mode", "uid", "gid", "nr_inodes"},
	"devpts":  {"newinstance", "ptmxmode", "mode", "uid", "gid"},
	"proc":    nil,
	"sysfs":   nil,
	"mqueue":  nil,
	"cgroup":  nil,
	"cgroup2": nil,
}

func (k *checker) mount(i int, s specs.Mount) {
	m, err := mnt.Parse(i, s, "/")
	if err != nil {
		k.errs = append(k.errs, err)
		return
	}
	k.refuse(m.Remount, m.Field, "remount")
	k.refuse((m.Attr.Set|m.Rec.Set)&unix.MOUNT_ATTR_NOSYMFOLLOW != 0, m.Field, "nosymfollow")
	k.refuse(m.Super&^unix.MS_SILENT != 0, m.Field, "options of a superblock, as sync and mand")
	for _, p := range m.Propagation {
		k.refuse(p&^unix.MS_REC != unix.MS_PRIVATE, m.Field,
			mnt.PropagationName(p)+": mounts are not propagated between the host's kernel and the sandbox's")
	}
	if m.Bind {
		return
	}
	known, ok := dataOptions[m.Type]
	k.refuse(!ok, m.Field, fmt.Sprintf("its kernel has no file system %q", m.Type))
	if !ok {
		return
	}
	for _, d := range m.Data {
		for o := range strings.SplitSeq(d, ",") {
			name, value, _ := strings.Cut(o, "=")
			k.refuse(o != "" && !slices.Contains(known, name), m.Field, fmt.Sprintf("option %q", o))
			k.refuse(name == "size" && strings.HasSuffix(value, "%"), m.Field, fmt.Sprintf("option %q: a size in bytes is possible", o))
			if problem := badNumber(name, value); problem != "" {
				k.errs = append(k.errs, fault.Spec(m.Field, fmt.Sprintf("option %q: %s", o, problem)))
			}
		}
	}
}

// idmap looks for the maps of an idmapped mount.
func (k *checker) idmap(i int, s *specs.Spec) {
	m, err := mnt.Parse(i, s.Mounts[i], "/")
	if err != nil || m.IDMap == nil {
		return
	}
	ids := idMaps(&m, s)
	if ids == nil {
		k.errs = append(k.errs, fault.Spec(m.Field+": options", "idmap needs uidMappings and gidMappings, here or of a user namespace of the container"))
		return
	}
	var l specs.Linux
	if ownUsers(s) {
		l = *s.Linux
	}
	// Who makes a file is that root at first, for the host's kernel.
	k.refuse((m.Attr.Set|m.Rec.Set)&unix.MOUNT_ATTR_RDONLY == 0 && !(shows(ids.UID, rootOf(l.UIDMappings)) && shows(ids.GID, rootOf(l.GIDMappings))),
		m.Field, "an idmapped mount that isn't read-only and doesn't show the ids of the sandbox's root, by whom files are made")
}

// rootOf returns what id of the host's 0 is.
func rootOf(maps []specs.LinuxIDMapping) uint32 {
	for _, m := range maps {
		if m.ContainerID == 0 {
			return m.HostID
		}
	}
	return 0
}

// shows tells whether a mount shows files as the id's.
func shows(maps []specs.LinuxIDMapping, id uint32) bool {
	return slices.ContainsFunc(maps, func(m specs.LinuxIDMapping) bool { return id >= m.HostID && id-m.HostID < m.Size })
}

func ownUsers(s *specs.Spec) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
}

// idMaps returns those of an idmapped mount: its own, or else the container's.
func idMaps(m *mnt.Mount, s *specs.Spec) *mnt.IDMap {
	switch l := s.Linux; {
	case m.IDMap == nil:
		return nil
	case m.IDMap.UID != nil:
		return m.IDMap
	case ownUsers(s) && len(l.UIDMappings) > 0 && len(l.GIDMappings) > 0: // beside a path there may be none
		return &mnt.IDMap{UID: l.UIDMappings, GID: l.GIDMappings, Recursive: m.IDMap.Recursive}
	}
	return nil
}

// badNumber says what is wrong with the value of an option: the sandbox's kernel would only say that something is.
func badNumber(name, value string) string {
	base, problem := 10, "no number"
	switch name {
	case "size", "nr_inodes":
		value = strings.TrimSuffix(value, "%")
		value = strings.TrimRight(value, "kKmMgGtT")
		problem = "no size, as 64k or 1g"
	case "mode", "ptmxmode":
		base, problem = 8, "no octal number"
	case "uid", "gid":
	default:
		return ""
	}
	if _, err := strconv.ParseUint(value, base, 64); err != nil {
		return problem
	}
	return ""
}

func (k *checker) process(p *specs.Process) {
	if p == nil {
		return
	}
	_, err := task.Credentials(p.User)
	k.take(err)
	k.rlimits(p.Rlimits)
	k.refuse(p.SelinuxLabel != "", "process.selinuxLabel", "its kernel has no SELinux")
	k.refuse(!unasked(p.ApparmorProfile), "process.apparmorProfile", fmt.Sprintf("%q: its kernel has no AppArmor", p.ApparmorProfile))
	k.refuse(p.Scheduler != nil, "process.scheduler", "its kernel schedules as it does")
	k.refuse(p.IOPriority != nil, "process.ioPriority", "its kernel has no priorities of input and output")
	k.refuse(p.ExecCPUAffinity != nil, "process.execCPUAffinity", "processes of a sandbox have no processors of their own on the host")
}

// rlimits refuses what its kernel wouldn't let a program set.
func (k *checker) rlimits(list []specs.POSIXRlimit) {
	_, err := task.Rlimits(list)
	k.take(err)
	const most = math.MaxInt32 // kernel.MaxFdLimit there
	for i, l := range list {
		k.refuse(l.Type == "RLIMIT_NOFILE" && l.Hard > most, fmt.Sprintf("process.rlimits[%d] %q", i, l.Type),
			fmt.Sprintf("its kernel lets a process have %d open files at most", most))
	}
}

// notHeld are the limits that its kernel keeps and shows, and that nothing there looks at. Linux looks at RLIMIT_LOCKS and
// RLIMIT_RSS no more, and of RLIMIT_CORE there is nothing to hold where no core dumps are made.
var notHeld = []string{"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING"}

// unheldLimits returns a warning for each limit that is given and makes no difference.
func unheldLimits(p *specs.Process) (warnings []string) {
	if p == nil {
		return nil
	}
	for i, l := range p.Rlimits {
		if slices.Contains(notHeld, l.Type) {
			warnings = append(warnings, fmt.Sprintf("process.rlimits[%d] %q: shown to the program, but not held: the sandbox's kernel has nothing that looks at it", i, l.Type))
		}
	}
	return warnings
}

// unasked says whether a profile is none that anybody has chosen: engines give theirs to every container where the host has
// AppArmor. What those keep containers from is the host's /proc, /sys, mounts and processes, of which a sandbox has none.
func unasked(profile string) bool {
	switch profile {
	case "", "unconfined", "docker-default", "cri-containerd.apparmor.d", "crio-default", "nerdctl-default":
		return true
	}
	version, ok := strings.CutPrefix(profile, "containers-default-") // of Podman and Buildah
	return ok && version != ""
}

// asItIs are settings that engines ask for and that are so anyway: the sandbox's kernel has no ports for the privileged, and
// anyone may ping; Podman wants the group 0 to be among those. The rest are Linux's defaults, which are constants of that kernel.
var asItIs = map[string][]string{
	"net.ipv4.ip_unprivileged_port_start": {"0"},
	"net.ipv4.ping_group_range":           {"0 2147483647", "0 0"},
	"net.ipv4.ip_forward":                 {"0"}, // its file in /proc doesn't say what is set elsewhere
	"net.core.somaxconn":                  {"1024"},
	"kernel.shmmax":                       {"18446744073692774399"},
	"kernel.shmall":                       {"18446744073692774399"},
	"kernel.shmmni":                       {"4096"},
	"kernel.msgmni":                       {"32000"},
	"kernel.msgmax":                       {"8192"},
	"kernel.msgmnb":                       {"16384"},
	"kernel.sem":                          {"32000 1024000000 500 32000"},
}

// sysctls refuses the settings that the sandbox's kernel doesn't have, and those of a network that is another's.
func (k *checker) sysctls(l *specs.Linux, member bool) {
	ownNetwork := slices.ContainsFunc(l.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
	for name, value := range l.Sysctl {
		field, plain := "linux.sysctl "+name, strings.ReplaceAll(name, "/", ".")
		if slices.Contains(asItIs[plain], strings.Join(strings.Fields(value), " ")) {
			continue
		}
		_, ok, err := wire.ParseSysctl(name, value)
		switch {
		case err != nil:
			k.errs = append(k.errs, fault.Spec(field, err.Error()))
		case ok && member:
			k.refuse(true, field, "the network is the pod's")
		case ok && !ownNetwork:
			k.refuse(true, field, "the network is the host's")
		case asItIs[plain] != nil:
			k.refuse(true, field, "in its kernel it is "+strings.Join(asItIs[plain], " or "))
		default:
			k.refuse(!ok && plain != wire.Domainname, field, "its kernel has no such setting, or none that can be changed")
		}
	}
}

func (k *checker) linux(l *specs.Linux) {
	if l.RootfsPropagation != "" {
		flags, _ := mnt.Propagation(l.RootfsPropagation)
		k.refuse(flags&^unix.MS_REC != unix.MS_PRIVATE, "linux.rootfsPropagation",
			"mounts are not propagated between the host's kernel and the sandbox's")
	}
	k.refuse(l.MountLabel != "", "linux.mountLabel", "its kernel has no SELinux")
	k.refuse(l.Personality != nil && l.Personality.Domain != specs.PerLinux, "linux.personality", "its kernel has no other than LINUX")
	k.refuse(l.MemoryPolicy != nil, "linux.memoryPolicy", "its kernel has one node of memory")
	k.refuse(len(l.NetDevices) > 0, "linux.netDevices", "devices of the host's network can't be moved into its kernel")
	k.refuse(len(l.TimeOffsets) > 0, "linux.timeOffsets", "its kernel has no time namespaces")
	for i, d := range l.Devices {
		if isFUSE(d) {
			k.fuse(i, l)
			continue
		}
		k.refuse(!known(d), fmt.Sprintf("linux.devices[%d] %q", i, d.Path), fmt.Sprintf("its kernel has no device %s %d:%d", d.Type, d.Major, d.Minor))
	}
	if sc := l.Seccomp; sc != nil {
		k.refuse(sc.ListenerPath != "", "linux.seccomp.listenerPath", "its kernel has no agents for system calls")
		k.action("linux.seccomp.defaultAction", sc.DefaultAction)
		for i, c := range sc.Syscalls {
			k.action(fmt.Sprintf("linux.seccomp.syscalls[%d].action", i), c.Action)
		}
	}
	_, err := seccomp.Compile(l.Seccomp)
	k.take(err)
}

// fuse refuses the device that servers of FUSE file systems open where the host's kernel would not let them.
func (k *checker) fuse(i int, l *specs.Linux) {
	var rules []specs.LinuxDeviceCgroup
	if l.Resources != nil {
		rules = l.Resources.Devices
	}
	access, err := device.New(rules)
	k.take(err)
	d := l.Devices[i]
	k.refuse(err == nil && !access.Allows(device.Device{Kind: 'c', Major: d.Major, Minor: d.Minor}, device.Read|device.Write),
		fmt.Sprintf("linux.devices[%d] %q", i, d.Path), fmt.Sprintf("%s has no rule that allows %s %d:%d rw", device.Field, d.Type, d.Major, d.Minor))
}

// action refuses what the sandbox's kernel would do otherwise.
func (k *checker) action(field string, a specs.LinuxSeccompAction) {
	k.refuse(a == specs.ActNotify, field, "its kernel has no agents for system calls")
	k.refuse(a == specs.ActLog, field, "its kernel logs no system calls; SCMP_ACT_ALLOW is possible")
	k.refuse(a == specs.ActKillProcess, field, "its kernel ends threads, not processes; SCMP_ACT_KILL_THREAD, SCMP_ACT_TRAP and SCMP_ACT_ERRNO are possible")
}

// streams refuses standard streams that the sandbox's kernel has no files for; and what leads to more of the host, for who takes
// over that kernel: from a directory the way goes up to all of its files.
func (k *checker) streams(stdio [3]*os.File) {
	for i, f := range stdio {
		if f == nil {
			continue
		}
		var st unix.Stat_t
		err := unix.Fstat(int(f.Fd()), &st)
		k.take(os.NewSyscallError("fstat", err))
		name := fmt.Sprintf("standard stream %d", i)
		k.place(name, int(f.Fd()))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			k.refuse(true, name, "a directory of the host")
		case unix.S_IFBLK:
			k.refuse(true, name, "a block device of the host")
		case unix.S_IFSOCK:
			k.socket(name, int(f.Fd()))
		}
	}
}

// extra refuses descriptors that the sandbox's kernel can't make files of, or that lead to more of the host than they are.
func (k *checker) extra(files []*os.File) {
	const most = wire.MaxFiles - 3 // beside the standard streams
	k.refuse(len(files) > most, "", fmt.Sprintf("%d descriptors beside the standard streams; at most %d", len(files), most))
	for i, f := range files {
		name := fmt.Sprintf("descriptor %d", 3+i)
		fd := int(f.Fd())
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		k.take(os.NewSyscallError("fstat", err))
		k.place(name, fd)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFIFO:
			k.take(checkFileSystem(f))
		case unix.S_IFSOCK:
			k.socket(name, fd)
		default:
			k.refuse(true, name, "neither a regular file, a pipe nor a socket")
		}
	}
}

// place refuses what is open for nothing but to be found.
func (k *checker) place(name string, fd int) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	k.take(os.NewSyscallError("fcntl F_GETFL", err))
	k.refuse(flags&unix.O_PATH != 0, name, "a place in the host's files that isn't open (O_PATH)")
}

// socket refuses what leads to more of the host than to one other end: who takes over the sandbox's kernel has accept4(2), and
// sendmsg(2) with an address.
func (k *checker) socket(name string, fd int) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	k.take(os.NewSyscallError("getsockopt SO_DOMAIN", err))
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	k.take(os.NewSyscallError("getsockopt SO_ACCEPTCONN", err))
	switch {
	case family != unix.AF_UNIX:
		k.refuse(true, name, "a socket of another family than AF_UNIX")
	case listens != 0:
		k.refuse(true, name, "a socket that listens: its kernel can't take the host's connections")
	case !connected(fd):
		k.refuse(true, name, "a socket of datagrams, or one that isn't connected: it could be sent to any of the host's")
	}
}

// connected tells whether a socket leads to its other end and nowhere else: a datagram has an address, whatever it is connected with.
func connected(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind == unix.SOCK_DGRAM {
		return false
	}
	_, err = unix.Getpeername(fd)
	return err == nil
}

// isFUSE tells whether a device is /dev/fuse.
func isFUSE(d specs.LinuxDevice) bool {
	return (d.Type == "c" || d.Type == "u") && d.Major == 10 && d.Minor == 229
}

// known tells whether the sandbox's kernel has that device.
func known(d specs.LinuxDevice) bool {
	if d.Type != "c" && d.Type != "u" {
		return false
	}
	switch d.Major {
	case 1: // memory
		return slices.Contains([]int64{3, 5, 7, 8, 9}, d.Minor)
	case 5: // terminals
		return d.Minor == 0 || d.Minor == 2 && d.Path == "/dev/ptmx"
	}
	return false
}
