package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/cgroup"
	"hull/internal/containerd"
	"hull/internal/fault"
	"hull/internal/shim/pause"
	"hull/internal/ttrpc"
)

// pod is what the containers of a shim share, if containerd has the shim make it (sandboxer = "shim"): namespaces, held by a
// process that waits, or a kernel of their own, whose first container that process is; and files.
//
// All files are on a small tmpfs at the bundle's root file system, which containerd unmounts should the shim be killed:
//
//	/pause                              the process's program
//	/etc/hostname, hosts, resolv.conf   bound in the containers
//	/shm                                a tmpfs of its own, their /dev/shm
type pod struct {
	service *service
	id      string
	kept    *kept
	made    time.Time
	group   cgroup.Config // of the process
	below   bool          // the cgroup is below one of the pod's
	spec    *specs.Spec

	container *hull.Container
	ended     chan struct{}   // closed when the process has ended
	exit      containerd.Exit // Pid from the creation on, the rest when it has ended

	mu      sync.Mutex
	started bool
}

// podSize bounds a pod's tmpfs, and shmSize its shared memory, which is containerd's figure.
const (
	podSize = 1 << 20
	shmSize = 64 << 20
)

// stopPatience is how long the end of a pod whose processes were killed is waited for, unless containerd says how long.
const stopPatience = 10 * time.Second

// createPod makes a pod whose process waits for its start.
func (s *service) createPod(ctx context.Context, r *containerd.CreateSandboxRequest) (_ *pod, err error) {
	if len(r.Rootfs) > 0 {
		return nil, &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "rootfs: a pod's process has none of an image"}
	}
	options, err := readPodOptions(r.Bundle)
	if err != nil {
		return nil, err
	}
	o, err := s.options(options)
	if err != nil {
		return nil, err
	}
	config, spec, err := s.podConfig(r)
	if err != nil {
		return nil, err
	}
	owner, joined := (*os.File)(nil), -1
	if user := config.Security.User; user != nil && r.NetNS != "" {
		if owner, joined, err = joinOwner(spec, r.NetNS); err != nil {
			return nil, err
		}
		defer owner.Close() // or it is nil
	}
	if o.runtime.Isolation == hull.Sandbox {
		spec.Linux.Resources.CPU = nil // the kernel of all of them, which doesn't only wait
	}
	p := &pod{service: s, id: r.ID, made: time.Now(), spec: spec, ended: make(chan struct{}), kept: &kept{Root: o.runtime.Root, Bundle: r.Bundle},
		group: cgroup.Config{Path: spec.Linux.CgroupsPath, ID: r.ID, Systemd: o.runtime.SystemdCgroup}, below: spec.Linux.CgroupsPath != ""}
	if err := p.kept.save(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unmountRootfs(r.Bundle))
		}
	}()
	if err := p.makeFiles(config); err != nil {
		return nil, err
	}
	p.container, err = o.runtime.Create(ctx, r.ID, hull.CreateOptions{Bundle: r.Bundle, Spec: spec, NoPivot: o.noPivot, NoNewKeyring: o.noNewKeyring})
	if err != nil {
		return nil, ociError("create", err)
	}
	p.exit.Pid = p.container.Init().Pid
	if joined >= 0 {
		p.spec.Linux.Namespaces[joined].Path = fmt.Sprintf("/proc/%d/ns/user", p.exit.Pid) // as it is told from now on
	}
	go p.watch()
	return p, nil
}

// podConfig returns what a pod is to be, of CRI or of the specification that another client has written to the bundle.
func (s *service) podConfig(r *containerd.CreateSandboxRequest) (*containerd.PodConfig, *specs.Spec, error) {
	config := new(containerd.PodConfig)
	var given *specs.Spec
	switch name := typeName(&r.Options); name {
	case containerd.PodOptions:
		if err := containerd.Unmarshal(r.Options.Value, config); err != nil {
			return nil, nil, &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "options: " + err.Error()}
		}
	case "":
		raw, err := os.ReadFile(filepath.Join(r.Bundle, "config.json"))
		if err == nil {
			err = json.Unmarshal(raw, &given)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "config.json: " + err.Error()}
		}
	default:
		return nil, nil, &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "options of type " + name + ": want " + containerd.PodOptions}
	}
	spec, err := podSpec(r.ID, config, r.NetNS)
	if err != nil {
		return nil, nil, &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: err.Error()}
	}
	if given != nil {
		adopt(spec, given)
	}
	for k, v := range r.Annotations {
		if _, own := spec.Annotations[k]; !own {
			spec.Annotations[k] = v
		}
	}
	if config.Security.SELinux {
		s.log.warn("pod " + r.ID + ": SELinux options are for its containers; the process that holds its namespaces has no label of its own")
	}
	return config, spec, nil
}

