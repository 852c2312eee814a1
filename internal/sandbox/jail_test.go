package sandbox

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// An error about the network's path names its place in the list: it has to be that of config.json.
func TestJailKeepsPlaceOfNetwork(t *testing.T) {
	types := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace, specs.UserNamespace}
	for place := range len(types) + 1 {
		s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
		for i := range len(types) + 1 {
			switch {
			case i < place:
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: types[i]})
			case i == place:
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/n"})
			default:
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: types[i-1]})
			}
		}
		got := jail(s, nil).Linux.Namespaces
		if len(got) != len(types)+1 || got[place] != s.Linux.Namespaces[place] {
			t.Errorf("place %d: %v", place, got)
		}
	}
	if got := jail(&specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}, nil).Linux.Namespaces; len(got) != len(types) {
		t.Errorf("with the host's network: %v", got)
	}
}
