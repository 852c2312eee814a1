package hulltest

import (
	"testing"
	"time"
)

func TestPatient(t *testing.T) {
	for text, want := range map[string]time.Duration{"": time.Second, "1": time.Second, "10": 10 * time.Second} {
		t.Setenv(envPatience, text)
		if got := Patient(time.Second); got != want {
			t.Errorf("%s=%s: %v, want %v", envPatience, text, got, want)
		}
	}
	for _, text := range []string{"0", "-1", "1.5", "x"} {
		t.Run(text, func(t *testing.T) {
			t.Setenv(envPatience, text)
			defer func() {
				if recover() == nil {
					t.Error("taken")
				}
			}()
			Patient(time.Second)
		})
	}
}
