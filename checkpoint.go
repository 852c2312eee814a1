package hull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/sandbox"
)

// ImageOptions are what Checkpoint and Restore have in common. All but Path are for CRIU, which saves containers of native
// isolation; a sandbox takes those that make no difference to it, and refuses the others.
type ImageOptions struct {
	Path          string   // directory of the image; empty means checkpoint in the working directory
	WorkPath      string   // directory of logs and statistics; empty means Path
	TCPConnected  bool     // save, or restore, connections of TCP
	UnixSockets   bool     // and Unix sockets whose other end is outside of the container
	ShellJob      bool     // the terminal of the container's session is outside of it
	FileLocks     bool     // save, or restore, locks of files
	LazyPages     bool     // memory comes when it is needed (userfaultfd(2))
	AutoDedup     bool     // take what a newer image has, too, out of an older one
	ManageCgroups string   // soft, full, strict or ignore; empty means soft
	EmptyNS       []string // namespaces that are restored empty: "network"
}

// CheckpointOptions say how a container is saved.
type CheckpointOptions struct {
	ImageOptions
	LeaveRunning bool     // the container goes on; otherwise it is deleted, once it is saved
	ParentPath   string   // directory of an earlier image, relative to Path
	PreDump      bool     // save the memory alone, and let the container go on
	PageServer   string   // ADDRESS:PORT of who takes the memory
	StatusFD     *os.File // gets a zero byte when lazy pages can be asked for
	LinkRemap    bool     // files that have no name any more get one until they are restored
	SkipInFlight bool     // connections of TCP that are not accepted yet are left out
}

// RestoreOptions say how a container is made of one that was saved.
type RestoreOptions struct {
	// CreateOptions are as those of Create. Of these, Env and Notify don't count: the program has been running for long.
	CreateOptions
	ImageOptions
	LSMProfile      string // TYPE:NAME
	LSMMountContext string
}

// Checkpoint saves a running or paused container in files, from which Restore makes one that goes on.
func (c *Container) Checkpoint(ctx context.Context, o CheckpointOptions) error {
	return c.locked(ctx, "checkpoint", func() error {
		if err := c.want("checkpoint", Running, Paused); err != nil {
			return err
		}
		req, err := c.checkpointRequest(o)
		if err != nil {
			return err
		}
		made := linux.MissingDirs(req.Image.Path)
		image, err := makeImageDir(req.Image.Path)
		if err == nil {
			defer image.Close()
			req.Image.Dir = image
			err = c.engine.Checkpoint(ctx, req)
		} else {
			err = &fault.Error{Step: "make the directory of the image", Err: err}
		}
		if err != nil {
			for _, dir := range made {
				_ = os.Remove(dir) // if there is nothing in it
			}
			return err
		}
		if o.LeaveRunning || o.PreDump {
			return nil
		}
		// As with runc. Whatever ctx says: none of the container's processes runs any more.
		return c.destroy(context.WithoutCancel(ctx), Running)
	})
}

func (c *Container) checkpointRequest(o CheckpointOptions) (*engine.CheckpointRequest, error) {
	image, err := o.resolve()
	if err != nil {
		return nil, err
	}
	image.Program = c.runtime.CRIU
	if filepath.IsAbs(o.ParentPath) {
		return nil, &fault.Error{Step: "--parent-path " + o.ParentPath, Kind: fault.BadUsage,
			Err: errors.New("want one that is relative to the image's directory")}
	}
	if colon := strings.LastIndexByte(o.PageServer, ':'); o.PageServer != "" {
		if _, err := strconv.ParseUint(o.PageServer[colon+1:], 10, 16); colon < 1 || err != nil {
			return nil, &fault.Error{Step: "page server " + o.PageServer, Kind: fault.BadUsage, Err: errors.New("want ADDRESS:PORT")}
		}
	}
	status, err := c.status()
	if err != nil {
		return nil, err
	}
	return &engine.CheckpointRequest{
		Container: c.engineView(), Init: c.record.Init, Paused: status == Paused, Image: image,
		LeaveRunning: o.LeaveRunning, ParentPath: o.ParentPath, PreDump: o.PreDump, PageServer: o.PageServer, StatusFD: o.StatusFD,
		LinkRemap: o.LinkRemap, SkipInFlight: o.SkipInFlight,
		Trace: c.runtime.Trace, Warn: c.runtime.warn,
	}, nil
}

