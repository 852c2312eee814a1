package seccomp

import (
	"math/rand/v2"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// naive says what a profile means for one call, straight from the profile and without any of the compiler's stages:
// the package comment's sentences, one after the other.
func naive(s *specs.LinuxSeccomp, host specs.Arch, c Call) uint32 {
	listed := append([]specs.Arch{host}, s.Architectures...)
	abi := c.Arch
	if abi == specs.ArchX86_64 || abi == specs.ArchX32 {
		abi = naiveX86(listed, c)
	}
	foreign := uint32(unix.SECCOMP_RET_KILL_THREAD)
	if s.DefaultAction == specs.ActKillProcess {
		foreign = unix.SECCOMP_RET_KILL_PROCESS
	}
	if !slices.Contains(listed, abi) {
		return foreign
	}
	negative := c.Number >= 1<<31 && abi == specs.ArchX86_64 && !slices.Contains(listed, specs.ArchX32)
	fallback := naiveAction(s.DefaultAction, s.DefaultErrnoRet)
	if abi == specs.ArchX86_64 && c.Number == 1<<32-1 && !slices.Contains(listed, specs.ArchX32) {
		return fallback
	}
	newest := naiveNewest(s, abi)
	denies := !slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, s.DefaultAction)
	private := abi == specs.ArchARM && c.Number >= 0xf0000 && c.Number < 0xf0040
	if denies && newest > naiveBase(abi) && (c.Number > newest && !private || abi == specs.ArchS390X && c.Number == 0) {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}

	if negative {
		return foreign
	}

	best := naiveRule{}
	for _, r := range naiveRules(s, abi, c.Number) {
		switch {
		case r.ret == fallback:
		case len(r.args) == 0:
			return r.ret
		case !naiveMatch(abi, r.args, c):
		case best.args == nil || naiveBefore(r.args, best.args):
			best = r
		}
	}
	if best.args != nil {
		return best.ret
	}
	return fallback
}

// naiveX86 returns which of the two ABIs a number belongs to.
func naiveX86(listed []specs.Arch, c Call) specs.Arch {
	if c.Number&0x40000000 == 0 {
		return specs.ArchX86_64
	}
	if c.Number == 1<<32-1 && !slices.Contains(listed, specs.ArchX32) {
		return specs.ArchX86_64
	}
	return specs.ArchX32
}

func naiveBase(abi specs.Arch) uint32 {
	switch abi {
	case specs.ArchX32:
		return 0x40000000
	case specs.ArchMIPS, specs.ArchMIPSEL:
		return 4000
	case specs.ArchMIPS64, specs.ArchMIPSEL64:
		return 5000
	}
	return 0
}

func naiveNewest(s *specs.LinuxSeccomp, abi specs.Arch) uint32 {
	newest := uint32(0)
	for _, r := range s.Syscalls {
		for _, name := range r.Names {
			if n, ok := Number(abi, name); ok && n < 0xf0000 || ok && abi == specs.ArchX32 {
				newest = max(newest, n)
			}
			if n, _, ok := naiveMultiplexer(abi, name); ok {
				newest = max(newest, n)
			}
		}
	}
	return newest
}

type naiveRule struct {
	ret  uint32
	args []specs.LinuxSeccompArg
}

// naiveRules returns the rules for a number in the profile's order.
func naiveRules(s *specs.LinuxSeccomp, abi specs.Arch, number uint32) []naiveRule {
	var rules []naiveRule
	for _, r := range s.Syscalls {
		sets := [][]specs.LinuxSeccompArg{r.Args}
		indices := map[uint]bool{}
		for _, a := range r.Args {
			indices[a.Index] = true
		}
		if len(indices) < len(r.Args) {
			sets = nil
			for _, a := range r.Args {
				sets = append(sets, []specs.LinuxSeccompArg{a})
			}
		}
		ret := naiveAction(r.Action, r.ErrnoRet)
		for _, name := range r.Names {
			for _, set := range sets {
				set = naiveTrim(abi, set)
				if n, ok := Number(abi, name); ok && n == number {
					rules = append(rules, naiveRule{ret, set})
				}
				if n, selector, ok := naiveMultiplexer(abi, name); ok && n == number {
					behind := []specs.LinuxSeccompArg{{Index: 0, Value: selector, Op: specs.OpEqualTo}}
					for _, a := range set {
						if a.Index != 0 {
							behind = append(behind, a)
						}
					}
					rules = append(rules, naiveRule{ret, behind})
				}
			}
		}
	}
	return rules
}

