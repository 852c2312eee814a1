package boot

import (
	"fmt"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// groups are the cgroups that the containers have in this kernel, each below the root, which is none's: no process has the cgroup
// namespace of the whole tree, and so nobody can take the controllers away by which limits are written and use is counted.
type groups struct {
	mu    sync.Mutex
	mount *vfs.Mount // of the whole tree, once there is one; or nil
	made  int
}

// controllers are those of the kernel that the groups' limits need.
const controllers = "+cpu +memory +pids"

// firstGroup is the name of the first container's cgroup, by which it is found again when the container is restored.
const firstGroup = "first"

// open makes the tree reachable.
func (l *groups) open(k *kernel.Kernel) error {
	if l.mount != nil {
		return nil
	}
	// What is the root of a cgroup namespace is bounded from outside (cgroups(7), nsdelegate).
	cgroup2fs.SetNSDelegate(k, true)
	l.mount = cgroup2fs.NewInternalMount(k, k.VFS())
	return l.write(k, "cgroup.subtree_control", controllers)
}

// make makes the cgroup of a container.
func (l *groups) make(c *container) (*group, error) {
	k := c.kernel
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(k); err != nil {
		return nil, err
	}
	g := &group{c: c, name: firstGroup}
	if c != c.root {
		l.made++
		g.name = fmt.Sprintf("container-%d", l.made)
	}
	err := k.VFS().MkdirAt(k.SupervisorContext(), auth.NewRootCredentials(k.RootUserNamespace()), l.at(g.name), &vfs.MkdirOptions{Mode: 0o755})
	if err == nil {
		err = l.find(g)
	}
	if err != nil {
		return nil, err
	}
	g.ns = k.NewCgroupNamespace(k.SupervisorContext(), g.node, k.RootUserNamespace())
	return g, nil
}

// find fills in where a cgroup is, which is there.
func (l *groups) find(g *group) (err error) {
	k := g.c.kernel
	creds := auth.NewRootCredentials(k.RootUserNamespace())
	if g.place, err = k.VFS().GetDentryAt(k.SupervisorContext(), creds, l.at(g.name), &vfs.GetDentryOptions{}); err != nil {
		return err
	}
	var ok bool
	if g.node, ok = cgroup2fs.CgroupFromDentry(g.place.Dentry()); !ok {
		panic("bug: a directory of cgroup2fs that is no cgroup")
	}
	return nil
}

// restored returns the cgroup of the first container, which was restored with its namespace.
func (l *groups) restored(c *container, ns *kernel.CgroupNamespace) (*group, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(c.kernel); err != nil {
		return nil, err
	}
	g := &group{c: c, name: firstGroup, ns: ns}
	return g, l.find(g)
}

func (l *groups) at(path string) *vfs.PathOperation {
	return in(vfs.MakeVirtualDentry(l.mount, l.mount.Root()), path)
}

// write writes to a file of the tree. kernel.Cgroup2's WriteControl doesn't do where namespaces are boundaries: it takes for granted
// that there is an open file.
func (l *groups) write(k *kernel.Kernel, path, value string) error {
	ctx := k.SupervisorContext()
	f, err := k.VFS().OpenAt(ctx, auth.NewRootCredentials(k.RootUserNamespace()), l.at(path), &vfs.OpenOptions{Flags: linux.O_WRONLY})
	if err != nil {
		return err
	}
	defer f.DecRef(ctx)
	_, err = f.Write(ctx, usermem.BytesIOSequence([]byte(value)), vfs.WriteOptions{})
	return err
}

// remove removes a cgroup and those below it, which programs make where a container may write to its own. There is no process in any.
//
// How many they are, and how deep, was said by a program. So each is looked up in the one above, and not by a path from the top,
// nor by recursion.
func (l *groups) remove(k *kernel.Kernel, name string) error {
	ctx, creds := k.SupervisorContext(), auth.NewRootCredentials(k.RootUserNamespace())
	type level struct {
		name  string
		place vfs.VirtualDentry
		below []string // those that are not removed yet
	}
	root := vfs.MakeVirtualDentry(l.mount, l.mount.Root())
	root.IncRef()
	way := []level{{place: root, below: []string{name}}}
	defer func() {
		for _, on := range way {
			on.place.DecRef(ctx)
		}
	}()
	for {
		last := &way[len(way)-1]
		if n := len(last.below); n > 0 {
			next := level{name: last.below[n-1]}
			last.below = last.below[:n-1]
			var err error
			if next.place, err = k.VFS().GetDentryAt(ctx, creds, in(last.place, next.name), &vfs.GetDentryOptions{}); err != nil {
				return err
			}
			way = append(way, next)
			if way[len(way)-1].below, err = children(k, next.place); err != nil {
				return err
			}
			continue
		}
		if len(way) == 1 {
			return nil
		}
		empty := last.name
		last.place.DecRef(ctx)
		way = way[:len(way)-1]
		if err := k.VFS().RmdirAt(ctx, creds, in(way[len(way)-1].place, empty)); err != nil {
			return err
		}
	}
}

func in(dir vfs.VirtualDentry, name string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: dir, Start: dir, Path: fspath.Parse(name)}
}

// children returns the names of the cgroups that are right below another.
func children(k *kernel.Kernel, group vfs.VirtualDentry) (names []string, err error) {
	ctx := k.SupervisorContext()
	creds := auth.NewRootCredentials(k.RootUserNamespace())
	dir, err := k.VFS().OpenAt(ctx, creds, in(group, "."), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_DIRECTORY})
	if err != nil {
		return nil, err
	}
	defer dir.DecRef(ctx)
	err = dir.IterDirents(ctx, vfs.IterDirentsCallbackFunc(func(e vfs.Dirent) error {
		if e.Type == linux.DT_DIR && e.Name != "." && e.Name != ".." {
			names = append(names, e.Name)
		}
		return nil
	}))
	return names, err
}
