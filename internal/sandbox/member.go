package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/native"
	"hull/internal/proc"
	"hull/internal/sandbox/wire"
	"hull/internal/stub"
)

// Annotations by which engines say which container of a pod comes first, and which join it.
var podAnnotations = []struct {
	kind, id string
	idAlone  bool // an id without a kind is that of a container which joins
}{
	{"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id", false},  // containerd
	{"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID", true}, // CRI-O, and Podman, which since 5 writes no kind
}

// PodID returns the id of the container whose sandbox one with such annotations joins, or "" for one that joins none; and the field
// that says so.
func PodID(annotations map[string]string) (id, field string, err error) {
	for _, a := range podAnnotations {
		kind := annotations[a.kind]
		if kind == "" && a.idAlone && annotations[a.id] != "" {
			kind = "container"
		}
		switch kind {
		case "":
			continue
		case "sandbox":
			return "", "", nil
		case "container":
			if id := annotations[a.id]; id != "" {
				return id, "annotations." + a.id, nil
			}
			return "", "", fault.Spec("annotations."+a.id, "missing: it names the first container of the pod that this one joins")
		default:
			return "", "", fault.Spec("annotations."+a.kind, fmt.Sprintf("%q is neither sandbox nor container", kind))
		}
	}
	return "", "", nil
}

// firstOfPod tells whether the containers of a pod will join the one with such annotations.
func firstOfPod(annotations map[string]string) bool {
	for _, a := range podAnnotations {
		if annotations[a.kind] == "sandbox" {
			return true
		}
	}
	return false
}

// joined returns the namespaces that the process which is the sandbox joins on the host: the network, whose devices its kernel
// serves; and of the first container of a pod, for which CRI-O has made them, the ipc and uts namespaces that are the pod's.
// Nothing else is in these natively: who joins the pod by their paths comes into the same kernel, whose own they stand for.
func joined(s *specs.Spec) func(specs.LinuxNamespace) bool {
	first := firstOfPod(s.Annotations)
	return func(ns specs.LinuxNamespace) bool {
		switch ns.Type {
		case specs.NetworkNamespace:
			return true
		case specs.IPCNamespace, specs.UTSNamespace:
			return first && ns.Path != ""
		}
		return false
	}
}

// checkJoined refuses namespaces by path that are hull's own or the host's: nothing of the host is in the one that stands for
// them inside, and a kernel that was taken over would be among the host's programs. What is looked at is what the process pid has
// joined, in which nothing but a stub of hull's runs yet: a path may lead elsewhere each time that it is followed.
func (c *creation) checkJoined(pid int) error {
	joins := joined(c.Spec)
	for i, ns := range c.Spec.Linux.Namespaces {
		if ns.Path == "" || ns.Type == specs.NetworkNamespace || !joins(ns) {
			continue // the network's is looked at when it is taken over
		}
		field, name := fmt.Sprintf("linux.namespaces[%d].path", i), string(ns.Type) // ipc or uts, as the file
		its, err := os.Stat(proc.File(pid, "ns/"+name))
		if err != nil {
			return &fault.Error{Field: field, Err: err}
		}
		if isOwn(its, name) {
			return &fault.Error{Field: field, Kind: fault.Unsupported,
				Err: fmt.Errorf("not possible in sandbox isolation: the host's %s namespace, with which its kernel shares nothing", name)}
		}
	}
	return nil
}

// join makes a container in the sandbox of another. On the host a stub stands for its first process, in its cgroup; the sandbox
// ends the container when that is gone.
func (c *creation) join(ctx context.Context) (_ *engine.Process, err error) {
	pids, err := c.podNamespaces()
	if err != nil {
		return nil, err
	}
	conn, err := dial(&c.Container)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	streams, extra := c.Stdio[:], []*os.File{conn}
	var master *os.File
	if c.Spec.Process.Terminal {
		var slave *os.File
		if master, slave, err = openTerminal(c.Spec.Process.ConsoleSize); err != nil {
			return nil, err
		}
		defer slave.Close()
		defer func() { master.Close() }() // nothing, if it was given away
		streams, extra = []*os.File{slave}, append(extra, slave)
	}
	if c.Park {
		if c.fifo, err = native.MakeFifo(c.Dir); err != nil {
			return nil, err
		}
		defer c.fifo.Close()
		extra = append(extra, c.fifo)
	}
	s, p, err := c.standIn(ctx, master, extra)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Kill()
		}
	}()
	if err := c.moveIn(ctx, p, conn, pids, streams); err != nil {
		return nil, err
	}
	master = nil // whatever comes of it
	if err := c.Prepared(p); err != nil {
		return nil, err
	}
	if c.Park {
		fifo := stub.Fd(stub.FirstExtra + len(extra) - 1)
		c.lastWord("container")
		return p, stand(s, &fifo, c.Cgroup.MemoryLimit())
	}
	if err := c.startMember(p, conn); err != nil {
		return nil, err
	}
	return p, stand(s, nil, c.Cgroup.MemoryLimit())
}