// naiveTrim leaves out what always holds, and sorts by index.
func naiveTrim(abi specs.Arch, set []specs.LinuxSeccompArg) []specs.LinuxSeccompArg {
	var out []specs.LinuxSeccompArg
	for _, a := range set {
		if !naiveWide(abi) {
			a.Value, a.ValueTwo = a.Value&0xffffffff, a.ValueTwo&0xffffffff
		}
		if a.Op != specs.OpMaskedEqual || a.Value != 0 {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b specs.LinuxSeccompArg) int { return int(a.Index) - int(b.Index) })
	return out
}

func naiveWide(abi specs.Arch) bool {
	return !slices.Contains([]specs.Arch{specs.ArchX86, specs.ArchX32, specs.ArchARM, specs.ArchMIPS, specs.ArchMIPSEL, specs.ArchPPC}, abi)
}

func naiveMultiplexer(abi specs.Arch, name string) (number uint32, selector uint64, ok bool) {
	if !slices.Contains([]specs.Arch{specs.ArchX86, specs.ArchMIPS, specs.ArchMIPSEL, specs.ArchPPC, specs.ArchPPC64,
		specs.ArchPPC64LE, specs.ArchS390X}, abi) {
		return 0, 0, false
	}
	// The order of SYS_SOCKET… in linux/net.h.
	for i, n := range []string{"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair",
		"send", "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4",
		"recvmmsg", "sendmmsg"} {
		if n == name {
			return naiveBase(abi) + 102, uint64(i + 1), true
		}
	}
	// The numbers of SEMOP… in linux/ipc.h.
	selector, ok = map[string]uint64{"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12,
		"msgget": 13, "msgctl": 14, "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24}[name]
	return naiveBase(abi) + 117, selector, ok
}

func naiveMatch(abi specs.Arch, args []specs.LinuxSeccompArg, c Call) bool {
	for _, a := range args {
		v := c.Args[a.Index]
		if !naiveWide(abi) {
			v &= 0xffffffff
		}
		holds := false
		switch a.Op {
		case specs.OpEqualTo:
			holds = v == a.Value
		case specs.OpNotEqual:
			holds = v != a.Value
		case specs.OpLessThan:
			holds = v < a.Value
		case specs.OpLessEqual:
			holds = v <= a.Value
		case specs.OpGreaterThan:
			holds = v > a.Value
		case specs.OpGreaterEqual:
			holds = v >= a.Value
		case specs.OpMaskedEqual:
			holds = v&a.Value == a.ValueTwo&a.Value
		}
		if !holds {
			return false
		}
	}
	return true
}

// naiveBefore says whether a is asked before b.
func naiveBefore(a, b []specs.LinuxSeccompArg) bool {
	rank := func(o specs.LinuxSeccompOperator) int {
		return slices.Index([]specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpMaskedEqual,
			specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual}, o)
	}
	class := func(o specs.LinuxSeccompOperator) int { return []int{0, 0, 0, 1, 1, 2, 2}[rank(o)] }
	value := func(x specs.LinuxSeccompArg) uint64 {
		if x.Op == specs.OpMaskedEqual {
			return x.Value & x.ValueTwo
		}
		return x.Value
	}
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		switch {
		case x.Index != y.Index:
			return x.Index > y.Index
		case class(x.Op) != class(y.Op):
			return class(x.Op) < class(y.Op)
		case value(x) != value(y):
			return value(x) < value(y) == (class(x.Op) == 1)
		case x.Op != y.Op:
			return rank(x.Op) < rank(y.Op)
		case x.Op == specs.OpMaskedEqual && x.Value != y.Value:
			return x.Value > y.Value
		}
	}
	return len(a) < len(b)
}

