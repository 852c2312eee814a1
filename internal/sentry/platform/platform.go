// Package platform makes what runs the programs of a sandbox, which gVisor calls a platform: systrap, for which the host's kernel
// is all it takes, or KVM. Both are gVisor's own. What is here fits them to the machine that they come to run on:
//
//   - what the host forbids is said in words, where the platform would panic (systrap.go, kvm.go);
//   - the processor is asked each question once (processor_amd64.go);
//   - systrap's first helper doesn't take the processor from who waits for it (sched.go), instructions are patched when they
//     were met often (patch.go), and nobody spins for what a sleeper gets sooner (spin_amd64.go).
//
// A process makes one platform, before its filter of system calls is there.
package platform

import (
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/platform/systrap"
)

// Platform runs programs.
type Platform = platform.Platform

// Later stands for a platform that is yet to be made. What a kernel asks of it until it runs a program is whether it has
// processors of its own to name, which none has.
func Later() Platform { return &systrap.Systrap{} }

// Check tells whether the host lets this process have a platform: KVM, if device is no -1.
func Check(device int) error {
	if device >= 0 {
		return nil // which New finds out by itself
	}
	return haveListener()
}

// New makes the platform, with that many processors: KVM, if device is no -1. It takes longer than all else of a sandbox's start.
func New(cpus, device int) (Platform, error) {
	LookAtCPU()
	ring0.InitDefault()
	if device >= 0 {
		return newKVM(cpus, device)
	}
	return newSystrap(cpus)
}
