package caps

import (
	"bytes"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	lastOnce sync.Once
	last     int
)

// Last returns the number of the newest capability that the running kernel has. It asks once, at the first call.
func Last() int {
	lastOnce.Do(func() {
		n, ok := parseLast(os.ReadFile("/proc/sys/kernel/cap_last_cap"))
		if !ok {
			n = probeLast(inBoundingSet)
		}
		last = n
	})
	return last
}

// Supported returns the set of all capabilities that the running kernel has.
func Supported() Set { return upTo(Last()) }

// parseLast reads the content of cap_last_cap, which has one number.
func parseLast(content []byte, err error) (int, bool) {
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(content)), 10, 6) // 6 bits: the sets have 64
	return int(n), err == nil
}

// probeLast returns the highest number that known accepts, where known accepts 0 to some number and none above it.
func probeLast(known func(n int) bool) int {
	lo, hi := 0, 64 // known(lo), !known(hi)
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		if known(mid) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// inBoundingSet tells whether the kernel can say if capability n is in the bounding set; it answers EINVAL to a number
// that it doesn't know.
func inBoundingSet(n int) bool {
	_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
	return err == nil
}
