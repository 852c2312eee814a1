package terminal

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/sentry/errno"
)

// Dir is the directory of a container's terminals.
const Dir = "/dev/pts"

// openPts returns the container's directory of terminals, if it is one: the image may have put there what it wants.
func openPts(ctx context.Context, k *kernel.Kernel) (dir vfs.VirtualDentry, err error) {
	ns := vfs.MountNamespaceFromContext(ctx)
	if ns == nil {
		return dir, unix.ESRCH
	}
	defer ns.DecRef(ctx)
	root := ns.Root(ctx)
	defer root.DecRef(ctx)
	dir, err = k.VFS().GetDentryAt(ctx, auth.NewRootCredentials(k.RootUserNamespace()),
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(Dir)}, &vfs.GetDentryOptions{})
	if err != nil {
		return dir, &fault.Error{Step: "open " + Dir, Err: errno.Of(err)}
	}
	if dir.Mount().Filesystem().FilesystemType().Name() != devpts.Name {
		dir.DecRef(ctx)
		return dir, &fault.Error{Step: Dir + " is no mount of devpts", Err: unix.ENODEV}
	}
	return dir, nil
}

// owner returns the owner and mode that terminals of a process have: the user's, and what the options of the devpts say,
// as in native isolation.
func (p *Process) owner(creds *auth.Credentials) linux.Statx {
	st := linux.Statx{Mask: linux.STATX_UID | linux.STATX_GID | linux.STATX_MODE,
		UID: uint32(creds.EffectiveKUID), GID: uint32(creds.EffectiveKGID), Mode: 0o600}
	for i, spec := range slices.Backward(p.Mounts) {
		if path.Clean(spec.Destination) != Dir {
			continue
		}
		parsed, err := mnt.Parse(i, spec, p.Bundle)
		if err != nil {
			break
		}
		for o := range strings.SplitSeq(strings.Join(parsed.Data, ","), ",") {
			key, value, _ := strings.Cut(o, "=")
			switch key {
			case "uid":
				st.UID = number(value, 10, st.UID)
			case "gid":
				st.GID = number(value, 10, st.GID)
			case "mode":
				st.Mode = uint16(number(value, 8, uint32(st.Mode))) & 0o777
			}
		}
		break
	}
	return st
}

func number(s string, base int, otherwise uint32) uint32 {
	if n, err := strconv.ParseUint(s, base, 32); err == nil {
		return uint32(n)
	}
	return otherwise
}
