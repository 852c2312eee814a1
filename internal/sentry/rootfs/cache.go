package rootfs

import (
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

	// An eighth of the descriptors that this process may have, since a file that was read and written has up to three, and a pod
	// more containers than one. Where services may have 2^19, as systemd lets them, there is room for ten roots.
	limitShare  = 8
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

// keptFiles returns how many unused files of each exclusive tree the kernel has open.
func (m *Mounts) keptFiles() uint64 {
	trees := 0
	if !m.SharedRoot {
		trees++
	}
	if m.ExclusiveMounts {
		trees += len(*m.Files) - 1
	}
	return share(m.Descriptors, oci.MemoryLimit(m.Spec), trees)
}

// share returns what each of the trees has of the files that are kept open: memory is the container's limit of it, or nothing
// above 0.
func share(descriptors uint64, memory int64, trees int) uint64 {
	n := min(manyFiles, descriptors/limitShare)
	if memory > 0 {
		n = min(n, uint64(memory)/memoryShare)
	}
	return max(n/uint64(max(trees, 1)), fewFiles)
}
