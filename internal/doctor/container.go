package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/native"
	"hull/internal/overlay"
	"hull/spec"
)

// native makes a container up to the moment before its program would run: with all namespaces, its files in a tmpfs, /proc, /dev and
// /sys, a filter of system calls. It has no cgroup.
func (e *examination) native() Finding {
	const name = "containers"
	s := spec.Example(spec.Options{Args: []string{"/none"}, Rootless: !e.root, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
	s.Process.Terminal = false
	s.Linux.Seccomp = spec.Seccomp()
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	plan := &overlay.Plan{Size: "4k", UserNS: !e.root, Root: "/"}
	for _, dir := range []string{"/", "/proc", "/dev", "/sys"} {
		plan.Entries = append(plan.Entries, overlay.Entry{Kind: overlay.Dir, Path: dir, Mode: 0o755})
	}
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	made := errors.New("made")
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return failed(name, "/proc", err)
	}
	defer program.Close()
	_, err = native.Engine{}.Create(ctx, &engine.CreateRequest{
		Container: engine.Container{ID: "doctor", Bundle: "/", Spec: s, Cgroup: cgroup.None(), Rootless: !e.root},
		IO:        engine.IO{Extra: []*os.File{program}},
		Program:   1,
		Overlay:   plan,
		Prepared:  func(*engine.Process) error { return made },
		Trace:     e.trace,
		Warn:      func(string) {},
	})
	if !errors.Is(err, made) {
		f := failed(name, "native containers don't work", err)
		if f.Cure == "" && e.root && errors.Is(err, unix.EPERM) && !isAdmin() {
			f.Cure = "this root lacks the capability CAP_SYS_ADMIN, as in most containers: it needs that, or to be an ordinary user who can make user namespaces"
		}
		return f
	}
	if !e.root {
		return Finding{Name: name, State: OK, Text: "native containers work, in a user namespace of the caller's"}
	}
	return Finding{Name: name, State: OK, Text: "native containers work"}
}

// isAdmin tells whether this process has CAP_SYS_ADMIN.
func isAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// do runs a command over the host's files.
func (e *examination) do() Finding {
	const name = "do"
	var warned []string
	if err := e.command(hull.Native, hull.SandboxOptions{}, hull.NetworkNone, func(line string) { warned = append(warned, line) }); err != nil {
		return failed(name, "hull do doesn't work", err)
	}
	if len(warned) > 0 {
		return Finding{Name: name, State: Limited, Text: "hull do works, and warns: " + strings.Join(warned, "; ")}
	}
	return Finding{Name: name, State: OK, Text: "hull do works"}
}

// sandbox runs a command in a sandbox.
func (e *examination) sandbox() Finding {
	const name = "sandbox"
	err := e.command(hull.Sandbox, hull.SandboxOptions{}, hull.NetworkNone, func(string) {})
	if err == nil && !e.root {
		return Finding{Name: name, State: Limited, Text: "hull do works with a kernel of its own; hull-sandbox is of this release; other containers need root for it"}
	}
	if err == nil {
		return Finding{Name: name, State: OK, Text: "containers with a kernel of their own work; hull-sandbox is of this release"}
	}
	f := failed(name, "containers with a kernel of their own don't work", err)
	if scope := readLine("/proc/sys/kernel/yama/ptrace_scope"); f.Cure == "" && scope == "3" {
		f.Cure = "the sandbox traces its own processes, which /proc/sys/kernel/yama/ptrace_scope forbids: it is 3, and stays so until the next boot"
	}
	if f.Cure == "" && strings.Contains(err.Error(), "is of release") {
		f.Cure = "install hull and hull-sandbox of the same release"
	}
	return f
}

// platforms tries the ways to run programs in sandboxes that somebody asks for. KVM is never tried unasked: where it hangs who uses it, a
// process stays behind.
func (e *examination) platforms() Finding {
	f := Finding{Name: "platforms", State: OK}
	if e.options.Platform != "kvm" {
		f.Text = "programs in a sandbox run by systrap; KVM was not tried, which hull --platform kvm doctor does"
		return f
	}
	o := hull.SandboxOptions{Platform: e.options.Platform, PlatformDevice: e.options.PlatformDevice}
	if err := e.command(hull.Sandbox, o, hull.NetworkNone, func(string) {}); err != nil {
		f.State, f.Text, f.Cure = Limited, "programs in a sandbox run by systrap alone: "+reason(err), fault.Hint(err)
		return f
	}
	f.Text = "programs in a sandbox run by systrap, and by the host's KVM with --platform kvm"
	return f
}

// nat runs a command with a network of its own.
func (e *examination) nat() Finding {
	const name = "network"
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	var warned []string
	cmd := hull.CommandContext(ctx, "true")
	cmd.Dir, cmd.Isolation, cmd.Network = "/", hull.Native, hull.NetworkNAT
	cmd.Runtime = &hull.Runtime{Warn: func(line string) { warned = append(warned, line) }, Trace: e.trace}
	err := cmd.Run()
	path := cmd.Result.NetworkPath
	if err != nil && path == "" {
		return failed(name, "--network nat doesn't work", err)
	}
	f := Finding{Name: name, State: OK, Text: "--network nat works, by a " + strings.ReplaceAll(path, ", ", ", by a ")}
	if len(warned) > 0 {
		f.State, f.Text = Limited, f.Text+"; it warns: "+strings.Join(warned, "; ")
	}
	if e.root && !strings.Contains(path, "veth") {
		if !haveNftables() {
			f.Text += "; a veth, which is faster, needs nftables, which this kernel has not or does not load"
		} else {
			f.Text += "; a veth, which is faster, needs a host that forwards, and whose firewall lets all pass"
		}
	}
	return f
}

// haveNftables tells whether the kernel answers to nftables.
func haveNftables() bool {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// NFT_MSG_GETGEN (include/uapi/linux/netfilter/nf_tables.h): a header of netlink, and one of nfnetlink.
	const subsystem, getGen, header = 10, 16, 20
	msg := make([]byte, header)
	msg[0], msg[4], msg[5], msg[6] = header, getGen, subsystem, unix.NLM_F_REQUEST
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false
	}
	timeout := unix.Timeval{Sec: 1}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	answer := make([]byte, 256)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	return err == nil && n > 16 && answer[4] != unix.NLMSG_ERROR
}

