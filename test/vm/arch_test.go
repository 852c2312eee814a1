package main

import (
	"strings"
	"testing"
)

// The unit of the tests writes to the line that is followed, whichever the architecture.
func TestArch(t *testing.T) {
	prints := map[string]bool{}
	for _, name := range []string{"amd64", "arm64"} {
		a, err := findArch(name)
		if err != nil {
			t.Fatal(err)
		}
		if unit := a.setup()["etc/systemd/system/hull-test.service"]; !strings.Contains(unit, "\nTTYPath="+a.tests+"\n") {
			t.Errorf("%s:\n%s", name, unit)
		}
		if strings.Contains(a.parameters, strings.TrimPrefix(a.tests, "/dev/")) {
			t.Errorf("%s: the console is the tests' line", name)
		}
		prints[a.fingerprint()] = true
	}
	if len(prints) != 2 {
		t.Errorf("different machines with the fingerprints %v", prints)
	}
	if _, err := findArch("riscv64"); err == nil {
		t.Error("riscv64 is no error")
	}
}
