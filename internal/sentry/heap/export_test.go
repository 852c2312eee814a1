package heap

// Region is the memory that is in huge pages.
func Region() (from, bytes uintptr) { return begin, size }

// HugePage is the size of one.
const HugePage = hugePage
