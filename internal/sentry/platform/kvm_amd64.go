package platform

import (
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/sentry/platform/kvm"
)

// newKVM makes the platform that runs programs in a virtual machine of the host's, whose device that is. It makes all of the
// machine's processors, so that the filter needs to allow no more than to run them, and closes the device.
//
// The kernel in the sandbox runs in the machine, too, between a program's call and the next thing it asks of the host. So the
// machine has its memory, and mappings that Go's runtime makes are added to it by a filter that traps them.
func newKVM(cpus, device int) (p Platform, err error) {
	defer func() {
		if e := explainKVM(err, recover()); e != nil {
			p, err = nil, e
		}
	}()
	return kvm.New(fd.New(device), kvm.Config{ApplicationCores: cpus})
}
