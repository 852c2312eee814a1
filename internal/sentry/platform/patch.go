package platform

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// patient is a platform that waits before it patches a program's text.
//
// systrap replaces an instruction that calls the kernel by a jump when it meets it for the first time. That makes each later
// call faster; but it takes the page away from the program and gives it a copy, by two system calls that a helper is asked
// for, and a fault: as long as some hundred calls, in each process anew. Few of a short program's instructions are met so often.
type patient struct {
	platform.Platform
	first atomic.Pointer[chan platform.AddressSpace] // what the first program is executed in, once it is made; or nil
}

// warm begins to make what the next program is executed in.
func (p *patient) warm() {
	made := make(chan platform.AddressSpace, 1)
	p.first.Store(&made)
	go func() {
		defer close(made)
		if as, err := p.Platform.NewAddressSpace(); err == nil { // else it fails again, for who can say so
			made <- as
		}
	}()
}

// NewAddressSpace implements platform.Platform. What is being made is waited for: to make another would take longer.
func (p *patient) NewAddressSpace() (platform.AddressSpace, error) {
	if made := p.first.Swap(nil); made != nil {
		if as, ok := <-*made; ok {
			return as, nil
		}
	}
	return p.Platform.NewAddressSpace()
}

// NewContext implements platform.Platform.
func (p *patient) NewContext(ctx context.Context) platform.Context {
	return &patientContext{Context: p.Platform.NewContext(ctx)}
}

const (
	patience = 16   // how often an instruction is met by a thread before it is patched
	maxSites = 1024 // how many are remembered; what comes then is patched at once
)

// patientContext is what the platform has of one thread. systrap asks for the task where it patches, and does without if
// there is none; and where it finds out that an instruction is one that was patched meanwhile.
type patientContext struct {
	platform.Context
	met map[uintptr]int // by the address behind the instruction
	now switching
}

// Switch implements platform.Context.
func (c *patientContext) Switch(ctx context.Context, mm platform.MemoryManager, ac *arch.Context64, cpu int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	c.now = switching{Context: ctx, of: c, ac: ac}
	info, at, err := c.Context.Switch(&c.now, mm, ac, cpu)
	if c.now.refused && info != nil && linux.Signal(info.Signo) == linux.SIGILL {
		// Perhaps of an instruction that another thread has patched: the program meets it again, and the platform sees.
		info, at, err = c.Context.Switch(ctx, mm, ac, cpu)
	}
	c.now = switching{}
	return info, at, err
}

// switching is the context of one call of Switch.
type switching struct {
	context.Context
	of      *patientContext
	ac      *arch.Context64
	refused bool
}

// Value implements context.Context.
func (s *switching) Value(key any) any {
	if key == kernel.CtxTask && !s.of.due(s.ac.IP()) {
		s.refused = true
		return nil
	}
	return s.Context.Value(key)
}

// Warningf implements log.Logger. systrap warns where it has found no task.
func (s *switching) Warningf(format string, v ...any) {
	if !s.refused {
		s.Context.Warningf(format, v...)
	}
}

// due tells whether the instruction before ip is to be patched.
func (c *patientContext) due(ip uintptr) bool {
	if c.met == nil {
		c.met = make(map[uintptr]int)
	}
	n, known := c.met[ip]
	if !known && len(c.met) >= maxSites {
		return true
	}
	c.met[ip] = n + 1
	return n+1 >= patience
}
