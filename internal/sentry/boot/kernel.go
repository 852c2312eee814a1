package boot

import (
	"os"
	"runtime"
	"strconv"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/gomaxprocs"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/sighandling"
	"gvisor.dev/gvisor/pkg/tcpip"

	"hull/internal/sandbox/wire"
	"hull/internal/sentry/filter"
	"hull/internal/sentry/network"
	"hull/internal/sentry/platform"
	"hull/internal/sentry/rootfs"
)

// newKernel makes the application kernel, with nothing in it yet.
func (s *Sandbox) newKernel() error {
	cpus := runtime.NumCPU()
	// Go looks every second at how many processors it may use, by a call that the filter would end the process for,
	// unless somebody has said how many.
	gomaxprocs.SetBase(cpus)
	if err := rand.Init(); err != nil {
		return err
	}
	if err := platform.Check(s.KVM); err != nil {
		return err
	}
	ready := make(chan made, 1)
	threads := cpus
	if !s.parked { // where all that takes long is over when the first mount is made
		threads += spare
	}
	go newPlatform(cpus, threads, s.KVM, ready) // for which all else waits
	if !network.IsHost(s.Spec) {
		if err := network.SendCorkedAtEnd(); err != nil {
			return err
		}
	}
	if err := usage.Init(); err != nil {
		return err
	}
	s.budget = rootfs.NewBudget(rootfs.Descriptors()) // while the process may still ask
	s.root.kept = rootfs.Share{Of: s.budget, Pod: s.Pod}
	if err := unix.Sysinfo(&s.host); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	if s.restoring != nil {
		return s.newRestored(ready)
	}
	k := &kernel.Kernel{Platform: platform.Later()}
	k.AllowSUID = true
	k.SetSaver(noSaver{s})
	s.kernel = k
	if err := s.initKernel(cpus); err != nil {
		return err
	}
	// What needs no platform is done until that is ready.
	s.root.pids, s.root.ipc, s.root.uts = k.RootPIDNamespace(), k.RootIPCNamespace(), k.RootUTSNamespace()
	if err := s.root.enterGroup(s.tellMemory); err != nil {
		return err
	}
	var err error
	if !s.parked {
		if err := s.root.group.set(s.Limits); err != nil {
			return err
		}
		if s.root.mounts, err = s.root.prepareMounts(); err != nil {
			return err
		}
	}
	if s.filter, err = filter.Compile(s.confinement()); err != nil {
		return err
	}
	p := <-ready
	if p.error != nil {
		return p.error
	}
	k.Platform = p.Platform
	platform.Warm(p.Platform)
	return nil
}

// tellMemory has programs be told, by /proc/meminfo and sysinfo(2), that there is as much memory as the container may have, which is
// what its memory.max says, or else as the host has: they size heaps and caches by that. Of itself the kernel tells of 2 GiB and
// more as its file of memory grows, whatever there is.
//
// Programs may run meanwhile, and the kernel reads either number without a lock. Of each it finds the one before or the new one,
// and makes of any two of these a total that is none beyond the one before and the new one.
func (s *Sandbox) tellMemory(l limits) {
	total := s.host.Totalram * uint64(s.host.Unit)
	if limit, err := strconv.ParseUint(l.memory, 10, 64); err == nil && limit > 0 {
		total = min(total, limit)
	}
	atomic.StoreUint64(&usage.MaximumTotalMemoryBytes, total)
	atomic.StoreUint64(&usage.MinimumTotalMemoryBytes, total)
}

// confinement is what the filter over this process is for.
func (s *Sandbox) confinement() filter.Process {
	return filter.Process{Sockets: s.sockets(), Early: s.parked, KVM: s.KVM >= 0}
}

type made struct {
	platform.Platform
	error
}

// newPlatform makes the platform: KVM, if device is no -1. From then on as many threads run Go.
func newPlatform(cpus, threads, device int, ready chan<- made) {
	p, err := platform.New(cpus, device)
	gomaxprocs.SetBase(threads) // not before: systrap has as many threads run a program as there may run Go
	ready <- made{p, err}
}

// noSaver implements kernel.Saver, which programs reach through files in /proc/gvisor.
type noSaver struct{ *Sandbox }

func (noSaver) SaveAsync() error { return unix.ENOSYS }
func (noSaver) FSSave() error    { return unix.ENOSYS }

