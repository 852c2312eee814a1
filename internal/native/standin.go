package native

import (
	"context"
	"os"

	"hull/internal/engine"
	"hull/internal/stub"
)

// StandIn makes a container's cgroup and starts a stub in it, in the caller's namespaces: it is to stand for a process that is
// none of the host's.
func StandIn(ctx context.Context, r *engine.CreateRequest, extra ...*os.File) (_ *stub.Stub, err error) {
	if err := r.Cgroup.Create(); err != nil {
		return nil, err
	}
	dir, err := r.Cgroup.DirFD()
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
	}
	s, err := stub.Start(stub.Config{Extra: extra, Cgroup: dir, Trace: stub.TraceLines(r.Trace)})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Kill()
		}
	}()
	b := new(stub.Batch)
	r.JoinGroups(b)
	if err := s.Do(b); err != nil {
		return nil, err
	}
	if dir != nil && !s.InCgroup || dir == nil && len(r.Cgroup.TaskFiles()) == 0 {
		if err := r.Cgroup.Add(ctx, s.Pid); err != nil {
			return nil, err
		}
	}
	return s, r.Cgroup.Limit(ctx)
}
