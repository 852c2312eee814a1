package cgroup

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// heldInside are the files of a cgroup (version 2) whose limits the kernel of a sandbox holds.
var heldInside = []string{"cpu.max", "memory.max", "memory.oom.group", "pids.max"}

// Inside divides the limits of a container in a sandbox, whose processes are in a cgroup of that kernel's. Those of one that has
// joined others are in none of the host's; the first's limits are those of the host's cgroup, too, for the whole sandbox. files are
// what to write to which file there; " PERIOD" in cpu.max leaves the quota as it is. rest are the fields that can't be held there. r
// has passed check.
func Inside(r *specs.LinuxResources) (files map[string]string, rest []string) {
	if r == nil {
		return nil, nil
	}
	held, others := &specs.LinuxResources{Pids: r.Pids}, *r
	others.Pids, others.Unified = nil, nil
	others.HugepageLimits = nil // that kernel has no huge pages to limit
	if m := r.Memory; m != nil {
		held.Memory = &specs.LinuxMemory{Limit: m.Limit}
		left := *m
		left.Limit, left.UseHierarchy = nil, nil
		if value(m.Swap) == value(m.Limit) {
			left.Swap = nil // no swap, which is as the sandbox's cgroup says
		}
		others.Memory = &left
	}
	if c := r.CPU; c != nil {
		held.CPU = &specs.LinuxCPU{Quota: c.Quota, Period: c.Period}
		left := *c
		left.Quota, left.Period = nil, nil
		if value(left.Idle) == 0 {
			left.Idle = nil
		}
		if value(left.Burst) == 0 {
			left.Burst = nil
		}
		others.CPU = &left
	}
	p, err := planV2(held, func(string) (string, error) { return "", nil })
	if err != nil {
		panic("bug: " + err.Error()) // only swap, which is not in it, can be wrong
	}
	files = make(map[string]string)
	for _, w := range p {
		if slices.Contains(heldInside, w.file) { // memory.swap.max comes with memory.max
			files[w.file] = w.value
		}
	}
	for _, file := range sortedKeys(r.Unified) {
		if slices.Contains(heldInside, file) {
			files[file] = strings.TrimSpace(r.Unified[file])
		} else {
			rest = append(rest, resources+"unified["+quote(file)+"]")
		}
	}
	for _, w := range planV1(&others) {
		if !slices.Contains(rest, w.field) {
			rest = append(rest, w.field)
		}
	}
	return files, rest
}
