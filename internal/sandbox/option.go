package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// Options are what can be chosen of a sandbox. Empty is the default.
type Options struct {
	Overlay          string
	FileAccess       string
	FileAccessMounts string
	HostFifo         string
	HostUDS          string
	Platform         string
	PlatformDevice   string
}

// Given returns the name of the first option that is not at its default, as the command line has it, or "".
func (o Options) Given() string {
	for _, f := range []struct{ name, value string }{
		{"overlay", o.Overlay}, {"file-access", o.FileAccess}, {"file-access-mounts", o.FileAccessMounts},
		{"host-fifo", o.HostFifo}, {"host-uds", o.HostUDS}, {"platform", o.Platform},
		{"platform-device", o.PlatformDevice},
	} {
		if f.value != "" {
			return f.name
		}
	}
	return ""
}

// dirPrefix is of an Overlay in a file of a directory.
const dirPrefix = "dir="

// Check refuses what there isn't.
func (o Options) Check() error {
	if dir, ok := strings.CutPrefix(o.Overlay, dirPrefix); !ok {
		if err := oneOf("overlay", o.Overlay, "none", wire.OverlayMemory, "dir=DIR"); err != nil {
			return err
		}
	} else if !filepath.IsAbs(dir) {
		return &fault.Error{Step: fmt.Sprintf("overlay %q", o.Overlay), Kind: fault.BadUsage, Err: errors.New("want an absolute path")}
	}
	return errors.Join(
		o.checkPlatform(),
		oneOf("host-uds", o.HostUDS, "none", wire.Open, wire.OnlyCreate, wire.OpenCreate),
		oneOf("file-access", o.FileAccess, wire.Exclusive, wire.Shared),
		oneOf("file-access-mounts", o.FileAccessMounts, wire.Shared, wire.Exclusive),
		oneOf("host-fifo", o.HostFifo, "none", wire.Open))
}

func oneOf(name, value string, values ...string) error {
	if value == "" || slices.Contains(values, value) {
		return nil
	}
	return &fault.Error{Step: fmt.Sprintf("%s %q", name, value), Kind: fault.BadUsage, Err: errors.New("want " + strings.Join(values, " or "))}
}

// Overlaid tells whether the sandbox keeps what is written to roots.
func (o Options) Overlaid() bool { return o.Overlay != "" && o.Overlay != "none" }

// hostSockets tells whether a sandbox has sockets of the host's, other than those that it was given.
func (o Options) hostSockets() bool { return o.HostUDS != "" && o.HostUDS != "none" }

// giveOptions passes what isn't the default.
func (c *creation) giveOptions(o Options) error {
	for _, f := range []struct{ name, value string }{
		{"file-access", o.FileAccess}, {"file-access-mounts", o.FileAccessMounts}, {"host-fifo", o.HostFifo}, {"host-uds", o.HostUDS},
	} {
		if f.value != "" && f.value != "none" {
			c.flags = append(c.flags, "--"+f.name, f.value)
		}
	}
	if firstOfPod(c.Spec.Annotations) {
		c.flags = append(c.flags, "--pod")
	}
	dir, ok := strings.CutPrefix(o.Overlay, dirPrefix)
	c.overlaid = c.overlaid || o.Overlaid()
	switch {
	case o.Overlay == wire.OverlayMemory:
		c.flags = append(c.flags, "--overlay", wire.OverlayMemory)
	case ok:
		// It has no name, so that nothing is left of it when the sandbox has ended, however that was.
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			e := &fault.Error{Step: "overlay: make a file in " + strconv.Quote(dir), Err: err}
			if err == unix.EOPNOTSUPP || err == unix.EISDIR {
				e.Hint = "its file system has no files without a name (O_TMPFILE)"
			}
			return e
		}
		c.flags = append(c.flags, "--overlay", strconv.Itoa(c.give("", os.NewFile(uintptr(fd), "overlay"))))
	}
	return nil
}
