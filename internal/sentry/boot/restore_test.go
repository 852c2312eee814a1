package boot

import (
	"slices"
	"testing"

	"hull/internal/sandbox/wire"
)

// What a restored network has no use for of descriptors stays the caller's, who closes them.
func TestKeepNetwork(t *testing.T) {
	s := &Sandbox{restoring: new(restoring)}
	for _, step := range []struct {
		what  string
		links []wire.Link
		left  []int
	}{
		{"malformed", []wire.Link{{Name: "eth0", Addresses: []wire.Prefix{{IP: []byte{1}}}}}, []int{7}},
		{"the first", []wire.Link{{Name: "eth0"}}, nil},
		{"one too many", []wire.Link{{Name: "eth0"}}, []int{7}},
	} {
		left, err := s.keepNetwork(&wire.Request{Op: wire.Network, Links: step.links}, []int{7})
		if !slices.Equal(left, step.left) || (err == nil) != (step.left == nil) {
			t.Errorf("%s: %v left, %v", step.what, left, err)
		}
	}
}
