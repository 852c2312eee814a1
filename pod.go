package hull

import (
	"errors"
	"fmt"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/proc"
	"hull/internal/sandbox"
	"hull/internal/store"
)

// place returns the isolation of a container to be made and, for one that joins others in a sandbox, the first of these. Engines
// of Kubernetes say by annotations which one that is. Natively the containers of a pod have nothing in common but namespaces,
// which their configurations name.
func (r *Runtime) place(id string, s *specs.Spec) (Isolation, *Container, error) {
	isolation, err := r.isolation(s)
	if err != nil {
		return "", nil, err
	}
	first, field, err := sandbox.PodID(s.Annotations)
	if err != nil || first == "" {
		if isolation == Native {
			err = nil
		}
		return isolation, nil, err
	}
	record, err := r.recordOf(first)
	if isolation == Native && (err != nil || recordedIsolation(record) == Native) {
		// Some engines make pods without a first container: then there is none to be found.
		if errors.Is(err, ErrNotExist) && !r.isolates(s) {
			r.warn(fmt.Sprintf("%s: there is no container %q, in whose sandbox this one would be: it has native isolation", field, first))
		}
		return Native, nil, nil
	}
	switch {
	case first == id:
		err = fault.Spec(field, fmt.Sprintf("%q is this container, which can't join itself", first))
	case errors.Is(err, ErrNotExist):
		missing := fault.Spec(field, fmt.Sprintf("there is no container %q", first))
		missing.Hint = "a pod in a sandbox needs a first container: CRI-O makes it with drop_infra_ctr = false, Podman with --infra"
		err = missing
	case err != nil:
	case recordedIsolation(record) != Sandbox:
		err = fault.Spec(field, fmt.Sprintf("container %q has native isolation: there is no sandbox that could be joined", first))
	case record.Pod != "":
		err = fault.Spec(field, fmt.Sprintf("container %q has joined that of %q itself, which is the one to name", first, record.Pod))
	case isolation == Native && r.isolates(s):
		err = fault.Spec(field, fmt.Sprintf("container %q is in a sandbox: this one can't have native isolation", first))
	}
	if err != nil {
		return "", nil, err
	}
	pod, err := r.open(first)
	if err != nil {
		return "", nil, err
	}
	status, err := pod.status()
	if err == nil && status != Created && status != Running {
		err = &fault.Error{Field: field, Kind: fault.BadState, Err: fmt.Errorf("container %q, in whose sandbox this one would be, is %s", first, status)}
	}
	return Sandbox, pod, err
}

// isolates tells whether somebody has said which isolation a container gets.
func (r *Runtime) isolates(s *specs.Spec) bool {
	_, ok := s.Annotations[IsolationAnnotation]
	return ok || r.Isolation != ""
}

func (r *Runtime) recordOf(id string) (*store.Record, error) {
	dir, err := r.store().Open(id)
	if err != nil {
		return nil, err
	}
	return dir.Record()
}

// asPod is the container as the first of a sandbox that another one joins.
func (c *Container) asPod() *engine.Pod {
	return &engine.Pod{ID: c.ID(), Dir: c.dir.Path, Spec: c.spec, Init: c.record.Init, Overlaid: c.record.Overlaid, Member: c.memberWith}
}

// memberWith returns the id of the container in c's sandbox whose init has that pid, or "".
func (c *Container) memberWith(pid int) string {
	dirs, err := c.runtime.store().Dirs()
	if err != nil {
		return ""
	}
	for i := range dirs {
		r, err := dirs[i].Record()
		if err == nil && r.Pod == c.ID() && r.Init.Pid == pid && proc.Alive(r.Init) {
			return r.ID
		}
	}
	return ""
}

// pod returns the first container of the sandbox that c has joined, or nil.
func (c *Container) pod() *engine.Pod {
	switch {
	case c.joined != nil:
		return c.joined
	case c.record.Pod == "":
		return nil
	}
	return &engine.Pod{ID: c.record.Pod, Dir: filepath.Join(filepath.Dir(c.dir.Path), c.record.Pod)}
}

// podHint says of a container that has stopped that its sandbox has ended, if so.
func (c *Container) podHint(status Status) string {
	if c.record.Pod == "" || status != Stopped {
		return ""
	}
	if r, err := c.runtime.recordOf(c.record.Pod); err == nil && proc.Alive(r.Init) {
		return ""
	}
	return fmt.Sprintf("container %q, in whose sandbox it was, has stopped, too", c.record.Pod)
}
