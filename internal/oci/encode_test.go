package oci

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestEncode(t *testing.T) {
	full := specs.Spec{}
	n := 0
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() {
		if !slices.Contains(foreignSections, v.Type().Field(i).Name) {
			fill(v.Field(i), &n)
		}
	}
	odd := specs.Spec{Version: "1.0.2\x00\n\u2028\xff", Annotations: map[string]string{"<&>\"\\": ""}, Root: &specs.Root{},
		Process: &specs.Process{Env: []string{}, Args: []string{"a", ""}}, Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{}}}}}
	for name, s := range map[string]*specs.Spec{"full": &full, "odd": &odd, "empty": {}} {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(value(t, want), value(t, Encode(s))); diff != "" {
			t.Errorf("%s (-encoding/json +Encode):\n%s", name, diff)
		}
	}
}

func value(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}
