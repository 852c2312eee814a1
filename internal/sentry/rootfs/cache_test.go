package rootfs

import (
	"math"
	"testing"

	"hull/internal/sandbox/wire"
)

func TestShare(t *testing.T) {
	for _, tt := range []struct {
		descriptors       uint64
		memory            int64
		exclusive, shared int
		many, few         uint64
	}{
		{1 << 20, 0, 1, 0, manyFiles, least},
		{math.MaxUint64, -1, 1, 3, manyFiles, fewFiles},
		{524288, 8 << 30, 1, 30, manyFiles, fewFiles},
		{524288, 8 << 30, 4, 0, manyFiles / 4, least},
		{65536, 0, 1, 2, 8192, fewFiles},
		{65536, 0, 0, 2, least, fewFiles},
		{1024, 0, 1, 1, 128, 42},
		{0, 0, 1, 1, least, least},
		{1 << 20, 128 << 20, 1, 0, 2048, least},
		{1 << 20, 64 << 20, 1, 0, 1024, least},
		{1 << 20, 4 << 20, 1, 0, fewFiles, least},
		{1 << 20, math.MaxInt64, 40, 0, fewFiles, least},
		{65536, 0, 40, 0, 204, least},
	} {
		s := Share{Of: NewBudget(tt.descriptors)}
		if many, few := s.take(tt.memory, tt.exclusive, tt.shared); many != tt.many || few != tt.few {
			t.Errorf("%+v: %d and %d files each", tt, many, few)
		}
	}
}

// However many containers a sandbox has, what is kept open of their files leaves descriptors for their programs.
func TestBudget(t *testing.T) {
	const perFile, limit = 3, 65536
	b := NewBudget(limit)
	var open uint64
	var all []*Share
	for i := range wire.MaxMembers + 1 {
		s := &Share{Of: b, Pod: true}
		all = append(all, s)
		many, few := s.take(0, 1, 1)
		open += perFile * (many + few)
		if i < 3 && many < fewFiles {
			t.Errorf("container %d: %d files of its root", i, many)
		}
	}
	if open > limit*9/10 {
		t.Errorf("%d descriptors of %d", open, limit)
	}
	for _, s := range all {
		s.Return()
		s.Return() // nothing
	}
	if b.left != limit/allShare {
		t.Errorf("%d left, want %d", b.left, limit/allShare)
	}
}
