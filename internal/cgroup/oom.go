package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"

	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

// OOMKilled returns how many of the container's processes the kernel has killed for want of memory.
func (g *Group) OOMKilled() (uint64, error) {
	path, file := g.memoryEvents()
	if path == "" {
		return 0, nil
	}
	n, err := readKeyed(path, file, "oom_kill")
	if err != nil && !gone(err) {
		return 0, &fault.Error{Step: "count OOM kills", Err: err}
	}
	return n, nil
}

// memoryEvents returns where OOM kills are counted.
func (g *Group) memoryEvents() (path, file string) {
	if g.mode == V2 {
		return g.paths[unified], "memory.events"
	}
	return g.paths["memory"], "memory.oom_control"
}

// MemoryLimit returns the path of the file with the limit of memory, or "" if there is none.
func (g *Group) MemoryLimit() string {
	path, _ := g.memoryEvents()
	switch {
	case path == "":
		return ""
	case g.mode == V2:
		return path + "/memory.max"
	}
	return path + "/memory.limit_in_bytes"
}

// OOM returns a channel on which something comes whenever the container runs out of memory. It is closed when the
// container's cgroup is removed or ctx ends, and on v2 already when its last process is gone.
func (g *Group) OOM(ctx context.Context) (<-chan struct{}, error) {
	path, file := g.memoryEvents()
	if path == "" || !exists(path+"/"+file) {
		return nil, &fault.Error{Step: "watch for OOM", Kind: fault.Unsupported,
			Err: errors.New("the container has no memory cgroup")}
	}
	watch := watchV1
	if g.mode == V2 {
		watch = watchV2
	}
	events, next, err := watch(path)
	if err != nil {
		return nil, &fault.Error{Step: "watch for OOM", Err: err}
	}
	ch := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { events.Close() })
	go func() {
		defer close(ch)
		defer stop()
		defer events.Close()
		for {
			oom, err := next()
			if err != nil {
				return
			}
			if !oom {
				continue
			}
			select {
			case ch <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}

var errOver = errors.New("the cgroup is gone")

// watchV1 asks for events through cgroup.event_control (memory.rst of the v1 admin guide, section 9). next waits for
// one.
func watchV1(path string) (events *os.File, next func() (bool, error), err error) {
	control, err := os.Open(path + "/memory.oom_control")
	if err != nil {
		return nil, nil, err
	}
	defer control.Close() // the kernel keeps it
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("eventfd", err)
	}
	events = os.NewFile(uintptr(fd), "eventfd")
	if err := writeFile(path, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		events.Close()
		return nil, nil, err
	}
	return events, func() (bool, error) {
		var count [8]byte
		if _, err := events.Read(count[:]); err != nil {
			return false, err
		}
		// The removal of the cgroup is an event too.
		if !exists(path) {
			return false, errOver
		}
		return true, nil
	}, nil
}
