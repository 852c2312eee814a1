package device

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestAllows(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	fuse := Device{'c', 10, 229}
	rule := func(allow bool, major, minor *int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: major, Minor: minor, Access: access}
	}
	all := func(allow bool) specs.LinuxDeviceCgroup { return specs.LinuxDeviceCgroup{Allow: allow, Access: "rwm"} }
	for name, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  bool
	}{
		"no rules":               {nil, false},
		"nothing":                {[]specs.LinuxDeviceCgroup{all(false)}, false},
		"everything":             {[]specs.LinuxDeviceCgroup{all(true)}, true},
		"the device":             {[]specs.LinuxDeviceCgroup{all(false), rule(true, n(10), n(229), "rwm")}, true},
		"another":                {[]specs.LinuxDeviceCgroup{all(false), rule(true, n(10), n(200), "rwm")}, false},
		"its major number":       {[]specs.LinuxDeviceCgroup{all(false), rule(true, n(10), nil, "rw")}, true},
		"to be read":             {[]specs.LinuxDeviceCgroup{all(false), rule(true, n(10), n(229), "r")}, false},
		"read here, write there": {[]specs.LinuxDeviceCgroup{all(false), rule(true, n(10), nil, "r"), rule(true, n(10), n(229), "w")}, true},
		"all others":             {[]specs.LinuxDeviceCgroup{all(true), rule(false, n(10), n(229), "w")}, false},
		"allowed, then nothing":  {[]specs.LinuxDeviceCgroup{rule(true, n(10), n(229), "rwm"), all(false)}, false},
	} {
		a, err := New(c.rules)
		if err != nil {
			t.Fatal(name, err)
		}
		if got := a.Allows(fuse, Read|Write); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
