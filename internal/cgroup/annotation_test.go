package cgroup

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hull/internal/fault"
)

// TestAnnotated makes properties of a unit of the annotations that are meant to be some.
func TestAnnotated(t *testing.T) {
	props, err := annotated(map[string]string{
		"org.systemd.property.TimeoutStopSec":   "uint64 7",
		"org.systemd.property.CollectMode":      "'inactive-or-failed'",
		"org.systemd.property.After":            "['a.service', 'b.service']",
		"org.systemd.property.SendSIGHUP":       "true",
		"org.systemd.properties.SendSIGHUP":     "nonsense",
		"org.example.org.systemd.property.Mode": "nonsense",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []property{
		{Name: "After", Value: []string{"a.service", "b.service"}},
		{Name: "CollectMode", Value: "inactive-or-failed"},
		{Name: "SendSIGHUP", Value: true},
		{Name: "TimeoutStopUSec", Value: uint64(7_000_000)},
	}
	if diff := cmp.Diff(want, props); diff != "" {
		t.Errorf("properties (-want +got):\n%s", diff)
	}
}

// Each annotation that is no property is named, all of them at once.
func TestAnnotatedRefuses(t *testing.T) {
	props, err := annotated(map[string]string{
		"org.systemd.property.SendSIGHUP":     "true",
		"org.systemd.property.TimeoutStopSec": "soon",
		"org.systemd.property.a b":            "true",
	})
	if !errors.Is(err, fault.BadSpec) {
		t.Fatalf("annotated = %v, %v", props, err)
	}
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || len(joined.Unwrap()) != 2 {
		t.Fatalf("not two mistakes: %v", err)
	}
	for i, field := range []string{`annotations["org.systemd.property.TimeoutStopSec"]`, `annotations["org.systemd.property.a b"]`} {
		var e *fault.Error
		if !errors.As(joined.Unwrap()[i], &e) || e.Field != field {
			t.Errorf("mistake %d is %v, want field %s", i, joined.Unwrap()[i], field)
		}
	}
}
