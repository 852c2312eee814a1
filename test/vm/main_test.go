package main

import "testing"

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		tests     selection
		pkg, want string
	}{
		{selection{rootRun: "A"}, "hull", "A"},
		{selection{rootRun: "A"}, "hull/internal/stub", ""},
		{selection{rootRun: "A", run: "B"}, "hull", "B"},
		{selection{rootRun: "A", run: "B"}, "hull/test/vm/life", "B"},
	} {
		if got := tt.tests.pattern(tt.pkg); got != tt.want {
			t.Errorf("%+v for %s: %q, want %q", tt.tests, tt.pkg, got, tt.want)
		}
	}
}
