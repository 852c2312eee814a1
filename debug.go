package hull

import (
	"errors"
	"fmt"
	"io"
	"time"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// DebugReport is what the kernel of a sandbox can show of itself.
type DebugReport string

const (
	DebugStacks DebugReport = wire.Stacks // what each of its goroutines does
	DebugMemory DebugReport = wire.Memory // what the memory is used for, in bytes, as JSON
	DebugFiles  DebugReport = wire.Files  // the open files of the processes: pid, descriptor and path

	// Profiles, which `go tool pprof` reads: of a time, or of the heap and the goroutines as they are.
	DebugCPU        DebugReport = wire.CPUProfile
	DebugHeap       DebugReport = wire.HeapProfile
	DebugGoroutines DebugReport = wire.GoroutineProfile
	DebugBlock      DebugReport = wire.BlockProfile // where goroutines wait for each other
	DebugMutex      DebugReport = wire.MutexProfile // where they have others wait
)

// lasts tells whether a report is one of a time.
func (r DebugReport) lasts() bool { return r == DebugCPU || r == DebugBlock || r == DebugMutex }

// DebugOptions say what a sandbox's kernel shows and logs. What is empty stays as it is.
type DebugOptions struct {
	Report   DebugReport
	Duration time.Duration // of a CPU, block or mutex profile, from a millisecond to 10 minutes
	LogLevel string        // warning, info, debug
	// Strace says of which system calls is logged what programs ask for and get: "off", "all", or names with commas between.
	Strace string
}

// Debug writes a report of a sandbox's kernel to w, and sets what it logs. It comes from somebody who is not to be trusted more than
// the container is.
func (c *Container) Debug(w io.Writer, o DebugOptions) error {
	return fault.In("debug", c.ID(), c.debug(w, o))
}

func (c *Container) debug(w io.Writer, o DebugOptions) error {
	k, ok := c.engine.(engine.Kernel)
	if !ok {
		return &fault.Error{Kind: fault.Unsupported, Err: errors.New("the container is in no sandbox: it has the host's kernel")}
	}
	if o.Report.lasts() && (o.Duration < wire.MinProfile || o.Duration > wire.MaxProfile) {
		return &fault.Error{Kind: fault.BadUsage, Err: fmt.Errorf("a profile of %v; from %v to %v are possible", o.Duration, wire.MinProfile, wire.MaxProfile)}
	}
	view := c.engineView()
	return k.Debug(&view, w, engine.DebugRequest{Show: string(o.Report), Duration: o.Duration, LogLevel: o.LogLevel, Trace: o.Strace})
}
