package boot

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/strace"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// levels are what is logged.
var levels = map[string]log.Level{"warning": log.Warning, "info": log.Info, "debug": log.Debug}

// debug writes what is asked for to the descriptor, which it takes over.
func (s *Sandbox) debug(r *wire.Request, fds []int) error {
	if len(fds) != 1 {
		return fmt.Errorf("%d descriptors to write to", len(fds))
	}
	f := os.NewFile(uintptr(fds[0]), "debug")
	defer f.Close()
	w := bufio.NewWriter(f)
	var err error
	switch r.Show {
	case wire.Stacks:
		_, err = w.Write(log.Stacks(true))
	case wire.Memory:
		err = s.showMemory(w)
	case wire.Files:
		s.showFiles(w)
	case wire.CPUProfile, wire.HeapProfile, wire.GoroutineProfile, wire.BlockProfile, wire.MutexProfile:
		err = profile(w, r.Show, r.Duration)
	case "":
	default:
		err = fmt.Errorf("%q: there is nothing of the kind", r.Show)
	}
	if err == nil {
		err = setLogged(r)
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

// profile writes a profile of this process.
func profile(w io.Writer, kind string, d time.Duration) error {
	if kind == wire.HeapProfile || kind == wire.GoroutineProfile {
		runtime.GC() // what is garbage is none of its memory
		return pprof.Lookup(kind).WriteTo(w, 0)
	}
	if d < wire.MinProfile || d > wire.MaxProfile {
		return fmt.Errorf("a profile of %v", d)
	}
	if !profiling.TryLock() {
		return &fault.Error{Kind: fault.BadState, Err: errors.New("another profile is being made")}
	}
	defer profiling.Unlock()
	switch kind {
	case wire.CPUProfile:
		if err := pprof.StartCPUProfile(w); err != nil {
			return err
		}
		time.Sleep(d)
		pprof.StopCPUProfile()
		return nil
	case wire.BlockProfile:
		runtime.SetBlockProfileRate(1)
		defer runtime.SetBlockProfileRate(0)
	case wire.MutexProfile:
		defer runtime.SetMutexProfileFraction(runtime.SetMutexProfileFraction(1))
	}
	time.Sleep(d)
	return pprof.Lookup(kind).WriteTo(w, 0)
}

// profiling is held by who makes a profile of a time: there is one of a kind at once.
var profiling sync.Mutex

// setLogged sets what is logged. Who asks for more than warnings has room for it in the log.
func setLogged(r *wire.Request) error {
	level, ok := levels[r.LogLevel]
	if !ok && r.LogLevel != "" {
		return fmt.Errorf("log level %q: there is none", r.LogLevel)
	}
	switch r.Trace {
	case "":
	case wire.TraceOff:
		strace.Disable(strace.SinkTypeLog)
	default:
		tracing.Do(strace.Initialize)
		if r.Trace == wire.TraceAll {
			strace.EnableAll(strace.SinkTypeLog)
		} else if err := strace.Enable(strings.Split(r.Trace, ","), strace.SinkTypeLog); err != nil {
			return &fault.Error{Kind: fault.BadUsage, Err: err}
		}
		if r.LogLevel == "" {
			level, ok = log.Info, log.Log().Level < log.Info // below that none of it is told
		}
	}
	if ok {
		log.SetLevel(level)
	}
	if r.Trace != "" && r.Trace != wire.TraceOff || ok && level > log.Warning {
		logged.left.Store(maxAsked)
	}
	return nil
}

var tracing sync.Once

// showMemory shows what memory the container's programs and files have, and the kernel itself, in bytes.
func (s *Sandbox) showMemory(w *bufio.Writer) error {
	if err := s.kernel.MemoryFile().UpdateUsage(nil); err != nil {
		return err
	}
	of, total := usage.MemoryAccounting.Copy()
	var own runtime.MemStats
	runtime.ReadMemStats(&own)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{
		"total": total, "anonymous": of.Anonymous, "pageCache": of.PageCache, "mapped": of.Mapped, "tmpfs": of.Tmpfs,
		"system": of.System,
		"kernel": map[string]uint64{"heap": own.HeapAlloc, "heapFromHost": own.HeapSys - own.HeapReleased, "stacks": own.StackSys,
			"goroutines": uint64(runtime.NumGoroutine())},
	})
}

// showFiles shows the files that processes have open: pid, descriptor, path.
func (s *Sandbox) showFiles(w *bufio.Writer) {
	ctx := s.kernel.SupervisorContext()
	pids := s.kernel.RootPIDNamespace()
	for _, tg := range pids.ThreadGroups() {
		leader := tg.Leader()
		if leader == nil {
			continue
		}
		var table *kernel.FDTable
		leader.WithMuLocked(func(t *kernel.Task) {
			if table = t.FDTable(); table != nil && !table.TryIncRef() {
				table = nil // it ends
			}
		})
		if table == nil {
			continue
		}
		table.ForEach(ctx, func(fd int32, file *vfs.FileDescription, _ kernel.FDFlags) bool {
			fmt.Fprintf(w, "%d %d %q\n", pids.IDOfThreadGroup(tg), fd, file.MappedName(ctx))
			return true
		})
		table.DecRef(ctx)
	}
}

// usage returns what the container's processes use.
func (c *container) usage() (*wire.Usage, error) {
	if c == c.root && c.members.count() == 0 {
		return c.group.usage(c.allMemory)
	}
	return c.group.usage(c.group.memory)
}

// allMemory returns how much memory there is but the kernel's own. All of that is a container's which is alone, also what is charged to
// cgroups that its programs have made and removed.
func (c *container) allMemory() (uint64, error) {
	m, err := c.memory()
	if err != nil {
		return 0, err
	}
	return m.Total - m.System, nil
}

// memory returns what the memory is used for.
func (c *container) memory() (*wire.MemoryKinds, error) {
	if err := c.kernel.MemoryFile().UpdateUsage(nil); err != nil {
		return nil, err
	}
	of, total := usage.MemoryAccounting.Copy()
	return &wire.MemoryKinds{System: of.System, Anonymous: of.Anonymous, PageCache: of.PageCache, Mapped: of.Mapped, Tmpfs: of.Tmpfs, Total: total}, nil
}
