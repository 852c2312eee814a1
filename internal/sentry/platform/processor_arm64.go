package platform

import "gvisor.dev/gvisor/pkg/cpuid"

// LookAtCPU finds out what the processor is, in files of /proc.
func LookAtCPU() { cpuid.Initialize() }