func naiveAction(a specs.LinuxSeccompAction, errno *uint) uint32 {
	data := uint32(unix.EPERM)
	if errno != nil {
		data = uint32(*errno)
	}
	switch a {
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data
	}
	return map[specs.LinuxSeccompAction]uint32{
		specs.ActKill:        unix.SECCOMP_RET_KILL_THREAD,
		specs.ActKillThread:  unix.SECCOMP_RET_KILL_THREAD,
		specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS,
		specs.ActTrap:        unix.SECCOMP_RET_TRAP,
		specs.ActAllow:       unix.SECCOMP_RET_ALLOW,
		specs.ActLog:         unix.SECCOMP_RET_LOG,
		specs.ActNotify:      unix.SECCOMP_RET_USER_NOTIF,
	}[a]
}

// randomProfile returns a profile of few names and values, so that its rules meet.
func randomProfile(rnd *rand.Rand, archs []specs.Arch) *specs.LinuxSeccomp {
	pick := func(n int) bool { return rnd.IntN(n) == 0 }
	errno := func() *uint { e := uint(rnd.IntN(3)); return &e }
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActTrap, specs.ActLog,
		specs.ActTrace, specs.ActKill}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
		specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual}
	pool := randomNames(rnd, 2+rnd.IntN(40))
	s := &specs.LinuxSeccomp{DefaultAction: actions[rnd.IntN(len(actions))], Flags: []specs.LinuxSeccompFlag{}}
	if s.DefaultAction == specs.ActErrno && pick(2) {
		s.DefaultErrnoRet = errno()
	}
	for _, a := range archs {
		if pick(2) {
			s.Architectures = append(s.Architectures, a)
		}
	}
	for range rnd.IntN(12) {
		r := specs.LinuxSyscall{Action: actions[rnd.IntN(len(actions))]}
		if r.Action == specs.ActErrno {
			r.ErrnoRet = errno()
		}
		for range 1 + rnd.IntN(6) {
			r.Names = append(r.Names, pool[rnd.IntN(len(pool))])
		}
		if !pick(3) {
			for range 1 + rnd.IntN(3) {
				r.Args = append(r.Args, specs.LinuxSeccompArg{Index: uint(rnd.IntN(3)), Op: ops[rnd.IntN(len(ops))],
					Value: randomValue(rnd), ValueTwo: randomValue(rnd)})
			}
		}
		s.Syscalls = append(s.Syscalls, r)
	}
	return s
}

// randomNames returns names of which many are multiplexed or special somewhere.
func randomNames(rnd *rand.Rand, n int) []string {
	special := []string{"socket", "recv", "shmat", "semop", "socketcall", "ipc", "read", "setup", "set_tls", "execve", "nothing"}
	var pool []string
	for range n {
		if rnd.IntN(4) == 0 {
			pool = append(pool, special[rnd.IntN(len(special))])
			continue
		}
		id := rnd.IntN(nameCount)
		pool = append(pool, callName(uint16(id)))
	}
	return pool
}

func randomValue(rnd *rand.Rand) uint64 {
	values := []uint64{0, 1, 2, 5, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 5 << 32, 1<<63 + 1, 1<<64 - 1}
	return values[rnd.IntN(len(values))] + uint64(rnd.IntN(2))
}

// randomCall returns a call near what a profile mentions.
func randomCall(rnd *rand.Rand, s *specs.LinuxSeccomp, archs []specs.Arch) Call {
	c := Call{Arch: archs[rnd.IntN(len(archs))]}
	for i := range c.Args {
		c.Args[i] = randomValue(rnd)
	}
	switch rnd.IntN(8) {
	case 0:
		c.Number = uint32(rnd.IntN(600))
	case 1:
		c.Number = 0x40000000 | uint32(rnd.IntN(600))
	case 2:
		edges := []uint32{0, 102, 117, 4102, 1<<30 - 1, 1 << 30, 1<<31 - 1, 1 << 31, 3 << 30, 1<<32 - 2, 1<<32 - 1, 0xf0000, 0xf0005, 0xf003f, 0xf0040}
		c.Number = edges[rnd.IntN(len(edges))]
	default:
		if len(s.Syscalls) > 0 {
			names := s.Syscalls[rnd.IntN(len(s.Syscalls))].Names
			name := names[rnd.IntN(len(names))]
			c.Number, _ = Number(c.Arch, name)
			if n, selector, ok := naiveMultiplexer(c.Arch, name); ok && rnd.IntN(2) == 0 {
				c.Number, c.Args[0] = n, selector
			}
			c.Number += uint32(rnd.IntN(5)/2) - uint32(rnd.IntN(5)/4)
		}
	}
	return c
}