// resolve checks the options.
func (o *ImageOptions) resolve() (engine.Image, error) {
	i := engine.Image{
		TCPConnected: o.TCPConnected, UnixSockets: o.UnixSockets, ShellJob: o.ShellJob, FileLocks: o.FileLocks,
		LazyPages: o.LazyPages, AutoDedup: o.AutoDedup, ManageCgroups: o.ManageCgroups, EmptyNS: o.EmptyNS,
	}
	var err error
	if i.Path, err = filepath.Abs(o.Path); o.Path == "" && err == nil {
		i.Path = filepath.Join(i.Path, "checkpoint")
	}
	if err == nil && o.WorkPath != "" {
		i.WorkPath, err = filepath.Abs(o.WorkPath)
	}
	if err != nil {
		return i, err
	}
	if !slices.Contains([]string{"", "soft", "full", "strict", "ignore"}, o.ManageCgroups) {
		return i, &fault.Error{Step: fmt.Sprintf("mode of cgroups %q", o.ManageCgroups), Kind: fault.BadUsage,
			Err: errors.New("want soft, full, strict or ignore")}
	}
	for _, ns := range o.EmptyNS {
		if ns != "network" {
			return i, &fault.Error{Step: fmt.Sprintf("empty namespace %q", ns), Kind: fault.BadUsage, Err: errors.New("want network")}
		}
	}
	return i, nil
}

// makeImageDir opens the directory of an image, which only its owner may enter if it has to be made. What is in front of it on
// the way there the caller has named; it is no link itself, since whoever may write beside it could have put one there.
func makeImageDir(path string) (*os.File, error) {
	dir, err := openImageDir(path)
	if !errors.Is(err, os.ErrNotExist) {
		return dir, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return openImageDir(path)
}

// openImageDir opens the directory of an image.
func openImageDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Restore makes a container that goes on where another was saved. Its bundle has the configuration of that one, and its isolation is,
// unless r says otherwise, the one that the image is of.
func (r *Runtime) Restore(ctx context.Context, id string, o RestoreOptions) (*Container, error) {
	c, err := r.restore(ctx, id, o)
	return c, fault.In("restore", id, explainRights(err))
}

func (r *Runtime) restore(ctx context.Context, id string, o RestoreOptions) (*Container, error) {
	image, err := o.resolve()
	if err != nil {
		return nil, err
	}
	image.Program = r.CRIU
	if image.Dir, err = openImageDir(image.Path); err != nil {
		return nil, err
	}
	defer image.Dir.Close()
	if r.Isolation == "" && sandbox.HasImage(image.Dir) {
		in := *r
		in.Isolation = Sandbox
		r = &in
	}
	if len(o.Env) > 0 || o.Notify {
		return nil, &fault.Error{Kind: fault.BadUsage,
			Err: errors.New("the environment of a program that has been running can't be changed")}
	}
	if r.Isolation == Native && sandbox.HasImage(image.Dir) {
		return nil, &fault.Error{Step: "image " + image.Dir.Name(), Kind: fault.Unsupported,
			Err: errors.New("it is of a sandbox, which native isolation can't restore"), Hint: "leave --isolation out"}
	}
	return r.create(ctx, id, making{CreateOptions: o.CreateOptions, saved: &engine.RestoreRequest{
		Image: image, LSMProfile: o.LSMProfile, LSMMountContext: o.LSMMountContext,
	}})
}
