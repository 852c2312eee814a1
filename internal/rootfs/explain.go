package rootfs

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/typo"
)

// Explain adds to the error of one of the plan's batches what a person can do about it, where that is known.
func (p *Plan) Explain(err error) error {
	var e *fault.Error
	if !errors.As(err, &e) || e.Hint != "" {
		return err
	}
	hint := p.hint(e)
	if hint == "" {
		return err
	}
	explained := *e
	explained.Hint = hint
	return &explained
}

func (p *Plan) hint(e *fault.Error) string {
	is := func(errno unix.Errno, steps ...string) bool {
		if !errors.Is(e.Err, errno) {
			return false
		}
		for _, s := range steps {
			if strings.HasPrefix(e.Step, s) {
				return true
			}
		}
		return false
	}
	m := p.mountOf(e.Field)
	switch {
	case e.Field == "root.path" && is(unix.EINVAL, "pivot_root"):
		return "if the host's root is an initramfs, it can't be left by pivot_root: use --no-pivot"
	case e.Field == "root.path" && is(unix.EACCES, "openat", "open_tree") && p.cfg.UserNS:
		return "root of the container's user namespace must be able to search every directory on the way to root.path"
	case is(unix.ENODEV, "fsopen overlay"):
		return "this kernel has no overlayfs, or its module is not loaded (modprobe overlay)"
	case m == nil:
		return ""
	case m.Type == "devpts" && is(unix.EINVAL, "fsconfig") && p.cfg.UserNS && !p.mapsGID(m):
		return "the group of the option gid= is not in linux.gidMappings"
	case (m.Type == "proc" || m.Type == "sysfs") && is(unix.EPERM, "fsmount"):
		return "a user namespace may mount " + m.Type + " only where the host's own is not partly covered, " +
			"and with a new " + map[string]string{"proc": "pid", "sysfs": "network"}[m.Type] + " namespace"
	case m.Type == "sysfs" && is(unix.EPERM, "fsopen", "fsconfig"):
		return "sysfs needs a network namespace that belongs to the container's user namespace; bind /sys instead"
	case m.IDMap != nil && is(unix.EINVAL, "mount_setattr"):
		return "the file system of the source may not support idmapped mounts in this kernel"
	case (is(unix.EINVAL, "move_mount") || is(unix.ENOTDIR, "openat")) && p.mismatch(m): // the latter without openat2(2)
		return mnt.Mismatch
	case is(unix.EINVAL, "fsconfig "):
		return optionHint(m.Type, strings.TrimPrefix(e.Step, "fsconfig "))
	case is(unix.ENODEV, "fsopen", "mount"):
		return "this kernel has no file system " + m.Type
	}
	return ""
}

// ownOptions are those of file systems that containers have most of, beside mnt.Options.
var ownOptions = map[string][]string{
	"tmpfs":  {"size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "huge", "mpol", "inode32", "inode64", "noswap"},
	"proc":   {"hidepid", "gid", "subset"},
	"devpts": {"newinstance", "ptmxmode", "mode", "uid", "gid", "max"},
	"sysfs":  {},
	"mqueue": {},
}

// optionHint says of an option that a file system refuses what it takes, as far as that is known; or "".
func optionHint(kind, option string) string {
	name, _, valued := strings.Cut(option, "=")
	own, known := ownOptions[kind]
	switch {
	case !known:
		return ""
	case slices.Contains(own, name):
		if kind == "tmpfs" && name == "size" {
			return "size= is a number of bytes, also with k, m or g, or a share of the memory in %"
		}
		return ""
	}
	names := own
	if !valued {
		names = append(mnt.Options(), own...)
	}
	if meant := typo.Nearest(name, names); meant != "" {
		return "did you mean " + meant + "?"
	}
	return ""
}

// mismatch tells whether only one of source and destination is a directory.
func (p *Plan) mismatch(m *mount) bool {
	g := newGuide(p.root)
	target, err := os.Stat(g.host(g.follow(m.Destination)))
	if err != nil {
		return false
	}
	if !m.Bind {
		return !target.IsDir()
	}
	source, err := os.Stat(m.Source)
	return err == nil && source.IsDir() != target.IsDir()
}

func (p *Plan) mountOf(field string) *mount {
	for i := range p.mounts {
		if p.mounts[i].Field == field {
			return &p.mounts[i]
		}
	}
	return nil
}

// mapsGID tells whether the group that a file system is to belong to is known in the container's user namespace.
func (p *Plan) mapsGID(m *mount) bool {
	params, _ := m.Params()
	for _, o := range params {
		if o.Key != "gid" {
			continue
		}
		gid, ok := parseID(o.Value)
		if !ok {
			return true
		}
		for _, e := range p.cfg.Spec.Linux.GIDMappings {
			if gid >= e.ContainerID && gid-e.ContainerID < e.Size {
				return true
			}
		}
		return false
	}
	return true
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}
