package boot

import (
	"path"
	"slices"
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
	root := vfs.MakeVirtualDentry(l.mount, l.mount.Root())
	return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(path)}
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
func (l *groups) remove(k *kernel.Kernel, name string) error {
	ctx, creds := k.SupervisorContext(), auth.NewRootCredentials(k.RootUserNamespace())
	tree := []string{name}
	for i := 0; i < len(tree); i++ { // not by recursion: how deep they go was said by a program
		below, err := l.below(k, tree[i])
		if err != nil {
			return err
		}
		tree = append(tree, below...)
	}
	for _, group := range slices.Backward(tree) {
		if err := k.VFS().RmdirAt(ctx, creds, l.at(group)); err != nil {
			return err
		}
	}
	return nil
}

// below returns the cgroups that are right below another.
func (l *groups) below(k *kernel.Kernel, group string) (groups []string, err error) {
	ctx := k.SupervisorContext()
	dir, err := k.VFS().OpenAt(ctx, auth.NewRootCredentials(k.RootUserNamespace()), l.at(group), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_DIRECTORY})
	if err != nil {
		return nil, err
	}
	defer dir.DecRef(ctx)
	err = dir.IterDirents(ctx, vfs.IterDirentsCallbackFunc(func(e vfs.Dirent) error {
		if e.Type == linux.DT_DIR && e.Name != "." && e.Name != ".." {
			groups = append(groups, path.Join(group, e.Name))
		}
		return nil
	}))
	return groups, err
}
