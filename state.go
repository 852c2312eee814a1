package hull

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/native"
	"hull/internal/proc"
	"hull/internal/sandbox"
	"hull/internal/store"
)

// Status of a container (runtime.md, "State"; paused is runc's addition).
type Status string

const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// State of a container, in JSON as the OCI runtime-spec has it ("State"), with what runc adds.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      Status            `json:"status"`
	Bundle      string            `json:"bundle"`
	Isolation   Isolation         `json:"isolation"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"` // user name, or uid where it has none
}

// IDs returns the ids of all containers, in their order. Unlike List it looks at none of them: one may be being made, or damaged.
func (r *Runtime) IDs() ([]string, error) {
	dirs, err := r.store().Dirs()
	if err != nil {
		return nil, fault.In("list", "", err)
	}
	ids := make([]string, len(dirs))
	for i := range dirs {
		ids[i] = dirs[i].ID
	}
	return ids, nil
}

// List returns the states of all containers, ordered by id. A state that can't be read is reported by Warn and left
// out.
func (r *Runtime) List() ([]State, error) {
	dirs, err := r.store().Dirs()
	if err != nil {
		return nil, fault.In("list", "", err)
	}
	states := make([]State, 0, len(dirs))
	names := make(owners)
	for i := range dirs {
		s, err := listed(&dirs[i], names)
		switch {
		case err == nil:
			states = append(states, s)
		case errors.Is(err, ErrNotExist), errors.Is(err, os.ErrNotExist):
			// deleted since, or being created
		default:
			r.warn(fmt.Sprintf("%s: %v", dirs[i].ID, err))
		}
	}
	return states, nil
}

// listed is a container's state without reading its configuration.
func listed(dir *store.Dir, names owners) (State, error) {
	record, err := dir.Record()
	if err != nil {
		return State{}, err
	}
	return state(dir, record, names)
}

func state(dir *store.Dir, r *store.Record, names owners) (State, error) {
	now, err := status(dir, r)
	if err != nil {
		return State{}, err
	}
	s := State{
		OCIVersion: specs.Version, ID: r.ID, Status: now, Bundle: r.Bundle, Isolation: recordedIsolation(r), Rootfs: r.Rootfs,
		Created: r.Created, Annotations: r.Annotations, Owner: names.of(dir.Path),
	}
	if now != Stopped {
		s.Pid = r.Init.Pid
	}
	return s, nil
}

// status asks the kernel; see package store.
func status(dir *store.Dir, r *store.Record) (Status, error) {
	switch {
	case r.Init.Pid == 0 && dir.Locked():
		return Creating, nil
	case !proc.Alive(r.Init):
		return Stopped, nil
	}
	stopped, err := paused(dir, r)
	if err != nil {
		return "", err
	}
	switch {
	case stopped:
		return Paused, nil
	case native.Engine{}.Parked(dir.Path):
		return Created, nil
	}
	return Running, nil
}

func paused(dir *store.Dir, r *store.Record) (bool, error) {
	if recordedIsolation(r) == Sandbox {
		return sandbox.Paused(dir.Path)
	}
	return r.Cgroup.Frozen()
}

// owners are the names of users that were looked up.
type owners map[uint32]string

// of returns the name of the user who owns a file, or the number where it has none.
func (o owners) of(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return ""
	}
	name, ok := o[st.Uid]
	if !ok {
		name = strconv.FormatUint(uint64(st.Uid), 10)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		o[st.Uid] = name
	}
	return name
}
