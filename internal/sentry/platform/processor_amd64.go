package platform

import (
	"sync"
	_ "unsafe" // for linkname

	"gvisor.dev/gvisor/pkg/cpuid"
)

// Of gVisor's package cpuid. The linker finds out when they are gone.
var (
	//go:linkname initOnce gvisor.dev/gvisor/pkg/cpuid.initOnce
	initOnce sync.Once
	//go:linkname hostFeatureSet gvisor.dev/gvisor/pkg/cpuid.hostFeatureSet
	hostFeatureSet cpuid.FeatureSet
)

//go:linkname readMaxCPUFreq gvisor.dev/gvisor/pkg/cpuid.readMaxCPUFreq
func readMaxCPUFreq()

//go:linkname initHWCap gvisor.dev/gvisor/pkg/cpuid.initHWCap
func initHWCap()

// LookAtCPU is cpuid.Initialize, which asks the processor for each feature anew, some 300 times. On a virtual machine each
// is an exit to the hypervisor, and all together took longer than the kernel's initialization.
func LookAtCPU() {
	initOnce.Do(func() {
		hostFeatureSet = cpuid.FeatureSet{Function: make(asked)}.Fixed()
		readMaxCPUFreq()
		initHWCap()
	})
}

// asked is what the processor has answered. It implements cpuid.Function.
type asked map[cpuid.In]cpuid.Out

// Query implements cpuid.Function.
func (a asked) Query(in cpuid.In) cpuid.Out {
	out, ok := a[in]
	if !ok {
		if in.Eax != xSaveInfo || in.Ecx < 32 || a.hasState(in.Ecx) {
			out = (*cpuid.Native)(nil).Query(in)
		}
		a[in] = out
	}
	return out
}

// xSaveInfo is the leaf about the extended state of processors, with a sub-leaf for each part (Intel's Software Developer's
// Manual, vol. 2A, CPUID).
const xSaveInfo = 0xd

// hasState tells whether there is that part of the state: its bit is set in sub-leaf 0 if it is the user's, in sub-leaf 1 if
// it is the kernel's. The sub-leaves of others are zero; but a hypervisor may clear the bit of one that it then describes, and
// so those that there are on today's processors are asked for in any case.
func (a asked) hasState(part uint32) bool {
	user := a.Query(cpuid.In{Eax: xSaveInfo})
	kernel := a.Query(cpuid.In{Eax: xSaveInfo, Ecx: 1})
	have := uint64(user.Edx|kernel.Edx)<<32 | uint64(user.Eax|kernel.Ecx)
	return have>>part&1 != 0
}