// standIn starts the stub that stands for a container's first process, with its terminal if it has one.
func (c *creation) standIn(ctx context.Context, master *os.File, extra []*os.File) (*stub.Stub, *engine.Process, error) {
	s, err := native.StandIn(ctx, c.CreateRequest, extra...)
	if err != nil {
		return nil, nil, err
	}
	if c.Spec.Process.Terminal {
		err = takeTerminal(s)
	}
	p := &engine.Process{Init: engine.Init{Pid: s.Pid}, PidFD: s.PidFD, Console: master}
	if err == nil {
		p.StartTime, err = proc.StartTime(p.Pid)
	}
	if err != nil {
		s.Kill()
		return nil, nil, err
	}
	return s, p, nil
}

// moveIn has the sandbox make the container, once its hooks have run.
func (c *creation) moveIn(ctx context.Context, p *engine.Process, conn *os.File, pids string, streams []*os.File) error {
	// Before the container's files are looked at, which nobody is taken to change then.
	if hooks := c.hooks(ctx); hooks != nil {
		if err := hooks(p.Pid); err != nil {
			return err
		}
	}
	if err := c.requestMember(conn, pids, streams); err != nil {
		return err
	}
	if err := c.shareScore(); err != nil {
		c.Warn(err.Error())
	}
	return context.Cause(ctx)
}

// startMember lets the program of a container run that the sandbox has made.
func (c *creation) startMember(p *engine.Process, conn *os.File) error {
	if c.BeforeStart != nil {
		if err := c.BeforeStart(p); err != nil {
			return err
		}
	}
	if err := wire.SendBytes(int(conn.Fd()), wire.Go); err != nil {
		return noAnswer(err)
	}
	_, _, err := wire.ReceiveBytes(int(conn.Fd()), wire.SignalSize, 0)
	return noAnswer(err)
}

// requestMember has the sandbox make the container.
func (c *creation) requestMember(conn *os.File, pids string, streams []*os.File) error {
	c.overlaid = c.Pod.Overlaid
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, step := range []func() error{c.giveSpec, c.giveLog, c.giveFiles} {
		if err := step(); err != nil {
			return err
		}
	}
	limits, rest := cgroup.Inside(c.Spec.Linux.Resources)
	if warning := NotHeld(rest); warning != "" {
		c.Warn(warning)
	}
	request := wire.Request{Op: wire.Create, Container: c.ID, Member: &wire.Member{Bundle: c.Bundle, PIDs: pids, Below: c.below, Limits: limits}}
	var fds []int
	for i, f := range c.files {
		if i == wire.MemberFiles {
			fds = append(fds, streamFDs(&request, null, streams)...)
		}
		fds = append(fds, int(f.Fd()))
	}
	if len(fds) > wire.MaxFiles {
		return &fault.Error{Field: "mounts", Kind: fault.Unsupported,
			Err: fmt.Errorf("not possible in a sandbox with others: %d files of the host, with what is mounted below them; at most %d", len(c.below), wire.MaxFiles-len(fds)+len(c.below))}
	}
	_, err = ask(conn, request, fds...)
	return err
}

// NotHeld returns what to say of limits of a container that has joined others which its kernel doesn't hold, or "".
func NotHeld(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return strings.Join(fields, ", ") + ": not held by a sandbox's kernel for one container of several; what limits the first container, or the cgroup above it, holds for all of them"
}

// podNamespaces checks that the namespaces which a container of a pod shares with it are the pod's, and returns the container
// whose pid namespace it has, or "" for one of its own.
func (c *creation) podNamespaces() (pids string, err error) {
	pids = c.Pod.ID // without one in the configuration
	for i, ns := range c.Spec.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d].path", i)
		if ns.Path == "" {
			if ns.Type == specs.PIDNamespace {
				pids = ""
			}
			continue
		}
		if ns.Type == specs.PIDNamespace {
			if pids = c.pidsOf(ns.Path); pids != "" {
				continue
			}
		} else if c.isPods(ns) {
			continue
		}
		return "", &fault.Error{Field: field, Kind: fault.Unsupported,
			Err: fmt.Errorf("not possible in sandbox isolation: %s is not that of the pod, whose first process is %d", ns.Path, c.Pod.Init.Pid)}
	}
	return pids, errors.Join(c.podNames(), c.podIDs())
}

