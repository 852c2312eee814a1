package hull

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hull/internal/cgroup"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/oci"
	"hull/internal/rdt"
	"hull/internal/store"
)

// Runtime manages the containers below one state directory. The zero value is ready to use.
type Runtime struct {
	// Root is the directory of the states. Empty means DefaultRoot().
	Root string
	// SystemdCgroup lets systemd make the cgroups; linux.cgroupsPath is then slice:prefix:name.
	SystemdCgroup bool
	// Rootless says whether cgroups that can't be made are tolerated. Nil means: if the caller isn't root, or root only of a user
	// namespace.
	Rootless *bool
	// Isolation is that of the containers that are made. Empty means the one that the annotation run.hull.isolation of
	// their configuration names, or else Native.
	Isolation Isolation
	// SandboxProgram is the path of hull-sandbox, for Isolation Sandbox. Empty looks for it beside the running program and
	// in its ../libexec/hull.
	SandboxProgram string
	// Sandbox is what is chosen for Isolation Sandbox. With another there can be nothing.
	Sandbox SandboxOptions
	// CRIU is the path of the program that saves and restores containers of native isolation. Empty looks for criu in PATH.
	CRIU string
	// Trace is told a line for every step: each system call made for a container, with the field of config.json it
	// comes from, its result and its time. Nil means none.
	Trace func(line string)
	// Warn is told what was tolerated and should be known. Nil means none.
	Warn func(line string)
}

// DefaultRoot is /run/hull for root. For others, and for root of a user namespace with an ordinary user's environment, it is
// $XDG_RUNTIME_DIR/hull; if that is not set, /run/user/UID/hull where the user has a /run/user/UID.
func DefaultRoot() string { return store.DefaultRoot() }

// Stdio are the standard streams of a process without a terminal. Nil means /dev/null.
type Stdio struct {
	In, Out, Err *os.File
}

// Console takes the master of a terminal, which it has to close. It is called before the program at the other end runs,
// and is the place to set the terminal's size and modes. An error keeps the program from running.
type Console func(master *os.File) error

func (r *Runtime) rootless() bool {
	if r.Rootless != nil {
		return *r.Rootless
	}
	switch {
	case os.Geteuid() != 0:
		return true
	case r.SystemdCgroup: // systemd is the user's, or root's of a container
		return linux.OrdinaryRoot()
	}
	return linux.InUserNamespace()
}

func (r *Runtime) store() store.Store {
	if r.Root == "" {
		return store.Store{Root: DefaultRoot()}
	}
	return store.Store{Root: r.Root}
}

func (r *Runtime) trace(line string) {
	if r.Trace != nil {
		r.Trace(line)
	}
}

func (r *Runtime) warn(line string) {
	if r.Warn != nil {
		r.Warn(line)
	}
}

// Container returns the container with that id.
func (r *Runtime) Container(id string) (*Container, error) {
	c, err := r.open(id)
	return c, fault.In("", id, err)
}

func (r *Runtime) open(id string) (*Container, error) {
	dir, err := r.store().Open(id)
	if err != nil {
		return nil, err
	}
	return r.read(dir)
}

// read makes a Container of what a directory holds.
func (r *Runtime) read(dir *store.Dir) (*Container, error) {
	record, err := dir.Record()
	if errors.Is(err, os.ErrNotExist) {
		// Being made at this moment, or left by a creation that was killed: no container.
		return nil, &fault.Error{Kind: fault.NotExist, Err: fmt.Errorf("%w: %s has no state", fault.NotExist, dir.Path),
			Hint: "if no other command is creating it, delete --force removes what is left"}
	}
	if err != nil {
		return nil, damaged(err)
	}
	return r.recorded(dir, record)
}

// recorded makes a Container of its record and its configuration.
func (r *Runtime) recorded(dir *store.Dir, record *store.Record) (*Container, error) {
	raw, err := dir.Config()
	if err != nil {
		return nil, damaged(err)
	}
	cfg, err := oci.Parse(filepath.Join(dir.Path, "config.json"), raw)
	if err != nil {
		return nil, damaged(err)
	}
	group, err := cgroup.Open(record.Cgroup)
	if err != nil {
		return nil, damaged(err)
	}
	return &Container{runtime: r, engine: r.engine(recordedIsolation(record)), dir: dir, record: record, spec: cfg.Spec, raw: raw, group: group, rdt: rdt.Open(record.RDT)}, nil
}

func damaged(err error) error {
	return &fault.Error{Err: err, Hint: "delete --force takes away a container whose state is damaged"}
}
