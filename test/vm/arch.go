package main

import (
	"fmt"
	"runtime"
)

// arch is what the machine's architecture makes a difference to.
type arch struct {
	name       string      // Go's and Debian's
	qemu       []string    // the program and its arguments
	serial     [2][]string // the serial lines: of the console, and of the tests, which is the device tests
	parameters string      // of the kernel
	tests      string      // the device of the tests' line
}

var arches = []*arch{
	{
		name: "amd64",
		// With fast strings (ERMS, FSRM) the kernel clears and copies pages by `rep stosb` and `rep movsb`, which the emulator does byte by
		// byte: five times as slow as without. A fifth level of page tables is one more to walk.
		qemu:   []string{"qemu-system-x86_64", "-cpu", "max,-erms,-fsrm,-la57"},
		serial: [2][]string{{"-serial", "chardev:console"}, {"-serial", "chardev:tests"}},
		// On a busy host the kernel sees the emulated timer tick too seldom, when it looks for it at its start, and panics.
		parameters: "console=ttyS0 no_timer_check",
		tests:      "/dev/ttyS1",
	},
	{
		name: "arm64",
		// qemu's own way to sign pointers, for the one of the architecture is half of the emulator's time.
		qemu:       []string{"qemu-system-aarch64", "-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on"},
		serial:     [2][]string{{"-serial", "chardev:console"}, {"-device", "pci-serial,chardev=tests"}},
		parameters: "console=ttyAMA0",
		tests:      "/dev/ttyS0",
	},
}

func findArch(name string) (*arch, error) {
	for _, a := range arches {
		if a.name == name {
			return a, nil
		}
	}
	return nil, fmt.Errorf("no machine of architecture %q: amd64 or arm64", name)
}

// native tells whether this host runs the machine's programs.
func (a *arch) native() bool { return a.name == runtime.GOARCH }
