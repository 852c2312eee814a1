package boot

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/gomaxprocs"

	"hull/internal/sentry/heap"
	"hull/internal/sentry/platform"
)

// Of the 4 MiB that a kernel allocates until its first program runs one stays in use; to look for the others then would take a
// tenth of the start's processor time. So nothing is collected until the container has been there for a while, unless it needs
// far more by then.
const (
	quiet      = 250 * time.Millisecond
	quietLimit = 64 << 20 // bytes
)

// spare is how many more threads run Go than there are processors, until the container has been there for a while. A goroutine
// that waits in a system call keeps its right to run until Go's monitor takes that away, which looks as rarely as every 10 ms
// after a busy start. With two processors the two that wait for a mount's requests and its end were enough to stop everything
// else for as long. Later they would be in the way: each of a program's calls passes between a thread of Go's and one of the
// program's, and threads of Go's that look for work take the processors from both.
const spare = 2

// sampled is how many bytes are allocated between two that a heap profile shows, once it is kept: Go's own figure.
var sampled = runtime.MemProfileRate

// usual and hurried are by how much of what is in use the heap grows between two collections, in percent. A heap of less than
// 4 and 16 MiB isn't collected then.
const (
	usual   = 100
	hurried = 400
)

// collection is what says how often garbage is collected.
var collection struct {
	mu      sync.Mutex
	settled bool
	hurries int // how many are in a hurry
}

// putOffCollection has no garbage collected for the time being, nor any of it be profiled.
func putOffCollection() {
	runtime.MemProfileRate = 0
	collection.mu.Lock()
	defer collection.mu.Unlock()
	collection.settled = false
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(quietLimit)
}

// hurry has garbage collected more rarely until it is called with false, as often as with true. A collection begins when each
// goroutine has stopped for a moment, and one that fills memory doesn't until it has filled a gigabyte (memclr, memmove): whoever
// is to end its program would come after that.
func hurry(on bool) {
	collection.mu.Lock()
	defer collection.mu.Unlock()
	if on {
		collection.hurries++
	} else {
		collection.hurries--
	}
	if collection.settled {
		collect()
	}
}

// collect has garbage collected as often as it is to be. mu is locked.
func collect() {
	if collection.hurries > 0 {
		debug.SetGCPercent(hurried)
	} else {
		debug.SetGCPercent(usual)
	}
}

// settleSoon calls settle when the container has been there for a while. It may wait for its start for as long as it likes, and
// is to be small meanwhile.
func settleSoon() { time.AfterFunc(quiet, settle) }

// settle has garbage collected from then on, as usual, when what is left of the start was given back. As many threads run Go as
// there are processors then.
func settle() {
	gomaxprocs.SetBase(runtime.NumCPU())
	runtime.MemProfileRate = sampled
	collection.mu.Lock()
	collection.settled = true
	debug.SetMemoryLimit(math.MaxInt64)
	collect()
	collection.mu.Unlock()
	debug.FreeOSMemory()
	heap.GiveBack()
	platform.FollowWakeups(quiet)
}
