package rootfs

import (
	"math"
	"testing"
)

func TestShare(t *testing.T) {
	for _, tt := range []struct {
		descriptors uint64
		memory      int64
		trees       int
		want        uint64
	}{
		{1 << 20, 0, 1, manyFiles},
		{math.MaxUint64, -1, 1, manyFiles},
		{524288, 8 << 30, 1, manyFiles},
		{524288, 8 << 30, 4, manyFiles / 4},
		{65536, 0, 1, 8192},
		{65536, 0, 0, 8192},
		{1024, 0, 1, fewFiles},
		{0, 0, 1, fewFiles},
		{1 << 20, 128 << 20, 1, 2048},
		{1 << 20, 64 << 20, 1, 1024},
		{1 << 20, 4 << 20, 1, fewFiles},
		{1 << 20, math.MaxInt64, 40, fewFiles},
	} {
		if got := share(tt.descriptors, tt.memory, tt.trees); got != tt.want {
			t.Errorf("%d descriptors, %d bytes, %d trees: %d files each, want %d", tt.descriptors, tt.memory, tt.trees, got, tt.want)
		}
	}
}
