// Package rootfs makes the mount namespaces of containers in a sandbox, in its kernel: the donated files of the host's, file systems
// of the kernel's own, devices, masked and read-only paths. What internal/rootfs makes with the host's kernel is alike. Package
// boot has it made once a container; package terminal's are bound to /dev/console.
//
// Prepare looks at no file of the host's and may come before the process is confined; Attach comes afterwards.
package rootfs

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/kernel/ipc"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/mnt"
	"hull/internal/sentry/errno"
	"hull/internal/sentry/fileserver"
)

// View says how the containers of a sandbox see the host's files.
type View struct {
	// Overlay says that what is written to a root is kept by the kernel.
	Overlay bool
	// SharedRoot says that others than the container change its root, ExclusiveMounts that none does what is mounted into it.
	SharedRoot, ExclusiveMounts bool
	// MountPoints are where something is mounted below the root on the host.
	MountPoints []string
	// Fifos says that FIFOs are opened together with programs of the host.
	Fifos bool
}

// Config is a container whose files are to be mounted.
type Config struct {
	View
	Kernel  *kernel.Kernel
	Server  *fileserver.Server  // serves the donated files
	Written *pgalloc.MemoryFile // what an overlay is kept in; nil: in the kernel's memory
	ID      string
	Name    string // by which its files are found again when it is restored
	Spec    *specs.Spec
	Bundle  string // for messages
	PIDs    *kernel.PIDNamespace
	IPC     *kernel.IPCNamespace
	Cgroups *kernel.CgroupNamespace // or nil: the kernel's first
	// Kept is what the container has of files that are kept open.
	Kept *Share
	// Files are the donated trees: the root, then the sources of bind mounts in the order of the spec's mounts. What is served is
	// taken away from them; what is left is the caller's.
	Files *[]Tree
}

// Mounts are those of a container that is being made.
type Mounts struct {
	*Config
	ctx   context.Context
	creds *auth.Credentials
	ns    *vfs.MountNamespace
	root  vfs.VirtualDentry
	made  []madeMount // by the number of the configuration's mount
	many  uint64      // how many unused files of each exclusive tree the kernel has open
	few   uint64      // and of each other

	readonly []*vfs.Mount // once all is in place
}

// madeMount is a mount that is attached nowhere yet, or why there is none.
type madeMount struct {
	*vfs.Mount // or nil: it is of files of the host's
	error
}

// inside is a context in the container's mount namespace, since mounts are copied only by who is in theirs, and in its pid, ipc and
// cgroup namespaces, which are those that a mount of proc, of mqueue and of cgroup2 shows.
type inside struct {
	context.Context
	ns *vfs.MountNamespace
	c  *Config
}

// Value implements context.Context.
func (i inside) Value(key any) any {
	switch key {
	case vfs.CtxMountNamespace:
		i.ns.IncRef() // the caller's
		return i.ns
	case kernel.CtxPIDNamespace:
		return i.c.PIDs
	case ipc.CtxIPCNamespace:
		i.c.IPC.IncRef() // the caller's
		return i.c.IPC
	case kernel.CtxCgroupNamespace:
		if i.c.Cgroups != nil {
			i.c.Cgroups.IncRef() // the caller's
			return i.c.Cgroups
		}
	}
	return i.Context.Value(key)
}

// Prepare makes what the container's mount namespace has of file systems of the kernel's own. It looks at no file of the
// host's.
func Prepare(c *Config) (*Mounts, error) {
	m := &Mounts{Config: c, ctx: c.Kernel.SupervisorContext()}
	m.creds = auth.NewRootCredentials(c.Kernel.RootUserNamespace())
	var err error
	// The first mount of a namespace can't be changed, so that one is an empty, read-only file system below the root.
	m.ns, err = c.Kernel.VFS().NewMountNamespace(m.ctx, m.creds, "none", tmpfs.Name, &vfs.MountOptions{ReadOnly: true, Locked: true}, c.Kernel)
	if err != nil {
		return nil, err
	}
	m.ctx = inside{m.ctx, m.ns, c}
	m.made = make([]madeMount, len(c.Spec.Mounts))
	for i, spec := range c.Spec.Mounts {
		if p, err := mnt.Parse(i, spec, c.Bundle); err == nil && !p.Bind {
			m.made[i].Mount, m.made[i].error = m.make(&p)
		}
	}
	return m, nil
}

// Context is one in the mount namespace.
func (m *Mounts) Context() context.Context { return m.ctx }

// Attach makes the container's mount namespace.
func (m *Mounts) Attach() (_ *vfs.MountNamespace, err error) {
	defer func() {
		for _, made := range m.made {
			if made.Mount != nil {
				made.DecRef(m.ctx) // what is attached is the namespace's
			}
		}
		if err != nil {
			m.ns.DecRef(m.Kernel.SupervisorContext()) // with what of the host's files is mounted there
		}
	}()
	trees, err := m.trees()
	if err != nil {
		return nil, err
	}
	*m.Files = trees
	m.keep()
	if err := m.mountRoot(); err != nil {
		return nil, errno.InField("root.path", err)
	}
	defer m.root.DecRef(m.ctx)
	for i, spec := range m.Spec.Mounts {
		parsed, err := mnt.Parse(i, spec, m.Bundle)
		if err != nil {
			return nil, err
		}
		if err := m.mount(&parsed, m.made[i]); err != nil {
			return nil, errno.InField(parsed.Field, err)
		}
	}
	if err := m.devices(); err != nil {
		return nil, errno.InField("linux.devices", err)
	}
	if err := m.cover(); err != nil {
		return nil, err
	}
	// Not before: what is missing of a mount point is made below them, where the host doesn't see it.
	for _, mount := range m.readonly {
		if err := m.Kernel.VFS().SetMountReadOnly(mount, true); err != nil {
			return nil, errno.Of(err)
		}
	}
	return m.ns, nil
}
