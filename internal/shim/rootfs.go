package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/containerd"
	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/stub"
)

// rootfsDir is where a container's root file system is in its bundle.
const rootfsDir = "rootfs"

// mountRootfs mounts what containerd's snapshots consist of, in their order, at the bundle's root file system.
//
// A stub does it, which has a working directory of its own: overlayfs is told its layers relative to their common directory,
// since mount(2) takes a page of options, and an image may have many layers.
func mountRootfs(bundle string, mounts []containerd.Mount) (err error) {
	if len(mounts) == 0 {
		return nil
	}
	root := filepath.Join(bundle, rootfsDir)
	if err := os.Mkdir(root, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	s, err := stub.Start(stub.Config{})
	if err != nil {
		return err
	}
	defer s.Kill()
	defer func() {
		if err != nil {
			err = errors.Join(err, unmountRootfs(bundle))
		}
	}()
	for i, m := range mounts {
		target := root
		if m.Target != "" {
			at, err := inRoot(root, m.Target)
			if err != nil {
				return fmt.Errorf("rootfs[%d]: %w", i, err)
			}
			defer at.Close()
			target = descriptorPath(at)
		}
		parsed, err := mnt.Parse(i, specs.Mount{Destination: target, Type: m.Type, Source: m.Source, Options: m.Options}, bundle)
		if err != nil {
			return err
		}
		b, err := mountBatch(&parsed, i)
		if err != nil {
			return err
		}
		if err := s.Do(b); err != nil {
			return err
		}
	}
	return nil
}

// inRoot opens where a path leads in a root file system, whose links are the image's and lead nowhere else.
func inRoot(root, path string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), filepath.Join(root, path)), nil
		case unix.EAGAIN, unix.EINTR: // something was renamed meanwhile (openat2(2))
		default:
			return nil, &os.PathError{Op: "openat2", Path: filepath.Join(root, path), Err: err}
		}
	}
}

// descriptorPath names what a file is for the calls of another process: whatever happens to its name.
func descriptorPath(f *os.File) string {
	return filepath.Join("/proc", strconv.Itoa(os.Getpid()), "fd", strconv.Itoa(int(f.Fd())))
}

// maxOptions is how many bytes of options mount(2) takes: a page, with the NUL at its end.
const maxOptions = 4095

func mountBatch(m *mnt.Mount, i int) (*stub.Batch, error) {
	b := new(stub.Batch)
	field := fmt.Sprintf("rootfs[%d]", i)
	b.In(field)
	if !m.Bind {
		dir, data := relativeLayers(m.Type, m.Data)
		if n := len(strings.Join(data, ",")); n > maxOptions {
			return nil, &fault.Error{Field: field, Step: "mount " + m.Type, Err: fmt.Errorf("options of %d bytes, mount(2) takes %d", n, maxOptions)}
		}
		if dir != "" {
			b.Call(unix.SYS_CHDIR, b.String(dir).Arg())
			b.Note(dir)
		}
		b.Mount(m.Source, m.Destination, m.Type, m.Flags(), strings.Join(data, ","))
		return b, nil
	}
	flags := uintptr(unix.MS_BIND)
	if m.Recursive {
		flags |= unix.MS_REC
	}
	b.Mount(m.Source, m.Destination, "", flags, "")
	if m.Attr.Set != 0 {
		b.Mount("", m.Destination, "", unix.MS_BIND|unix.MS_REMOUNT|mnt.AttrFlags(m.Attr.Set), "")
	}
	return b, nil
}

// relativeLayers returns the options of an overlay whose lower layers are given relative to the directory that they have in
// common, and that directory; or the options as they are.
func relativeLayers(fstype string, options []string) (dir string, relative []string) {
	const lower = "lowerdir="
	if fstype != "overlay" {
		return "", options
	}
	for i, o := range options {
		layers, ok := strings.CutPrefix(o, lower)
		if !ok || strings.Contains(layers, `\`) || strings.Contains(layers, "::") {
			continue
		}
		list := strings.Split(layers, ":")
		dir := filepath.Dir(list[0])
		for _, l := range list {
			for !filepath.IsAbs(l) || !strings.HasPrefix(l, dir+"/") {
				if dir == "/" || dir == "." {
					return "", options
				}
				dir = filepath.Dir(dir)
			}
		}
		for j, l := range list {
			list[j] = l[len(dir)+1:]
		}
		relative = append([]string(nil), options...)
		relative[i] = lower + strings.Join(list, ":")
		return dir, relative
	}
	return "", options
}

// unmountRootfs takes away what is mounted at the bundle's root file system, and what is mounted there twice.
func unmountRootfs(bundle string) error {
	root := filepath.Join(bundle, rootfsDir)
	for {
		err := unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch err {
		case nil, unix.EINTR:
		case unix.EINVAL, unix.ENOENT: // no mount point, or not even a directory
			return nil
		default:
			return &os.PathError{Op: "umount", Path: root, Err: err}
		}
	}
}
