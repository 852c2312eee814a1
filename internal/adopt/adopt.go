// Package adopt has container engines know hull: it changes their configuration, and takes that back.
//
// A change is planned first, without touching anything, and says what it does. Engines that read further files beside their
// configuration get one of hull's own; of others' files every byte stays that isn't hull's, comments and unknown keys too. What
// comes out is read again, and has to be what went in with hull added: else nothing is changed.
package adopt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
)

// Names of the runtimes: the second makes sandboxes, since hull does so if it is called by that name.
const (
	Hull    = "hull"
	Sandbox = "hull-s"
)

// Runtime is one that an engine is told of.
type Runtime struct {
	Name string
	Path string // of the program
	Shim string // path of hull's own shim, for containerd; "" for runc's, which calls the program
	// Told says that the containerd that is installed hands options to any shim, as it does since 1.7: without them a runtime doesn't
	// know which isolation it is to have, nor of systemd's cgroups.
	Told bool
}

// program is what containerd starts for a runtime, or has its shim start.
func (r Runtime) program() string {
	if r.Shim != "" {
		return r.Shim
	}
	return r.Path
}

// Engines are those that this package knows.
var Engines = []string{"docker", "podman", "containerd", "crio"}

// backupSuffix is what the name of a file's copy ends in.
const backupSuffix = ".before-hull"

// Change is what becomes of a file.
type Change struct {
	Engine string
	File   string
	Before []byte   // nil: there is no such file
	After  []byte   // nil: there will be none
	Says   []string // what is different, a line each
	Next   string   // what the user does for the engine to see it, or ""
	own    bool     // the file is hull's alone: no backup
}

// Nothing tells whether all is as it should be.
func (c *Change) Nothing() bool {
	return bytes.Equal(c.Before, c.After) && (c.Before == nil) == (c.After == nil)
}

// Install plans to have an engine know runtimes, of which it forgets what it knew by their names. config is the file with its
// configuration, or of hull's own; "" is where the engine looks for it.
func Install(engine, config string, runtimes []Runtime) (*Change, error) {
	return plan(engine, config, runtimes)
}

// Uninstall plans to have an engine forget hull.
func Uninstall(engine, config string) (*Change, error) { return plan(engine, config, nil) }

func plan(engine, config string, runtimes []Runtime) (*Change, error) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == engine })
	if i < 0 {
		return nil, &fault.Error{Kind: fault.BadUsage, Err: fmt.Errorf("unknown engine %q, want %s", engine, strings.Join(Engines, ", "))}
	}
	k := kinds[i]
	if config == "" {
		var err error
		if config, err = k.file(); err != nil {
			return nil, err
		}
	}
	config, err := filepath.Abs(config)
	if err != nil {
		return nil, err
	}
	c := &Change{Engine: engine, File: config, Next: k.apply, own: k.own}
	if runtimes == nil {
		c.Next = k.forget
	}
	// A link may lead to where an administrator keeps all configuration.
	if real, err := filepath.EvalSymlinks(config); err == nil {
		c.File = real
	}
	if c.Before, err = os.ReadFile(c.File); errors.Is(err, fs.ErrNotExist) {
		c.Before = nil
	} else if err != nil {
		return nil, err
	} else if c.Before == nil {
		c.Before = []byte{}
	}
	if c.After, c.Says, err = k.edit(c.Before, runtimes); err != nil {
		return nil, &fault.Error{Step: c.File, Err: err, Hint: "nothing was changed"}
	}
	return c, nil
}

// kind is what is different between engines.
type kind struct {
	name  string
	file  func() (string, error)
	own   bool // file is hull's alone
	apply string
	// forget is what apply is after hull was taken out: Docker, told to read its configuration again, goes on to know what isn't
	// named in it any more.
	forget string
	// edit returns what file will be, nil for none, and what is different. before is nil if there is no file; no runtimes means
	// to forget all.
	edit func(before []byte, runtimes []Runtime) (after []byte, says []string, err error)
}

var kinds = []kind{
	{"docker", at("/etc/docker/daemon.json", "docker/daemon.json"), false, "systemctl reload docker; then docker run --runtime hull", "systemctl restart docker", editDocker},
	{"podman", at("/etc/containers/containers.conf.d/50-hull.conf", "containers/containers.conf.d/50-hull.conf"), true, "podman --runtime hull run", "", dropIn("podman", podmanText)},
	{"containerd", at("/etc/containerd/config.toml", ""), false, "systemctl restart containerd; a RuntimeClass has hull or hull-s as its handler", "systemctl restart containerd", editContainerd},
	{"crio", at("/etc/crio/crio.conf.d/50-hull.conf", ""), true, "systemctl restart crio; a RuntimeClass has hull or hull-s as its handler", "systemctl restart crio", dropIn("crio", crioText)},
}

// at returns where an engine of root's looks, and one of another user's, below its configuration.
func at(root, users string) func() (string, error) {
	return func() (string, error) {
		if os.Geteuid() == 0 || users == "" {
			return root, nil
		}
		dir, err := os.UserConfigDir()
		return filepath.Join(dir, users), err
	}
}

// Do makes the change. A file that is not hull's alone is copied first, unless there is a copy already: that is older.
func (c *Change) Do() (backup string, err error) {
	if c.Nothing() {
		return "", nil
	}
	if c.Before != nil && !c.own {
		backup = c.File + backupSuffix
		if _, err := os.Lstat(backup); errors.Is(err, fs.ErrNotExist) {
			err = write(backup, c.Before, c.File)
			if err != nil {
				return "", err
			}
		} else if err != nil {
			return "", err
		}
	}
	if c.After == nil {
		return backup, os.Remove(c.File)
	}
	made := linux.MissingDirs(filepath.Dir(c.File))
	if err = os.MkdirAll(filepath.Dir(c.File), 0o755); err == nil {
		err = write(c.File, c.After, c.File)
	}
	if err != nil {
		for _, dir := range made {
			_ = os.Remove(dir)
		}
	}
	return backup, err
}

// write makes a file whole, or not at all, with the mode and the owner of the one named like.
func write(file string, content []byte, like string) (err error) {
	mode, uid, gid := os.FileMode(0o644), -1, -1
	var st unix.Stat_t
	if err := unix.Stat(like, &st); err == nil {
		mode, uid, gid = os.FileMode(st.Mode&0o777), int(st.Uid), int(st.Gid)
	}
	defer func() { // whose name is nobody's business
		var p *fs.PathError
		var l *os.LinkError
		if errors.As(err, &p) {
			err = &fs.PathError{Op: p.Op, Path: file, Err: p.Err}
		} else if errors.As(err, &l) {
			err = &fs.PathError{Op: l.Op, Path: file, Err: l.Err}
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if uid >= 0 && (uid != os.Geteuid() || gid != os.Getegid()) {
		err = errors.Join(err, f.Chown(uid, gid))
	}
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
