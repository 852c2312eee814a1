package oci

import (
	"math"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestVersion(t *testing.T) {
	for v, want := range map[string]bool{
		"1.0.0": true, "1.0.2": true, "1.0.2-dev": true, "1.1.0": true, "1.1.0-rc.2": true, "1.2.0": true, "1.2.1": true,
		"1.2.1+dev": true, "1.3.0": true, "1.3.7": true, "1.3.0-rc.1+build.5": true, "1.0.0-rc5": true,
		"": false, "1": false, "1.0": false, "1.4.0": false, "1.4.0-rc.1": false, "2.0.0": false, "0.9.9": false,
		"v1.0.0": false, "1.0.0.0": false, "01.0.0": false, "1.00.0": false, "1.0.x": false, "1.0.0-": false,
		"1.0.0+": false, "1.0.0-a..b": false, "1.0.0-ä": false, " 1.0.0": false, "-1.0.0": false, "1.+2.0": false,
		"1.99999999999999999999.0": false,
	} {
		var k checker
		k.version(v)
		if got := len(k.mistakes) == 0; got != want {
			t.Errorf("%q: accepted %v, want %v", v, got, want)
		}
	}
	var k checker
	k.version(specs.Version)
	k.version(VersionMin)
	k.version(VersionMax)
	if len(k.mistakes) > 0 {
		t.Error(k.mistakes)
	}
}

// TestCheck is for specs made by a program, where values may stand that no file could bring in.
func TestCheck(t *testing.T) {
	s := &specs.Spec{Version: specs.Version, Root: &specs.Root{Path: "/"}}
	if warnings, err := Check(s); err != nil || len(warnings) > 0 {
		t.Errorf("warnings %q, error %v", warnings, err)
	}
	if err := Startable(&Config{Spec: s}); err == nil || err.Error() != "process: missing: there is nothing to start" {
		t.Errorf("Startable: %v", err)
	}
	s.Process = &specs.Process{Args: []string{"a"}, Cwd: "/"}
	if err := Startable(&Config{Spec: s}); err != nil {
		t.Error(err)
	}
	timeout := math.MaxInt
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/h", Timeout: &timeout}}}
	if _, err := Check(s); err == nil {
		t.Error("a timeout that overflows is accepted")
	}
}

func TestCheckProcess(t *testing.T) {
	p := &specs.Process{Args: []string{"a"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: []string{"X"}}}
	if warnings, err := CheckProcess(p); err != nil || len(warnings) != 1 {
		t.Errorf("warnings %q, error %v", warnings, err)
	}
	p.Cwd = ""
	if _, err := CheckProcess(p); err == nil || err.Error() != "process.cwd: missing, want an absolute path" {
		t.Errorf("got %v", err)
	}
}

// TestAmbientAlone has capabilities as Buildah writes them.
func TestAmbientAlone(t *testing.T) {
	all := []string{"CAP_CHOWN", "CAP_KILL"}
	c := &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Ambient: all}
	p := &specs.Process{Args: []string{"a"}, Cwd: "/", Capabilities: c}
	if warnings, err := CheckProcess(p); err != nil || len(warnings) > 0 {
		t.Errorf("warnings %q, error %v", warnings, err)
	}
	c.Inheritable = []string{"CAP_KILL"}
	if warnings, err := CheckProcess(p); err != nil || len(warnings) != 1 {
		t.Errorf("one is inheritable: warnings %q, error %v", warnings, err)
	}
}

func TestInside(t *testing.T) {
	for _, tt := range []struct {
		field, outer string
		want         bool
	}{
		{"root", "root", true},
		{"root.path", "root", true},
		{"mounts[2].options", "mounts", true},
		{"mounts[2].options", "mounts[2]", true},
		{`linux.sysctl "x"`, "linux.sysctl", true},
		{"rootfs", "root", false},
		{"mounts[20]", "mounts[2]", false},
		{"root", "root.path", false},
	} {
		if got := inside(tt.field, tt.outer); got != tt.want {
			t.Errorf("inside(%q, %q) = %v", tt.field, tt.outer, got)
		}
	}
	k := checker{broken: []string{"mounts[2].options[0]"}}
	if !k.isBroken(`mounts[2] "/proc"`) || k.isBroken(`mounts[3] "/proc"`) {
		t.Error("a mount's name isn't recognized")
	}
}

func TestOverlap(t *testing.T) {
	for _, tt := range []struct {
		a, aSize, b, bSize uint32
		want               bool
	}{
		{0, 1, 0, 1, true},
		{0, 10, 9, 1, true},
		{0, 10, 10, 1, false},
		{10, 1, 0, 10, false},
		{0, math.MaxUint32, 5, 1, true},
		{math.MaxUint32 - 1, 1, math.MaxUint32 - 1, 1, true},
		{math.MaxUint32 - 1, 1, 0, 1, false},
	} {
		if got := overlap(tt.a, tt.aSize, tt.b, tt.bSize); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestMountField(t *testing.T) {
	m := &specs.Mount{Destination: "/pr\noc"}
	if got, want := MountField(2, m), `mounts[2] "/pr\noc"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
