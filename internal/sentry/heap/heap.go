// Package heap has the kernel give memory for this program's heap in huge pages while the program starts.
//
// Until the first program of a container runs its kernel allocates 5 MB, which came as 1,200 pages, each by a fault of its own: a
// tenth of a start. As huge pages they are four. Where the host gives none (transparent_hugepage/enabled is "never"), nothing
// changes; where it gives them to all ("always"), nothing does either but what is given back.
//
// Go gets memory from the kernel in pieces of 4 MB and begins to use each at once, and what is used in small pages isn't given in
// huge ones any more. So more is needed in advance, and as soon as possible: the package imports next to nothing, and hence is
// initialized before almost all others.
package heap

import (
	"syscall"
	"unsafe"
)

const (
	hugePage = 2 << 20
	wanted   = 4 * hugePage // a power of two, as the size of a stack is; twice what a start needs, since it may lie across
)

// Advice of madvise(2).
const (
	madvHugepage      = 14
	madvNohugepage    = 15
	madvCold          = 20
	madvPopulateWrite = 23 // from Linux 5.14 on
)

// Of the process's memory, what is in huge pages.
var begin, size uintptr

func init() {
	done := make(chan bool)
	go func() {
		advise(extend())
		done <- true
	}()
	<-done
	go fill()
	// The goroutine ends, and Go has its stack for whatever it needs next: unlike what was allocated, not only when garbage is
	// collected, which would take a millisecond.
}

// extend has the calling goroutine's stack grow, and returns where it ends.
//
//go:noinline
func extend() (end uintptr) {
	deepen()
	const page = 8 << 10 // Go's
	var here byte
	return (uintptr(unsafe.Pointer(&here)) + page - 1) &^ (page - 1)
}

// deepen has a frame that needs a stack of the size wanted. It doesn't touch it.
func deepen()

func advise(end uintptr) {
	begin = (end - wanted + hugePage - 1) &^ (hugePage - 1)
	size = end&^(hugePage-1) - begin
	madvise(madvHugepage)
}

// fill has the first huge pages made, by another processor than the one that is about to use them, if there are two: to clear one takes a
// quarter of a millisecond.
func fill() {
	const used = 2 * hugePage // by each start
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, begin, used, madvPopulateWrite)
}

// GiveBack gives the kernel back what is free of huge pages that are used in part, once Go has released it: until they are divided
// all of each is there. What comes later comes in small pages.
func GiveBack() {
	madvise(madvNohugepage)
	madvise(madvCold) // divides them, see madvise_cold_or_pageout_pte_range in Linux's mm/madvise.c
}

func madvise(advice uintptr) {
	// It may not be obeyed anyway.
	_, _, _ = syscall.RawSyscall(syscall.SYS_MADVISE, begin, size, advice)
}
