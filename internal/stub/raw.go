package stub

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func siginfoBytes(info *unix.Siginfo) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(info)), unsafe.Sizeof(*info))
}

// Bytes returns the memory of a struct of the kernel's, for Batch.Const.
func Bytes[T any](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
