package native_test

import (
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
)

// TestKeepOriginalGroups gives hull supplementary groups: a container gets its own instead, unless the annotation says
// otherwise, as crun(1) has it.
func TestKeepOriginalGroups(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	const caller, container = "groups 0 4321", "groups 77"
	tests := map[string]struct {
		annotations map[string]string
		want        string
	}{
		"none":    {nil, container},
		"1":       {map[string]string{"run.oci.keep_original_groups": "1"}, caller},
		"true":    {map[string]string{"run.oci.keep_original_groups": "true"}, caller},
		"empty":   {map[string]string{"run.oci.keep_original_groups": ""}, caller},
		"0":       {map[string]string{"run.oci.keep_original_groups": "0"}, container},
		"another": {map[string]string{"run.oci.keep_original_group": "1"}, container},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bundle := hulltest.Bundle(t, func(s *specs.Spec) {
				s.Annotations = test.annotations
				s.Process.User.AdditionalGids = []uint32{77}
				s.Process.Args = hulltest.Args("id")
			})
			out, status := output(t, as(hull(t, nil, "run", "--bundle", bundle, "c"), syscall.Credential{Groups: []uint32{0, 4321}}))
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if got := lines[len(lines)-1]; status != 0 || got != test.want {
				t.Errorf("exit status %d, %q, want %q", status, got, test.want)
			}
		})
	}
}