// podNames checks that a container which shares the pod's uts namespace is not to have other names: engines repeat the pod's.
func (c *creation) podNames() error {
	if ns, ok := engine.Namespace(c.Spec, specs.UTSNamespace); ok && ns.Path == "" {
		return nil
	}
	var host unix.Utsname // of the pod's, what its configuration doesn't say
	if err := unix.Uname(&host); err != nil {
		return os.NewSyscallError("uname", err)
	}
	domain := func(s *specs.Spec) string { return cmp.Or(s.Domainname, s.Linux.Sysctl[wire.Domainname]) }
	for _, n := range []struct {
		field, want, pods string
		hosts             []byte
	}{
		{"hostname", c.Spec.Hostname, c.Pod.Spec.Hostname, host.Nodename[:]},
		{"domainname", domain(c.Spec), domain(c.Pod.Spec), host.Domainname[:]},
	} {
		if pods := cmp.Or(n.pods, unix.ByteSliceToString(n.hosts)); n.want != "" && n.want != pods {
			return &fault.Error{Field: n.field, Kind: fault.Unsupported,
				Err: fmt.Errorf("not possible in sandbox isolation: %q, in the uts namespace of the pod, where it is %q", n.want, pods)}
		}
	}
	return nil
}

// podIDs checks that the ids of files are mapped as for the pod: its sandbox is in one user namespace.
func (c *creation) podIDs() error {
	mapped := func(s *specs.Spec) string {
		return fmt.Sprint(s.Linux.UIDMappings, s.Linux.GIDMappings)
	}
	for i, ns := range c.Spec.Linux.Namespaces {
		if ns.Type == specs.UserNamespace && ns.Path != "" && len(c.Spec.Linux.UIDMappings)+len(c.Spec.Linux.GIDMappings) == 0 {
			return nil // it is the pod's
		}
		if ns.Type == specs.UserNamespace && mapped(c.Spec) == mapped(c.Pod.Spec) {
			return nil
		}
		if ns.Type == specs.UserNamespace {
			return &fault.Error{Field: fmt.Sprintf("linux.namespaces[%d]", i), Kind: fault.Unsupported,
				Err: errors.New("not possible in sandbox isolation: ids that are mapped otherwise than the pod's")}
		}
	}
	if engine.HasNamespace(c.Pod.Spec, specs.UserNamespace) {
		return &fault.Error{Field: "linux.namespaces", Kind: fault.Unsupported,
			Err: errors.New("not possible in sandbox isolation: without the user namespace that the pod has")}
	}
	return nil
}

// isPods tells whether a namespace is the one that the pod's first process is in.
func (c *creation) isPods(ns specs.LinuxNamespace) bool {
	names := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
		specs.UserNamespace: "user", specs.PIDNamespace: "pid"}
	name, ok := names[ns.Type]
	if !ok {
		return false
	}
	theirs, err := os.Stat(ns.Path)
	if err != nil {
		return false
	}
	pods, err := os.Stat(filepath.Join("/proc", strconv.Itoa(c.Pod.Init.Pid), "ns", name))
	return err == nil && os.SameFile(theirs, pods)
}

// pidsOf returns the container of the pod that has the pid namespace of that path, or "". That of the process which stands for
// another container means the one inside.
func (c *creation) pidsOf(path string) string {
	if pid, ok := strings.CutPrefix(filepath.Clean(path), "/proc/"); ok {
		if pid, ok = strings.CutSuffix(pid, "/ns/pid"); ok {
			if n, err := strconv.Atoi(pid); err == nil && n != c.Pod.Init.Pid {
				if id := c.Pod.Member(n); id != "" {
					return id
				}
			}
		}
	}
	if c.isPods(specs.LinuxNamespace{Type: specs.PIDNamespace, Path: path}) {
		return c.Pod.ID
	}
	return ""
}

// discard waits until nothing of a container is left in the sandbox that it is in, as far as that answers: what has ended, or is
// frozen with its cgroup, has ended the container or will.
func discard(c *engine.Container) error {
	_, err := request(c, wire.Request{Op: wire.Remove})
	if errors.Is(err, fault.BadState) || errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}
