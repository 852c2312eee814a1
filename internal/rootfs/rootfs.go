// Package rootfs puts a container's init into its files: it emits the system calls by which a stub, that is already
// in the container's namespaces but still sees the host's files, makes the container's mounts and devices and moves
// into them.
//
//	New      checks the configuration; pure
//	Sources  in the parent, with its rights: what the stub could not open itself
//	Prepare  propagation, the root, mounts in order, devices, links
//	         (hooks run here: the host's files are still there)
//	CopyUp   fills the tmpfs mounts that asked for it
//	Console  the terminal, onto /dev/console
//	Enter    pivot_root, masked and read-only paths, read-only root
//
// The root file system and all that is mounted into it is not trusted: an image may have any symbolic link in it, and
// another container may swap directories for links in a volume both have while this one is set up (CVE-2021-30465).
// So nothing is done by path. A path is resolved to a descriptor by openat2(2), which keeps links inside the root, and
// the descriptor is used; new mounts are made detached and complete, and only then attached to a descriptor. A mount
// has its attributes before anyone can reach it.
//
// The stub must be root of the user namespace it is in: its file system ids own what it creates.
package rootfs

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/overlay"
	"hull/internal/stub"
)

// Config is what a Plan is made of.
type Config struct {
	Spec   *specs.Spec
	Bundle string // absolute path of the bundle

	UserNS   bool // the stub is in a user namespace of the container, new or joined
	Rootless bool // the parent is not root of its user namespace
	NoPivot  bool // MS_MOVE and chroot(2) instead of pivot_root(2), for a host whose root is an initramfs
	Terminal bool // there will be a /dev/console
	HostNS   bool // the container has the host's mount namespace: its mounts are the host's until Leave
	NoLabels bool // the kernel has no SELinux: linux.mountLabel is not applied
	NoDev    bool // nothing is made in /dev, nor that: the program is hull's own and wants none

	Cgroups Cgroups
	Kernel  Features

	// Overlay has the container show the host's files, instead of what root.path names; or nil.
	Overlay *overlay.Plan
	// Donated has the container's program get the host's files as descriptors; or nil. The stub's have numbers already.
	Donated *overlay.Donation
}

// Plan is what a container's files will be.
type Plan struct {
	cfg           Config
	root          string // on the host
	propagation   uint64 // MS_*, of linux.rootfsPropagation
	label         string // SELinux context of new file systems
	mounts        []mount
	devices       []device
	masked        []string
	readonlyPaths []string
	devBound      bool // /dev is a bind mount: nothing is made in it

	sources []source
	served  int // index among the sources of the root, if the overlay has one that is served
	made    made
}

// mount is an entry of mounts with what depends on the others.
type mount struct {
	mnt.Mount
	source int  // index among the sources of a detached mount, or -1
	userns int  // index of the user namespace for an idmapped mount among the sources, or -1
	served int  // index among the sources of the socket to have it idmapped over, or -1
	late   bool // becomes read-only in Enter, when nothing needs to be made in it any more
}

// made are descriptors of the stub that Prepare leaves for the batches after it.
type made struct {
	root, dev kept
	stage     kept // see layRoot
	late      []lateMount
	copies    []copyUp
	overlays  []madeOverlay
	guide     *guide
}

type lateMount struct {
	field string
	fd    kept
}

// kept is a descriptor that a batch opens and later ones use, too.
type kept struct {
	b  *stub.Batch
	fd stub.FD
}

// in returns the descriptor for use in b.
func (k kept) in(b *stub.Batch) stub.FD {
	if k.b == b {
		return k.fd
	}
	return stub.Fd(int(k.b.Value(k.fd.Result())))
}

