package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A Call is one system call as a filter sees it.
type Call struct {
	Arch   specs.Arch
	Number uint32 // with x32's bit on x32
	Args   [maxArgs]uint64
}

// Simulate returns what p's filter returns for c, a SECCOMP_RET_* value with its data, and how many instructions that
// took. An architecture that is not in Archs is one that no filter lists.
func (p *Program) Simulate(c Call) (ret uint32, steps int, err error) {
	return run(p.Filter, c.words())
}

// Allows tells whether p's filter lets a call of this machine's through, with these first arguments.
func (p *Program) Allows(nr uint32, args ...uint64) bool {
	c := Call{Arch: native().name, Number: nr}
	copy(c.Args[:], args)
	ret, _, err := p.Simulate(c)
	return err == nil && (ret == unix.SECCOMP_RET_ALLOW || ret == unix.SECCOMP_RET_LOG)
}

// Denies tells whether p's filter makes a call of this machine's fail, or ends the caller for it. What a tracer or an agent
// is asked for is not denied.
func (p *Program) Denies(nr uint32, args ...uint64) bool {
	c := Call{Arch: native().name, Number: nr}
	copy(c.Args[:], args)
	ret, _, err := p.Simulate(c)
	if err != nil {
		return false
	}
	switch ret & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ERRNO, unix.SECCOMP_RET_TRAP, unix.SECCOMP_RET_KILL_THREAD, unix.SECCOMP_RET_KILL_PROCESS:
		return true
	}
	return false
}

// words returns struct seccomp_data (linux/seccomp.h) as the words that a filter can load.
func (c Call) words() (data [offArgs/4 + 2*maxArgs]uint32) {
	a := findArch(c.Arch)
	if a == nil {
		a = &arch{}
	}
	data[offNumber/4] = c.Number
	data[offArch/4] = a.audit
	for i, v := range c.Args {
		data[a.low(uint8(i))/4] = uint32(v)
		data[a.high(uint8(i))/4] = uint32(v >> 32)
	}
	return data
}

// A badFilter is what is wrong with a filter that Compile hasn't made.
type badFilter string

func (b badFilter) Error() string { return "bad filter: " + string(b) }

// run interprets the part of classic BPF that filters use, with the kernel's checks: bpf_check_classic and
// seccomp_check_filter.
func run(filter []unix.SockFilter, data [offArgs/4 + 2*maxArgs]uint32) (ret uint32, steps int, err error) {
	var acc uint32
	for pc := 0; pc < len(filter); pc++ {
		steps++
		in := filter[pc]
		yes := false
		switch in.Code {
		case opLoad:
			if in.K%4 != 0 || in.K/4 >= uint32(len(data)) {
				return 0, steps, badFilter(fmt.Sprintf("%d: load of offset %d", pc, in.K))
			}
			acc = data[in.K/4]
			continue
		case opAnd:
			acc &= in.K
			continue
		case opRet:
			return in.K, steps, nil
		case opJump:
			if in.K >= uint32(len(filter)) {
				return 0, steps, badFilter(fmt.Sprintf("%d: jump over %d", pc, in.K))
			}
			pc += int(in.K)
			continue
		case opJEQ:
			yes = acc == in.K
		case opJGT:
			yes = acc > in.K
		case opJGE:
			yes = acc >= in.K
		default:
			return 0, steps, badFilter(fmt.Sprintf("%d: code %#x", pc, in.Code))
		}
		if yes {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	return 0, steps, badFilter("runs off its end")
}
