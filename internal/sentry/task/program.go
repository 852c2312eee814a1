package task

import (
	"path"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/sentry/errno"
	"hull/internal/task"
)

// OpenDir returns the working directory, which may be one that only the container's root can enter, or only the user.
func OpenDir(ctx context.Context, args *kernel.CreateProcessArgs) (dir vfs.VirtualDentry, first error) {
	root := args.MountNamespace.Root(ctx)
	defer root.DecRef(ctx)
	for _, creds := range []*auth.Credentials{args.Credentials, auth.NewRootCredentials(args.Credentials.UserNamespace)} {
		dir, err := root.Mount().Filesystem().VirtualFilesystem().GetDentryAt(ctx, creds,
			&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(args.WorkingDirectory), FollowFinalSymlink: true},
			&vfs.GetDentryOptions{CheckSearchable: true})
		if err == nil {
			return dir, nil
		}
		if first == nil {
			first = err
		}
	}
	return dir, first
}

// Find returns the path of the program, which the process must be able to execute.
func Find(ctx context.Context, args *kernel.CreateProcessArgs, name string) (string, error) {
	var tried []task.Tried
	for _, file := range task.Candidates(name, args.Envv) {
		if !path.IsAbs(file) {
			file = args.WorkingDirectory + "/" + file // not path.Join: a link may be before ".."
		}
		err := executable(ctx, args, file)
		if err == nil {
			return file, nil
		}
		no, ok := errno.Of(err).(unix.Errno)
		if !ok {
			return "", err
		}
		if isDirectory(ctx, args, file) {
			no = unix.EISDIR
		}
		tried = append(tried, task.Tried{File: file, Err: no})
	}
	return "", task.NotFound(name, args.Envv, tried)
}

// executable tells whether the process may execute the file.
func executable(ctx context.Context, args *kernel.CreateProcessArgs, file string) error {
	root := args.MountNamespace.Root(ctx)
	defer root.DecRef(ctx)
	f, err := root.Mount().Filesystem().VirtualFilesystem().OpenAt(ctx, args.Credentials,
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(file), FollowFinalSymlink: true},
		&vfs.OpenOptions{Flags: linux.O_RDONLY, FileExec: true})
	if err == nil {
		f.DecRef(ctx)
	}
	return err
}

func isDirectory(ctx context.Context, args *kernel.CreateProcessArgs, file string) bool {
	root := args.MountNamespace.Root(ctx)
	defer root.DecRef(ctx)
	st, err := root.Mount().Filesystem().VirtualFilesystem().StatAt(ctx, args.Credentials,
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(file), FollowFinalSymlink: true},
		&vfs.StatOptions{Mask: linux.STATX_TYPE})
	return err == nil && st.Mode&linux.S_IFMT == linux.S_IFDIR
}