// SpecEnviron implements kernel.Saver. A container's name is its id.
func (s noSaver) SpecEnviron(name string) []string {
	if name == containerName {
		return s.Spec.Process.Env
	}
	c, err := s.container(name)
	if err != nil {
		return nil
	}
	return c.Spec.Process.Env
}

func (s *Sandbox) initKernel(cpus int) error {
	k := s.kernel
	if err := unix.Uname(&s.uname); err != nil {
		return os.NewSyscallError("uname", err)
	}
	memory, err := newMemory()
	if err != nil {
		return err
	}
	k.SetMemoryFile(memory)
	if s.OverlayFD >= 0 {
		s.written, err = pgalloc.NewMemoryFile(os.NewFile(uintptr(s.OverlayFD), "overlay"), pgalloc.MemoryFileOpts{
			DiskBackedFile: true, DecommitOnDestroy: true, DisableIMAWorkAround: true, DisableMemoryAccounting: true})
		if err != nil {
			return err
		}
	}
	vdso, err := loader.PrepareVDSO(memory)
	if err != nil {
		return err
	}
	clock := kernel.NewTimekeeper()
	params := kernel.NewVDSOParamPage(memory, vdso.ParamPage.FileRange())
	clock.SetClocks(time.NewCalibratedClocks(false), params)

	users := auth.NewRootUserNamespace()
	namespace, err := s.newNetwork(clock, users)
	if err != nil {
		return err
	}
	platform.LookAtCPU()
	err = k.Init(kernel.InitKernelArgs{
		FeatureSet:           cpuid.HostFeatureSet(),
		Timekeeper:           clock,
		RootUserNamespace:    users,
		RootNetworkNamespace: namespace,
		ApplicationCores:     uint(cpus),
		Vdso:                 vdso,
		VdsoParams:           params,
		RootUTSNamespace:     s.names(s.Spec, users),
		RootIPCNamespace:     kernel.NewIPCNamespace(users),
		RootPIDNamespace:     kernel.NewRootPIDNamespace(users),
		MaxFDLimit:           kernel.MaxFdLimit,
		Cgroup2FSInit:        cgroup2fs.NewFilesystem,
	})
	if err != nil {
		return err
	}
	if err := rootfs.RegisterTypes(k); err != nil {
		return err
	}
	// What the sandbox was given of the host's descriptors, standard streams above all, is in a file system of its own.
	fs, err := host.NewFilesystem(k.VFS())
	if err != nil {
		return err
	}
	defer fs.DecRef(k.SupervisorContext())
	k.SetHostMount(k.VFS().NewDisconnectedMount(fs, nil, &vfs.MountOptions{}))
	return sighandling.IgnoreChildStop()
}

func (s *Sandbox) newNetwork(clock tcpip.Clock, users *auth.UserNamespace) (ns *inet.Namespace, err error) {
	if network.IsHost(s.Spec) {
		return network.NewHost(users)
	}
	s.network, ns, err = network.New(clock, users, s.kernel)
	return ns, err
}

// sockets returns those of the host's that a container has.
func (s *Sandbox) sockets() *filter.Sockets {
	switch {
	case s.HostSockets.Any():
		return &filter.Sockets{Unix: s.HostSockets} // which a container with the host's network has not
	case network.IsHost(s.Spec):
		return network.HostSockets()
	}
	return nil
}

// names returns the UTS namespace of a container. What the configuration doesn't say is the host's, as of a new namespace; the jail
// has it, until the filter is there.
func (s *Sandbox) names(spec *specs.Spec, users *auth.UserNamespace) *kernel.UTSNamespace {
	host, domain := spec.Hostname, spec.Domainname
	if host == "" {
		host = unix.ByteSliceToString(s.uname.Nodename[:])
	}
	if domain == "" {
		domain = spec.Linux.Sysctl[wire.Domainname]
	}
	if domain == "" {
		domain = unix.ByteSliceToString(s.uname.Domainname[:])
	}
	return kernel.NewUTSNamespace(host, domain, users)
}

// newMemory makes the file that all memory of applications is in.
func newMemory() (*pgalloc.MemoryFile, error) {
	fd, err := memutil.CreateMemFD("memory", 0)
	if err != nil {
		return nil, err
	}
	return pgalloc.NewMemoryFile(os.NewFile(uintptr(fd), "memory"), pgalloc.MemoryFileOpts{})
}