// adopt takes over what a specification says of a pod; its program and file systems are none of a pod's.
func adopt(s, given *specs.Spec) {
	s.Hostname, s.Domainname = given.Hostname, given.Domainname
	for k, v := range given.Annotations {
		if _, own := s.Annotations[k]; !own {
			s.Annotations[k] = v
		}
	}
	if l := given.Linux; l != nil {
		s.Linux.Namespaces, s.Linux.UIDMappings, s.Linux.GIDMappings = l.Namespaces, l.UIDMappings, l.GIDMappings
		s.Linux.CgroupsPath, s.Linux.Sysctl = l.CgroupsPath, l.Sysctl
		if l.Resources != nil {
			s.Linux.Resources = l.Resources
		}
	}
}

// joinOwner has a pod's process join the user namespace that owns its network: containerd makes a pod's network in one. It
// returns what has to stay open until then, and which of the namespaces it is; or nil and -1.
func joinOwner(s *specs.Spec, netns string) (*os.File, int, error) {
	for i, n := range s.Linux.Namespaces {
		if n.Type != specs.UserNamespace || n.Path != "" {
			continue
		}
		f, err := os.Open(netns)
		if err != nil {
			return nil, -1, err
		}
		defer f.Close()
		fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
		if err != nil {
			return nil, -1, &os.PathError{Op: "ioctl NS_GET_USERNS", Path: netns, Err: err}
		}
		owner := os.NewFile(uintptr(fd), "user namespace of "+netns)
		s.Linux.Namespaces[i].Path = descriptorPath(owner)
		return owner, i, nil
	}
	return nil, -1, nil
}

// root is where the pod's files are.
func (p *pod) root() string { return filepath.Join(p.kept.Bundle, rootfsDir) }

