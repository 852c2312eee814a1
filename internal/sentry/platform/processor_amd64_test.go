package platform

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"gvisor.dev/gvisor/pkg/cpuid"
)

func TestLookAtCPU(t *testing.T) {
	LookAtCPU()
	got := cpuid.HostFeatureSet()
	want := cpuid.FeatureSet{Function: &cpuid.Native{}}
	if diff := cmp.Diff(want.ToStatic().ToFeatureSet().Function, got.Function); diff != "" {
		t.Errorf("what the processor is (-as asked each time +as remembered):\n%s", diff)
	}
	if got.FlagString() != want.FlagString() {
		t.Errorf("flags %q, want %q", got.FlagString(), want.FlagString())
	}
}

func BenchmarkCPU(b *testing.B) {
	b.Run("each", func(b *testing.B) {
		for b.Loop() {
			cpuid.FeatureSet{Function: &cpuid.Native{}}.Fixed()
		}
	})
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			cpuid.FeatureSet{Function: make(asked)}.Fixed()
		}
	})
}
