package boot

import (
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// groups are the cgroups that containers which have joined the first have in this kernel: the host's, in which there is nothing
// of theirs, can't bound them.
type groups struct {
	mu    sync.Mutex
	mount *vfs.Mount // of the whole tree, once there is one; or nil
	made  int
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