// makeFiles mounts the pod's tmpfs and writes what is on it.
func (p *pod) makeFiles(c *containerd.PodConfig) error {
	root := p.root()
	if err := os.Mkdir(root, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := mountTmpfs(root, flags, fmt.Sprintf("mode=0755,size=%d", podSize)); err != nil {
		return err
	}
	for _, dir := range []string{etcDir, shmDir, "dev", "proc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := mountTmpfs(filepath.Join(root, shmDir), flags|unix.MS_NOEXEC, fmt.Sprintf("mode=1777,size=%d", shmSize)); err != nil {
		return err
	}
	hostname := c.Hostname
	if hostname == "" {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return err
		}
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var resolv []byte
	if c.DNS != nil {
		resolv = []byte(resolvConf(c.DNS))
	} else if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	uid, gid := 0, 0
	if u := c.Security.User; u != nil && u.Mode == containerd.PodNamespace {
		uid, gid = max(hostID(u.UIDs, 0), 0), max(hostID(u.GIDs, 0), 0)
	}
	if gid != 0 {
		// The pod's root has to reach its root file system. containerd does so where it knows of the mapping.
		if err := os.Chown(p.kept.Bundle, -1, gid); err != nil {
			return err
		}
		if err := os.Chmod(p.kept.Bundle, 0o710); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name    string
		mode    os.FileMode
		content []byte
	}{
		{pause.File, 0o555, pause.Program()},
		{podFiles[0], 0o644, []byte(hostname + "\n")},
		{podFiles[1], 0o644, hosts},
		{podFiles[2], 0o644, resolv},
	} {
		path := filepath.Join(root, f.name)
		if err := os.WriteFile(path, f.content, f.mode); err != nil {
			return err
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

func mountTmpfs(path string, flags uintptr, options string) error {
	if err := unix.Mount("tmpfs", path, "tmpfs", flags, options); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: path, Err: err}
	}
	return nil
}

// watch waits for the end of the pod's process.
func (p *pod) watch() {
	ws, err := p.container.Init().Wait()
	if err != nil {
		p.service.log.error(fmt.Errorf("pod %s: %w", p.id, err))
	}
	p.exit.At, p.exit.Status = time.Now(), exitStatus(ws, err)
	p.kept.Exit = &p.exit
	if err := p.kept.save(); err != nil && !errors.Is(err, os.ErrNotExist) { // the bundle may be gone by now
		p.service.log.error(err)
	}
	close(p.ended)
}

// start has the pod's process begin to wait.
func (p *pod) start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started {
		return failed("the pod has been started")
	}
	if err := p.container.Start(ctx); err != nil {
		return ociError("start", err)
	}
	p.started = true
	p.service.forwardLoopback(p.container, p.ended)
	return nil
}

// ready tells whether containers can be made in the pod.
func (p *pod) ready() bool {
	select {
	case <-p.ended:
		return false
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started
}

// stop kills what runs in the pod, and then its process, and waits for their end.
func (p *pod) stop(patience time.Duration) error {
	if patience == 0 {
		patience = stopPatience
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	wait := func(who string, ended chan struct{}) error {
		select {
		case <-ended:
			return nil
		case <-timer.C:
			return &ttrpc.Error{Code: ttrpc.DeadlineExceeded, Message: who + " was killed, and hasn't ended"}
		}
	}
	tasks := slices.DeleteFunc(p.service.all(), func(t *task) bool { return t.wantMade() != nil })
	for _, t := range tasks {
		if err := t.kill(t.init, unix.SIGKILL, true); err != nil && ttrpc.CodeOf(err) != ttrpc.NotFound {
			p.service.log.error(fmt.Errorf("%s: %w", t.id, err))
		}
	}
	for _, t := range tasks {
		if err := wait("container "+t.id, t.init.ended); err != nil {
			return err
		}
	}
	if err := p.container.Signal(unix.SIGKILL, false); err != nil && !errors.Is(err, hull.ErrBadState) && !errors.Is(err, unix.ESRCH) && !isDone(err) {
		return ociError("kill", err)
	}
	return wait("the pod's process", p.ended)
}

// remove takes the pod away.
func (p *pod) remove(ctx context.Context) error {
	if err := p.container.Delete(ctx, hull.DeleteOptions{Force: true}); err != nil && !errors.Is(err, hull.ErrNotExist) {
		return ociError("delete", err)
	}
	<-p.ended
	return unmountRootfs(p.kept.Bundle)
}

// stats are those of the cgroup of the whole pod, if it has one, or of its process.
func (p *pod) stats() (*cgroup.Stats, error) {
	if !p.below {
		return p.container.Stats()
	}
	g, err := cgroup.Above(p.group)
	if err != nil {
		return nil, err
	}
	return g.Stats()
}

// info is what containerd shows of a pod on demand.
func (p *pod) info() (map[string]string, error) {
	status := "running"
	if !p.ready() {
		status = "stopped"
	}
	raw, err := json.Marshal(map[string]any{"pid": p.exit.Pid, "processStatus": status, "runtimeType": name, "runtimeSpec": p.spec})
	return map[string]string{"info": string(raw)}, err
}

// wantPod returns the pod of that id.
func (s *service) wantPod(id string) (*pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod != nil && s.pod.id == id {
		return s.pod, nil
	}
	return nil, &ttrpc.Error{Code: ttrpc.NotFound, Message: "sandbox " + id + ": not found"}
}

// inPod returns the configuration of a container that is to be made in the pod, if there is one: with what the pod's containers share.
func (s *service) inPod(bundle string) (*specs.Spec, error) {
	s.mu.Lock()
	p := s.pod
	s.mu.Unlock()
	if p == nil {
		return nil, nil
	}
	raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fault.In("create", "", fmt.Errorf("config.json: %w", err))
	}
	if spec.Annotations[podAnnotation] != p.id {
		return nil, nil
	}
	if !p.ready() {
		return nil, failed("pod " + p.id + " doesn't run")
	}
	shareFiles(&spec, p.root())
	return &spec, nil
}
