package native

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

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
		UserNS:   engine.HasNamespace(r.Spec, specs.UserNamespace),
		Rootless: os.Geteuid() != 0,
		NoPivot:  r.NoPivot,
		Terminal: r.Spec.Process.Terminal,
		Cgroups:  cgroups,
		Kernel:   rootfs.Probe(),
		HostNS:   !engine.HasNamespace(r.Spec, specs.MountNamespace),
		Overlay:  r.Overlay,
		Donated:  r.Donated,
		NoDev:    r.NoDev,
		NoLabels: r.Spec.Linux.MountLabel != "" && !SELinuxEnabled(),
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

// noNull is the access mode of a standard stream that isn't the null device.
const noNull = -1

// nullStreams returns the access modes of those standard streams that are the null device.
func nullStreams(stdio [3]*os.File) (mode [3]int) {
	for i, f := range stdio {
		mode[i] = noNull
		if f == nil {
			mode[i] = unix.O_RDWR // see stub.Config
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
			continue
		}
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err == nil {
			mode[i] = flags & unix.O_ACCMODE
		}
	}
	return mode
}

// reopenNull emits standard streams that are the container's null device, instead of the host's: by that one a process could
// change the host's node (fchmod(2)), and CRIU saves nothing that is in no mount of the container's. Where the container has
// no such device they stay as they are. It may be anything else, of which opening it must not wait.
func (t *process) reopenNull(b *stub.Batch) {
	if t.terminal {
		return
	}
	b.In("")
	end := b.Label()
	for _, mode := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
		if !slices.Contains(t.null[:], mode) {
			continue
		}
		null := b.Openat(stub.CWD, "/dev/null", mode|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		b.OnErr(null.Result(), 0, end)
		st := b.Statx(null)
		for _, want := range [][3]uint64{{stub.StatxMode, unix.S_IFMT, unix.S_IFCHR}, {stub.StatxRdevMajor, 1<<32 - 1, 1}, {stub.StatxRdevMinor, 1<<32 - 1, 3}} {
			b.OnErr(b.Assert(b.Load(st, int(want[0])).Arg(), want[1], want[2], unix.ENODEV, "the null device"), 0, end)
		}
		b.Call(unix.SYS_FCNTL, null.Arg(), stub.Int(unix.F_SETFL), stub.Int(0)) // O_NONBLOCK was for the opening
		for fd := range t.null {
			if t.null[fd] == mode {
				b.Dup3(null, fd, 0)
			}
		}
		b.Close(null)
	}
	b.Mark(end)
}

// explainNamespaces adds a hint to a failure to make or join namespaces.
func explainNamespaces(err error, userNS bool) error {
	var e *fault.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case userNS && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC)), errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
		e.Hint = userNamespaceHint("/", userNS)
	case errors.Is(err, unix.EINVAL) && strings.HasPrefix(e.Step, "setns "):
		e.Hint = "the file is no namespace of that type"
	case errors.Is(err, unix.ENOSPC):
		e.Hint = "a limit below /proc/sys/user is reached (namespaces(7))"
	case errors.Is(err, unix.EINVAL) && userNS && !exists("/proc/self/ns/user"):
		e.Hint = "this kernel has no user namespaces"
	}
	return err
}

func exists(file string) bool { return unix.Access(file, unix.F_OK) == nil }

// appArmorSysctl has AppArmor take away, where it is 1, the capabilities that an ordinary user has in a new user namespace:
// that can be made, but nothing be done in it.
const appArmorSysctl = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"

// userNamespaceHint says which setting of the host below root keeps ordinary users from making user namespaces.
func userNamespaceHint(root string, userNS bool) string {
	if s := UserNamespaceSetting(root); s != "" {
		return "user namespaces are restricted here: " + s
	}
	if userNS {
		return "something here forbids user namespaces to other users than root: a seccomp profile or security module, or a limit (namespaces(7))"
	}
	return "a container needs root, or a user namespace in linux.namespaces (hull spec --rootless)"
}

// UserNamespaceSetting says which setting of the host below root keeps ordinary users from making user namespaces, such as
// "/proc/sys/user/max_user_namespaces is 0"; "" if none of those that hull knows does.
func UserNamespaceSetting(root string) string {
	for _, s := range []struct{ file, bad string }{
		{appArmorSysctl, "1"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0"},
		{"/proc/sys/user/max_user_namespaces", "0"},
	} {
		if isSet(root+s.file, s.bad) {
			return s.file + " is " + s.bad
		}
	}
	return ""
}

func isSet(file, value string) bool {
	b, err := os.ReadFile(file)
	return err == nil && strings.TrimSuffix(string(b), "\n") == value
}

// explainAppArmor adds a hint to what AppArmor may have refused in a user namespace.
func explainAppArmor(err error, root string) error {
	var e *fault.Error
	if os.Geteuid() == 0 || !errors.As(err, &e) || fault.Hint(err) != "" || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) || !isSet(root+appArmorSysctl, "1") {
		return err
	}
	explained := *e
	explained.Hint = fmt.Sprintf("AppArmor restricts user namespaces here: %s is 1; a profile that allows userns for hull lifts that", appArmorSysctl)
	return &explained
}

// cgroupMounts returns what a mount of type cgroup shows.
func cgroupMounts(r *engine.CreateRequest) (rootfs.Cgroups, error) {
	_, namespaced := engine.Namespace(r.Spec, specs.CgroupNamespace)
	c := rootfs.Cgroups{V2: r.Cgroup.Mode() == cgroup.V2, NewNamespace: namespaced, Unified: r.Cgroup.Path(""),
		Missing: r.Rootless || os.Geteuid() != 0}
	if !slices.ContainsFunc(r.Spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "cgroup2" }) {
		return c, nil
	}
	hs, err := r.Cgroup.Hierarchies()
	for _, h := range hs {
		c.Hierarchies = append(c.Hierarchies, rootfs.Hierarchy{Name: h.Name, Options: h.Options, Dir: h.Dir})
	}
	return c, err
}