// overlay says what do shows the host's files by.
func (e *examination) overlay() Finding {
	const name = "overlayfs"
	if e.root {
		fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
		if errors.Is(err, unix.ENODEV) {
			return Finding{Name: name, State: Missing, Text: "this kernel has no overlayfs, by which hull do shows the host's files, or its module is not loaded", Cure: "modprobe overlay"}
		}
		if err != nil {
			return failed(name, "overlayfs can't be asked for", err)
		}
		unix.Close(fd)
		return Finding{Name: name, State: OK, Text: "there is an overlayfs"}
	}
	absent := native.NoOverlay(e.ctx, e.trace)
	if absent == nil {
		return Finding{Name: name, State: OK, Text: "there is an overlayfs for user namespaces"}
	}
	return Finding{Name: name, State: Limited, Text: absent.Error(), Cure: "a newer kernel; or fuse-overlayfs, and a /dev/fuse that users can open: hull do goes by it then"}
}

// cgroups makes a cgroup, for each controller that --memory, --cpus and --pids need, and for all together.
func (e *examination) cgroups() Finding {
	const name = "cgroups"
	memory, quota, period, pids := int64(1<<30), int64(100000), uint64(100000), int64(1000)
	var got, not []string
	var first error
	for _, c := range []struct {
		name string
		r    specs.LinuxResources
	}{
		{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}}},
		{"cpu", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}},
		{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}},
	} {
		err := e.cgroup(&c.r)
		if err == nil {
			got = append(got, c.name)
			continue
		}
		not = append(not, c.name)
		if first == nil {
			first = err
		}
	}
	mode := "cgroup " + cgroup.Detect().String()
	if first == nil {
		return Finding{Name: name, State: OK, Text: mode + ": limits of " + strings.Join(got, ", ") + " work"}
	}
	f := Finding{Name: name, State: Limited, Text: fmt.Sprintf("%s: no limits of %s: %v", mode, strings.Join(not, ", "), first), Cure: fault.Hint(first)}
	if len(got) > 0 {
		f.Text += "; of " + strings.Join(got, ", ") + " they work"
	}
	switch {
	case e.root:
	case userManager():
		f.Text += "; but there is a systemd manager of the user's, which hull do asks for a cgroup: it bounds what is delegated to it"
	case cgroup.Detect() == cgroup.V2:
		f.Cure = "for an ordinary user a cgroup has to be delegated: log in through systemd, whose user@.service has it (Delegate=cpu memory pids)"
	default:
		f.Cure = "an ordinary user has cgroups on a host with v2 alone (systemd.unified_cgroup_hierarchy=1 on the kernel's command line); hull do bounds what resource limits can"
	}
	return f
}

// cgroup makes a cgroup and takes it away.
func (e *examination) cgroup(r *specs.LinuxResources) error {
	g, err := cgroup.NewTransient(cgroup.Config{Resources: r, Rootless: !e.root})
	if err != nil {
		return err
	}
	if err = g.Create(); err == nil {
		err = g.Limit(e.ctx)
	}
	return errors.Join(err, g.Destroy(context.WithoutCancel(e.ctx)))
}

func userManager() bool {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	return dir != "" && unix.Access(dir+"/systemd/private", unix.W_OK) == nil
}
