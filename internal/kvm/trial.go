package kvm

import (
	"os"

	"hull/internal/sandbox/wire"
)

// Main is the command of hull-sandbox that tries a device for hull, see wire.ProbeKVM. It returns the exit status.
func Main(device string) int {
	tell := func(t wire.Trial, fds ...int) {
		if wire.Send(wire.TrialFD, t, fds...) != nil {
			os.Exit(1) // nobody is there any more
		}
	}
	f, err := Open(device, func(step string) { tell(wire.Trial{Step: step}) })
	if err != nil {
		tell(wire.Trial{Failure: wire.Fail(err)})
		return 1
	}
	tell(wire.Trial{}, int(f.Fd()))
	return 0
}
