package rootfs

import (
	"sync"

	"golang.org/x/sys/unix"

	"hull/internal/oci"
)

// The kernel keeps files of a mount's open that no program uses any more, those that were used last, since to look one up again
// costs three calls of the host's. Who walks through more of them than it keeps, in whatever order, finds none of them again:
// find(1) over /usr takes five times as long then.
//
// Of a root that is the container's alone it keeps many. Where the host changes files, too, it keeps few: what is deleted there
// takes up room as long as it is open here, and what isn't has to be asked for each time anyway.
const (
	fewFiles  = 1000  // the file system's own figure
	manyFiles = 16384 // with which the kernel has become 70 MB larger, once so many were walked through
	least     = 16    // more than the deepest path that is common

	// An eighth of the descriptors that this process may have is a container's at most, and for the containers of a sandbox together
	// it is half of them, by which there are files for a sixth: one that was read and written has up to three. The other half
	// is for what programs use. Where services may have 2^19, as systemd lets them, five roots have all that they are to.
	limitShare  = 8
	allShare    = 6
	podShare    = 4        // of what is left, so that there is something for each who comes later
	memoryShare = 64 << 10 // bytes of the container's limit for each
)

// Descriptors is how many files this process may have open.
func Descriptors() uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return l.Cur
}

// Budget is how many files of the host's that no program uses a sandbox's kernel keeps open, of all its containers.
type Budget struct {
	mu          sync.Mutex
	descriptors uint64
	left        uint64
}

// NewBudget returns that of a process that may have so many descriptors.
func NewBudget(descriptors uint64) *Budget {
	return &Budget{descriptors: descriptors, left: descriptors / allShare}
}

// Share is what a container has of a Budget.
type Share struct {
	Of  *Budget
	Pod bool // other containers are to come, or there are some

	taken uint64
}

// Return gives it back, when the container's mounts have ended.
func (s *Share) Return() {
	s.Of.mu.Lock()
	defer s.Of.mu.Unlock()
	s.Of.left += s.taken
	s.taken = 0
}

// take returns how many files are kept open of each exclusive tree, and of each other. memory is the container's limit of it, or
// nothing above 0.
func (s *Share) take(memory int64, exclusive, shared int) (many, few uint64) {
	s.Of.mu.Lock()
	defer s.Of.mu.Unlock()
	want := uint64(manyFiles)
	if memory > 0 {
		want = min(want, uint64(memory)/memoryShare)
	}
	many = s.part(exclusive, max(want/uint64(max(exclusive, 1)), fewFiles))
	return many, s.part(shared, fewFiles)
}

// part takes so much for each of the trees, or less if there isn't as much. The budget is locked.
func (s *Share) part(trees int, each uint64) uint64 {
	if trees == 0 {
		return least // of none
	}
	most := min(s.Of.descriptors/limitShare, s.Of.left)
	if s.Pod {
		most = min(most, s.Of.left/podShare)
	}
	each = max(min(each, most/uint64(trees)), least)
	taken := min(each*uint64(trees), s.Of.left)
	s.Of.left -= taken
	s.taken += taken
	return each
}

// keep takes what the container has of the files that are kept open.
func (m *Mounts) keep() {
	exclusive, binds := 0, len(*m.Files)-1
	if !m.SharedRoot {
		exclusive++
	}
	if m.ExclusiveMounts {
		exclusive += binds
	}
	m.many, m.few = m.Kept.take(oci.MemoryLimit(m.Spec), exclusive, binds+1-exclusive)
}
