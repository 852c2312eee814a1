package task

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MemPolicy holds the arguments of set_mempolicy(2).
type MemPolicy struct {
	Mode  int // with its flags
	Nodes Mask
}

// MaxNode returns the third argument of set_mempolicy(2): one more than the bits in the mask, because the kernel looks at
// maxnode-1 of them (get_nodes in mm/mempolicy.c; a known bug, kept for compatibility). 0 goes with no mask.
func (p MemPolicy) MaxNode() uint64 {
	if len(p.Nodes) == 0 {
		return 0
	}
	return uint64(len(p.Nodes))*64 + 1
}

// MemoryPolicy returns the arguments for linux.memoryPolicy. The rules are those of set_mempolicy(2).
func MemoryPolicy(p *specs.LinuxMemoryPolicy) (MemPolicy, error) {
	var errs []error
	mode, ok := memoryMode(p.Mode)
	if !ok {
		errs = append(errs, problem("linux.memoryPolicy.mode", "invalid memory policy mode %q", p.Mode))
	}
	flags, flagErrs := memoryFlags(p.Flags)
	errs = append(errs, flagErrs...)
	nodes, err := parseList(p.Nodes, maxNode)
	if err != nil {
		errs = append(errs, problem("linux.memoryPolicy.nodes", "invalid memory policy node %v", err))
	}
	if len(errs) == 0 {
		errs = append(errs, checkNodes(p.Mode, nodes), checkMemoryFlags(mode, flags, nodes))
	}
	if err := errors.Join(errs...); err != nil {
		return MemPolicy{}, err
	}
	return MemPolicy{mode | flags, nodes}, nil
}

func memoryMode(name specs.MemoryPolicyModeType) (int, bool) {
	switch name {
	case specs.MpolDefault:
		return unix.MPOL_DEFAULT, true
	case specs.MpolBind:
		return unix.MPOL_BIND, true
	case specs.MpolInterleave:
		return unix.MPOL_INTERLEAVE, true
	case specs.MpolWeightedInterleave:
		return unix.MPOL_WEIGHTED_INTERLEAVE, true
	case specs.MpolPreferred:
		return unix.MPOL_PREFERRED, true
	case specs.MpolPreferredMany:
		return unix.MPOL_PREFERRED_MANY, true
	case specs.MpolLocal:
		return unix.MPOL_LOCAL, true
	}
	return 0, false
}

func memoryFlags(names []specs.MemoryPolicyFlagType) (flags int, errs []error) {
	for i, name := range names {
		switch name {
		case specs.MpolFNumaBalancing:
			flags |= unix.MPOL_F_NUMA_BALANCING
		case specs.MpolFRelativeNodes:
			flags |= unix.MPOL_F_RELATIVE_NODES
		case specs.MpolFStaticNodes:
			flags |= unix.MPOL_F_STATIC_NODES
		default:
			errs = append(errs, problem(fmt.Sprintf("linux.memoryPolicy.flags[%d]", i), "invalid memory policy flag %q", name))
		}
	}
	return flags, errs
}

// checkNodes checks how many nodes the mode takes.
func checkNodes(mode specs.MemoryPolicyModeType, nodes Mask) error {
	const field = "linux.memoryPolicy.nodes"
	n := nodes.Count()
	switch mode {
	case specs.MpolDefault, specs.MpolLocal:
		if n != 0 {
			return problem(field, "%s mode requires 0 nodes but got %d", mode, n)
		}
	case specs.MpolPreferred:
		// With no node it means MPOL_LOCAL.
	default:
		if n == 0 {
			return problem(field, "%s mode requires at least one node", mode)
		}
	}
	return nil
}

// checkMemoryFlags checks the flags against each other and the mode. MPOL_DEFAULT would swallow them all.
func checkMemoryFlags(mode, flags int, nodes Mask) error {
	const (
		field     = "linux.memoryPolicy.flags"
		nodeFlags = unix.MPOL_F_STATIC_NODES | unix.MPOL_F_RELATIVE_NODES
	)
	switch {
	case flags&nodeFlags == nodeFlags:
		return problem(field, "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other")
	case flags&nodeFlags != 0 && nodes.Count() == 0:
		return problem(field, "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES want nodes")
	case flags&unix.MPOL_F_NUMA_BALANCING != 0 && mode != unix.MPOL_BIND && mode != unix.MPOL_PREFERRED_MANY:
		return problem(field, "MPOL_F_NUMA_BALANCING goes with MPOL_BIND or MPOL_PREFERRED_MANY")
	}
	return nil
}

// MemoryPolicies returns the modes and flags that MemoryPolicy takes, for features.
func MemoryPolicies() (modes, flags []string) {
	return []string{
			"MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE",
		}, []string{
			"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES",
		}
}