// New returns the plan for a configuration, or all mistakes of it.
func New(cfg Config) (*Plan, error) {
	p := &Plan{cfg: cfg}
	s := cfg.Spec
	var errs []error
	if cfg.Overlay != nil {
		p.root = "/"
	} else if s.Root == nil || s.Root.Path == "" {
		errs = append(errs, fault.Spec("root.path", "missing"))
	} else if p.root = s.Root.Path; !filepath.IsAbs(p.root) {
		p.root = filepath.Join(cfg.Bundle, p.root)
	}
	p.root = filepath.Clean(p.root)
	if strings.IndexByte(p.root, 0) >= 0 {
		errs = append(errs, fault.Spec("root.path", "has a NUL byte"))
	}
	for i, m := range s.Mounts {
		parsed, err := mnt.Parse(i, m, cfg.Bundle)
		if err == nil {
			p.stripRoot(&parsed)
			err = errors.Join(p.checkMount(&parsed), p.checkKernel(&parsed))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.addMount(parsed)
	}
	if s.Linux != nil {
		errs = append(errs, p.addLinux(s.Linux)...)
	}
	errs = append(errs, p.planSources()...)
	if cfg.Overlay != nil && cfg.Overlay.Served != nil {
		p.served = len(p.sources)
		p.sources = append(p.sources, source{root: cfg.Overlay.Served})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if !cfg.NoDev {
		p.addDefaultDevices()
	}
	p.planDevFS()
	return p, nil
}

// stripRoot takes the host's path of the root off a destination: some configurations have it, and runc takes them.
func (p *Plan) stripRoot(m *mnt.Mount) {
	if p.root != "/" && below(m.Destination, p.root) && m.Destination != p.root {
		m.Destination = m.Destination[len(p.root):]
	}
}

func (p *Plan) addMount(m mnt.Mount) {
	if m.Bind && m.Destination == "/dev" {
		p.devBound = true
	}
	p.mounts = append(p.mounts, mount{
		Mount:  m,
		source: -1,
		userns: -1,
		served: -1,
		late: !m.Bind && !m.Remount && (m.Type == "tmpfs" || m.Destination == "/dev") &&
			m.Attr.Set&unix.MOUNT_ATTR_RDONLY != 0,
	})
}

func (p *Plan) addLinux(l *specs.Linux) (errs []error) {
	if !p.cfg.NoLabels {
		p.label = l.MountLabel
	}
	if p.cfg.HostNS {
		errs = append(errs, checkHostNS(l)...)
	}
	if strings.IndexByte(p.label, 0) >= 0 {
		errs = append(errs, fault.Spec("linux.mountLabel", "has a NUL byte"))
	}
	if name := l.RootfsPropagation; name != "" {
		var ok bool
		if p.propagation, ok = mnt.Propagation(name); !ok {
			errs = append(errs, fault.Spec("linux.rootfsPropagation", fmt.Sprintf("%q is none of shared, slave, private, unbindable or their r forms", name)))
		}
	}
	for i, d := range l.Devices {
		if err := p.addDevice(i, d); err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	if p.masked, err = containerPaths("linux.maskedPaths", l.MaskedPaths); err != nil {
		errs = append(errs, err)
	}
	if p.readonlyPaths, err = containerPaths("linux.readonlyPaths", l.ReadonlyPaths); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkHostNS refuses what would change the host's own files in its mount namespace.
func checkHostNS(l *specs.Linux) (errs []error) {
	for _, f := range []struct {
		field string
		given bool
	}{
		{"linux.maskedPaths", len(l.MaskedPaths) > 0},
		{"linux.readonlyPaths", len(l.ReadonlyPaths) > 0},
		{"linux.rootfsPropagation", l.RootfsPropagation != ""},
	} {
		if f.given {
			errs = append(errs, fault.Spec(f.field, "needs a mount namespace in linux.namespaces"))
		}
	}
	return errs
}

// Warnings returns what is tolerated but not applied.
func (p *Plan) Warnings() (warnings []string) {
	for i := range p.mounts {
		warnings = append(warnings, p.mounts[i].Warnings()...)
	}
	if p.cfg.NoLabels && p.cfg.Spec.Linux != nil && p.cfg.Spec.Linux.MountLabel != "" {
		warnings = append(warnings, "linux.mountLabel: not applied: this host's kernel has no SELinux, or has it disabled")
	}
	return warnings
}

// containerPaths cleans paths and drops those said twice: a mask over a mask is nothing but a mount more.
func containerPaths(field string, paths []string) (clean []string, err error) {
	seen := make(map[string]bool, len(paths))
	for i, path := range paths {
		switch {
		case !filepath.IsAbs(path):
			return nil, fault.Spec(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%q is not an absolute path", path))
		case strings.IndexByte(path, 0) >= 0:
			return nil, fault.Spec(fmt.Sprintf("%s[%d]", field, i), "has a NUL byte")
		}
		if path = filepath.Clean(path); !seen[path] {
			seen[path] = true
			clean = append(clean, path)
		}
	}
	return clean, nil
}

// procFiles are the files in /proc that may be covered: lxcfs and others have better ones for a container.
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/slabinfo", "/proc/stat",
	"/proc/swaps", "/proc/uptime", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// checkKernel refuses what this kernel has no way to do.
func (p *Plan) checkKernel(m *mnt.Mount) error {
	missing := ""
	switch {
	case m.Rec.Given && !p.cfg.Kernel.MountSetattr:
		missing = "options for a whole tree of mounts need Linux 5.12"
	case m.CopyUp && !p.cfg.Kernel.Openat2:
		missing = "tmpcopyup needs Linux 5.6"
	default:
		return nil
	}
	return &fault.Error{Field: m.Field, Kind: fault.Unsupported, Err: errors.New(missing)}
}

// checkMount refuses mounts that would make /proc another file system, or hide parts of it: programs of the host, hull
// among them, trust what they read and write there (CVE-2019-16884, CVE-2019-19921).
func (p *Plan) checkMount(m *mnt.Mount) error {
	if !below(m.Destination, "/proc") || m.Remount {
		return nil
	}
	if m.Destination == "/proc" {
		if m.Type != "proc" && !m.Bind {
			return fault.Spec(m.Field, fmt.Sprintf("the file system at /proc must be proc, not %q", m.Type))
		}
		return nil
	}
	for _, f := range procFiles {
		if m.Destination == f && m.Bind {
			return nil
		}
	}
	return fault.Spec(m.Field, "nothing can be mounted inside /proc but files like /proc/cpuinfo")
}
