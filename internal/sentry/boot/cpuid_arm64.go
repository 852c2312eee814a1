package boot

import "gvisor.dev/gvisor/pkg/cpuid"

// lookAtCPU finds out what the processor is, in files of /proc.
func lookAtCPU() { cpuid.Initialize() }
