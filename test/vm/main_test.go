package main

import (
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		tests     selection
		pkg, want string
	}{
		{selection{rootRun: "A"}, "hull", "A"},
		{selection{rootRun: "A"}, "hull/internal/stub", ""},
		{selection{rootRun: "A", run: "B"}, "hull", "B"},
		{selection{rootRun: "A"}, "hull/test/engines", engineTests},
		{selection{run: "B"}, "hull/test/engines", "B"},
		{selection{rootRun: "A", run: "B"}, "hull/test/vm/life", "B"},
	} {
		if got := tt.tests.pattern(tt.pkg); got != tt.want {
			t.Errorf("%+v for %s: %q, want %q", tt.tests, tt.pkg, got, tt.want)
		}
	}
}

// Each flag is a word: guest.sh splits them.
func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		tests     selection
		pkg, want string
	}{
		{selection{}, "hull", ""},
		{selection{rootRun: "A"}, "hull", "-test.run A"},
		{selection{rootRun: "A", skip: "B"}, "hull", "-test.run A -test.skip B"},
		{selection{skip: sandboxTests}, "hull/internal/stub", "-test.skip " + sandboxTests},
	} {
		if got := tt.tests.flags(tt.pkg); got != tt.want {
			t.Errorf("%+v for %s: %q, want %q", tt.tests, tt.pkg, got, tt.want)
		}
	}
}

// A kernel is one package or, since Linux 7, three.
func TestKernelParts(t *testing.T) {
	const old = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-50-cloud-amd64\n"
	const split = `linux-image-7.2.13+deb14-cloud-amd64
  PreDepends: linux-base
 |Depends: dracut
  Depends: <linux-initramfs-tool>
  Depends: linux-base-7.2.13+deb14-cloud-amd64
  Depends: linux-binary-7.2.13+deb14-cloud-amd64
  Depends: linux-modules-7.2.13+deb14-cloud-amd64
  Suggests: grub-pc
`
	for depends, want := range map[string]string{
		old:   "linux-image-6.1.0-50-cloud-amd64",
		split: "linux-binary-7.2.13+deb14-cloud-amd64 linux-modules-7.2.13+deb14-cloud-amd64",
	} {
		if got := strings.Join(kernelParts(depends), " "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
