package cgroup

import (
	"errors"
	"io/fs"

	"hull/internal/fault"
)

// PeakMemory returns the most memory that the container's processes have used together, page cache included; 0 where the
// kernel doesn't tell (v2 before Linux 5.19).
func (g *Group) PeakMemory() (uint64, error) {
	path, file := g.paths["memory"], "memory.max_usage_in_bytes"
	if g.mode == V2 {
		path, file = g.paths[unified], "memory.peak"
	}
	if path == "" {
		return 0, nil
	}
	n, err := readUint(path, file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !gone(err) {
		return 0, &fault.Error{Step: "read the peak of memory", Err: err}
	}
	return n, nil
}

// MemoryLimitHit tells whether the container has wanted more memory than its own limit, rather than that of a cgroup above
// it, or the machine's.
func (g *Group) MemoryLimitHit() bool {
	if g.mode == V2 {
		n, err := readKeyed(g.paths[unified], "memory.events", "oom")
		return err == nil && n > 0
	}
	// Not every kernel counts in memory.failcnt. What comes close to the limit is what the kernel charges at once.
	const margin = 1 << 20
	path := g.paths["memory"]
	limit, err := readUint(path, "memory.limit_in_bytes")
	if err != nil {
		return false
	}
	peak, err := readUint(path, "memory.max_usage_in_bytes")
	return err == nil && peak+margin > limit
}
