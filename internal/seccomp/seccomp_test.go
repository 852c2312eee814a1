package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hull/internal/fault"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	allow  = uint32(unix.SECCOMP_RET_ALLOW)
	kill   = uint32(unix.SECCOMP_RET_KILL_THREAD)
	eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

func errno(n uint) *uint { return &n }

// parse returns the profile in a JSON text.
func parse(t testing.TB, text string) *specs.LinuxSeccomp {
	t.Helper()
	var s specs.LinuxSeccomp
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// defaultProfile returns one of the size that engines use.
func defaultProfile(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	text, err := os.ReadFile("testdata/default.json")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

// mustCompile compiles for a host and checks what the kernel would.
func mustCompile(t testing.TB, s *specs.LinuxSeccomp, host specs.Arch) *Program {
	t.Helper()
	p, err := compile(s, findArch(host))
	if err != nil {
		t.Fatal(err)
	}
	checkFilter(t, p.Filter)
	return p
}

// checkFilter fails if the kernel wouldn't take the filter: all jumps must stay inside it and it must end in a return.
func checkFilter(t testing.TB, filter []unix.SockFilter) {
	t.Helper()
	if n := len(filter); n == 0 || n > maxInstructions || filter[n-1].Code != opRet {
		t.Fatalf("%d instructions, or no return at the end", n)
	}
	for pc, in := range filter {
		far := 0
		switch in.Code {
		case opJump:
			far = int(in.K)
		case opJEQ, opJGT, opJGE:
			far = int(max(in.Jt, in.Jf))
		}
		if pc+1+far >= len(filter) && in.Code != opRet {
			t.Fatalf("instruction %d jumps out of the filter", pc)
		}
	}
}

// simulate returns the filter's answer to a call by name.
func simulate(t *testing.T, p *Program, a specs.Arch, name string, args ...uint64) uint32 {
	t.Helper()
	number, ok := Number(a, name)
	if !ok {
		t.Fatalf("%s has no %s", a, name)
	}
	return simulateNumber(t, p, a, number, args...)
}

func simulateNumber(t *testing.T, p *Program, a specs.Arch, number uint32, args ...uint64) uint32 {
	t.Helper()
	c := Call{Arch: a, Number: number}
	copy(c.Args[:], args)
	ret, _, err := p.Simulate(c)
	if err != nil {
		t.Fatal(err)
	}
	return ret
}

func TestNumbers(t *testing.T) {
	for _, test := range []struct {
		arch specs.Arch
		name string
		want uint32
	}{
		{specs.ArchX86_64, "read", 0},
		{specs.ArchX86_64, "execve", 59},
		{specs.ArchX86_64, "openat2", 437},
		{specs.ArchX32, "read", 0x40000000},
		{specs.ArchX32, "execve", 0x40000000 + 520},
		{specs.ArchX32, "pwritev2", 0x40000000 + 547},
		{specs.ArchX86, "socketcall", 102},
		{specs.ArchX86, "_llseek", 140},
		{specs.ArchARM, "set_tls", 0xf0005},
		{specs.ArchARM, "send", 289},
		{specs.ArchAARCH64, "newfstatat", 79},
		{specs.ArchAARCH64, "execve", 221},
		{specs.ArchRISCV64, "execve", 221},
		{specs.ArchLOONGARCH64, "execve", 221},
		{specs.ArchMIPS, "read", 4003},
		{specs.ArchMIPSEL64, "read", 5000},
		{specs.ArchPPC64LE, "execve", 11},
		{specs.ArchS390X, "execve", 11},
	} {
		if got, ok := Number(test.arch, test.name); !ok || got != test.want {
			t.Errorf("%s on %s is %d, %v; want %d", test.name, test.arch, got, ok, test.want)
		}
	}
	for _, test := range []struct {
		arch specs.Arch
		name string
	}{
		{specs.ArchX86_64, "socketcall"},
		{specs.ArchX32, "uselib"},
		{specs.ArchX86_64, "nothing"},
		{specs.ArchX86_64, ""},
		{specs.ArchX86_64, "zzz"},
		{specs.ArchAARCH64, "open"},
		{specs.ArchPARISC, "read"},
	} {
		if got, ok := Number(test.arch, test.name); ok {
			t.Errorf("%s on %s is %d; want none", test.name, test.arch, got)
		}
	}
}

func TestLists(t *testing.T) {
	for name, list := range map[string][]string{"Actions": Actions(), "Operators": Operators(), "Archs": Archs()} {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("%s is not sorted: %q", name, list)
		}
	}
	for _, name := range Actions() {
		if _, bad, _ := action(specs.LinuxSeccompAction(name), nil); bad != "" {
			t.Errorf("%s: %s", name, bad)
		}
	}
	for _, name := range Operators() {
		if _, ok := operator(specs.LinuxSeccompOperator(name)); !ok {
			t.Errorf("%s is unknown", name)
		}
	}
	for _, name := range KnownFlags() {
		if _, ok := flagBit(specs.LinuxSeccompFlag(name)); !ok {
			t.Errorf("%s is unknown", name)
		}
	}
}

func TestNoSeccomp(t *testing.T) {
	for _, s := range []*specs.LinuxSeccomp{nil, {}, {Architectures: []specs.Arch{specs.ArchX86}}} {
		if p, err := Compile(s); p != nil || err != nil {
			t.Errorf("Compile(%v) = %v, %v; want nil, nil", s, p, err)
		}
	}
}

func TestActions(t *testing.T) {
	for _, test := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{specs.ActKill, nil, unix.SECCOMP_RET_KILL_THREAD},
		{specs.ActKillThread, nil, unix.SECCOMP_RET_KILL_THREAD},
		{specs.ActKillProcess, nil, unix.SECCOMP_RET_KILL_PROCESS},
		{specs.ActTrap, nil, unix.SECCOMP_RET_TRAP},
		{specs.ActErrno, nil, eperm},
		{specs.ActErrno, errno(0), unix.SECCOMP_RET_ERRNO},
		{specs.ActErrno, errno(100), unix.SECCOMP_RET_ERRNO | 100},
		{specs.ActTrace, nil, unix.SECCOMP_RET_TRACE | 1},
		{specs.ActTrace, errno(65535), unix.SECCOMP_RET_TRACE | 65535},
		{specs.ActAllow, nil, unix.SECCOMP_RET_ALLOW},
		{specs.ActLog, nil, unix.SECCOMP_RET_LOG},
		{specs.ActNotify, nil, unix.SECCOMP_RET_USER_NOTIF},
	} {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(7), ListenerPath: "/agent",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"close", "getpid"}, Action: test.action, ErrnoRet: test.errno}}}
		p := mustCompile(t, s, specs.ArchX86_64)
		if got := simulate(t, p, specs.ArchX86_64, "close"); got != test.want {
			t.Errorf("%s: rule answers %#x; want %#x", test.action, got, test.want)
		}
		if got := simulate(t, p, specs.ArchX86_64, "open"); got != unix.SECCOMP_RET_ERRNO|7 {
			t.Errorf("%s: default action answers %#x", test.action, got)
		}
		if p.Notify != (test.action == specs.ActNotify) {
			t.Errorf("%s: Notify is %v", test.action, p.Notify)
		}
	}
}

func TestOperators(t *testing.T) {
	const big = 5<<32 + 7 // differs in both words from what it is compared with
	for _, test := range []struct {
		op         specs.LinuxSeccompOperator
		value, two uint64
		yes, no    []uint64
		narrow     []uint64 // what holds for the low words alone
	}{
		{specs.OpEqualTo, big, 0, []uint64{big}, []uint64{7, 5 << 32, big + 1, big + 1<<32}, []uint64{7, 1<<40 + 7}},
		{specs.OpNotEqual, big, 0, []uint64{7, 5 << 32, big + 1, big + 1<<32}, []uint64{big}, []uint64{8, 5 << 32}},
		{specs.OpLessThan, big, 0, []uint64{0, 6, 7, 1<<32 + 9, big - 1}, []uint64{big, big + 1, 6 << 32, 1<<64 - 1}, []uint64{6, 6 << 32}},
		{specs.OpLessEqual, big, 0, []uint64{0, big - 1, big}, []uint64{big + 1, 6 << 32, 1<<64 - 1}, []uint64{7, 6 << 32}},
		{specs.OpGreaterThan, big, 0, []uint64{big + 1, 6 << 32, 1<<64 - 1}, []uint64{0, 8, big - 1, big}, []uint64{8, 9}},
		{specs.OpGreaterEqual, big, 0, []uint64{big, big + 1, 6 << 32}, []uint64{0, 8, big - 1}, []uint64{7, 8}},
		{specs.OpMaskedEqual, 0xf0000000f, 0x300000005, []uint64{0x300000005, 0xf0300000015}, []uint64{5, 3 << 32, 0x300000004}, []uint64{5, 0x25}},
		{specs.OpMaskedEqual, 0xf, 0xf5, []uint64{5, 1<<60 + 5}, []uint64{4, 0}, []uint64{0xf5}},
		{specs.OpMaskedEqual, 0xf << 32, 3 << 32, []uint64{3<<32 + 9}, []uint64{3, 4 << 32}, []uint64{0, 77}},
		{specs.OpMaskedEqual, 0, 9, []uint64{0, 9, 1 << 40}, nil, []uint64{0, 9}},
	} {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"close"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 5, Value: test.value, ValueTwo: test.two, Op: test.op}}}}}
		p := mustCompile(t, s, specs.ArchX86_64)
		check := func(a specs.Arch, values []uint64, want uint32) {
			for _, v := range values {
				if got := simulate(t, p, a, "close", 1, 2, 3, 4, 5, v); got != want {
					t.Errorf("%#x %s %#x (%#x) on %s: %#x; want %#x", v, test.op, test.value, test.two, a, got, want)
				}
			}
		}
		check(specs.ArchX86_64, test.yes, allow)
		check(specs.ArchX86_64, test.no, eperm)
		check(specs.ArchX86, test.narrow, allow)
		check(specs.ArchX32, test.narrow, allow)
	}
}

// TestRules has the sentences of the package comment about rules that meet.
func TestRules(t *testing.T) {
	type call struct {
		name string
		args []uint64
		want uint32
	}
	const (
		e1 = unix.SECCOMP_RET_ERRNO | 11
		e2 = unix.SECCOMP_RET_ERRNO | 12
	)
	for _, test := range []struct {
		name, rules string
		calls       []call
	}{
		{"args are ANDed", `[{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11,"args":[
			{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":2,"value":5,"op":"SCMP_CMP_GT"}]}]`,
			[]call{{"close", []uint64{1, 0, 6}, e1}, {"close", []uint64{1, 0, 5}, allow}, {"close", []uint64{2, 0, 6}, allow}}},
		{"args on one index are ORed", `[{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11,"args":[
			{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":5,"op":"SCMP_CMP_GT"},{"index":1,"value":9,"op":"SCMP_CMP_EQ"}]}]`,
			[]call{{"close", []uint64{1}, e1}, {"close", []uint64{6}, e1}, {"close", []uint64{2, 9}, e1}, {"close", []uint64{2, 8}, allow}}},
		{"rules are ORed", `[{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11,"args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
			{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":12,"args":[{"index":1,"value":1,"op":"SCMP_CMP_EQ"}]}]`,
			[]call{{"close", []uint64{1, 0}, e1}, {"close", []uint64{0, 1}, e2}, {"close", []uint64{1, 1}, e2}, {"close", []uint64{0, 0}, allow}}},
		{"no args wins over args", `[{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11,"args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
			{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":12}]`,
			[]call{{"close", []uint64{1}, e2}, {"close", []uint64{2}, e2}}},
		{"of two without args the first wins", `[{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11},
			{"names":["close","open"],"action":"SCMP_ACT_ERRNO","errnoRet":12}]`,
			[]call{{"close", nil, e1}, {"open", nil, e2}}},
		{"the more specific bound first", `[{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11,"args":[{"index":0,"value":5,"op":"SCMP_CMP_GE"}]},
			{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":12,"args":[{"index":0,"value":9,"op":"SCMP_CMP_GE"}]},
			{"names":["close"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]}]`,
			[]call{{"close", []uint64{4}, allow}, {"close", []uint64{5}, e1}, {"close", []uint64{9}, e2},
				{"close", []uint64{7}, unix.SECCOMP_RET_TRAP}}},
		{"a rule like the default action is none", `[{"names":["close"],"action":"SCMP_ACT_ALLOW"},
			{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":12}]`,
			[]call{{"close", nil, e2}}},
		{"the same rule twice", `[{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11,"args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
			{"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":11,"args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]`,
			[]call{{"close", []uint64{1}, e1}, {"close", []uint64{0}, allow}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := mustCompile(t, parse(t, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":`+test.rules+`}`), specs.ArchX86_64)
			for _, c := range test.calls {
				if got := simulate(t, p, specs.ArchX86_64, c.name, c.args...); got != c.want {
					t.Errorf("%s%v: %#x; want %#x", c.name, c.args, got, c.want)
				}
			}
		})
	}
}

func TestArchitectures(t *testing.T) {
	rules := []specs.LinuxSyscall{{Names: []string{"read", "open", "openat", "close", "clone3", "nothing"}, Action: specs.ActAllow}}
	type call struct {
		arch   specs.Arch
		number uint32
		want   uint32
	}
	for _, test := range []struct {
		name  string
		host  specs.Arch
		archs []specs.Arch
		calls []call
	}{
		{"native alone", specs.ArchX86_64, nil, []call{
			{specs.ArchX86_64, 0, allow}, {specs.ArchX86_64, 1, eperm}, {specs.ArchX86_64, 435, allow}, {specs.ArchX86_64, 436, enosys},
			{specs.ArchX86_64, x32Bit, kill}, {specs.ArchX86_64, x32Bit + 1000, kill}, {specs.ArchX86_64, 1<<32 - 2, kill},
			{specs.ArchX86_64, 1 << 31, enosys}, {specs.ArchX86_64, 1<<32 - 1, eperm}, {specs.ArchX86, 3, kill}, {specs.ArchAARCH64, 63, kill}, {"none", 0, kill}}},
		{"native implied", specs.ArchX86_64, []specs.Arch{specs.ArchX86}, []call{
			{specs.ArchX86_64, 0, allow}, {specs.ArchX86, 3, allow}, {specs.ArchX86, 4, eperm}, {specs.ArchX86, 436, enosys},
			{specs.ArchX86, 1<<32 - 1, enosys}, {specs.ArchX86_64, x32Bit, kill}}},
		{"x32", specs.ArchX86_64, []specs.Arch{specs.ArchX32}, []call{
			{specs.ArchX86_64, 0, allow}, {specs.ArchX32, x32Bit, allow}, {specs.ArchX32, x32Bit + 1, eperm},
			{specs.ArchX32, x32Bit + 435, allow}, {specs.ArchX32, x32Bit + 436, enosys}, {specs.ArchX86_64, 1<<32 - 1, enosys}}},
		{"arm64 and arm", specs.ArchAARCH64, []specs.Arch{specs.ArchARM}, []call{
			{specs.ArchAARCH64, 63, allow}, {specs.ArchAARCH64, 57, allow}, {specs.ArchAARCH64, 58, eperm}, {specs.ArchAARCH64, 436, enosys},
			{specs.ArchARM, 3, allow}, {specs.ArchARM, 4, eperm}, {specs.ArchARM, 436, enosys}, {specs.ArchARM, 0xf0005, eperm},
			{specs.ArchX86_64, 0, kill}}},
		{"mips64el and mipsel", specs.ArchMIPSEL64, []specs.Arch{specs.ArchMIPSEL}, []call{
			{specs.ArchMIPSEL64, 5000, allow}, {specs.ArchMIPSEL64, 5001, eperm}, {specs.ArchMIPSEL64, 0, eperm},
			{specs.ArchMIPSEL, 4003, allow}, {specs.ArchMIPSEL, 4436, enosys}, {specs.ArchMIPSEL, 4002, eperm}}},
		{"s390x", specs.ArchS390X, nil, []call{
			{specs.ArchS390X, 3, allow}, {specs.ArchS390X, 4, eperm}, {specs.ArchS390X, 0, enosys}, {specs.ArchS390X, 436, enosys}}},
		{"ppc64le", specs.ArchPPC64LE, nil, []call{{specs.ArchPPC64LE, 3, allow}, {specs.ArchPPC64LE, 4, eperm}, {specs.ArchPPC64, 3, kill}}},
		{"riscv64", specs.ArchRISCV64, nil, []call{{specs.ArchRISCV64, 63, allow}, {specs.ArchRISCV64, 64, eperm}}},
		{"loong64", specs.ArchLOONGARCH64, nil, []call{{specs.ArchLOONGARCH64, 63, allow}, {specs.ArchLOONGARCH64, 64, eperm}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := mustCompile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: test.archs, Syscalls: rules}, test.host)
			for _, c := range test.calls {
				if got := simulateNumber(t, p, c.arch, c.number); got != c.want {
					t.Errorf("%s %#x: %#x; want %#x", c.arch, c.number, got, c.want)
				}
			}
			if diff := cmp.Diff([]string{"nothing"}, p.Unknown); diff != "" {
				t.Errorf("Unknown (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNewerCalls has which default actions leave room for calls that are newer than the profile.
func TestNewerCalls(t *testing.T) {
	for action, want := range map[specs.LinuxSeccompAction]uint32{
		specs.ActErrno: enosys, specs.ActKill: enosys, specs.ActKillProcess: enosys, specs.ActTrap: enosys,
		specs.ActAllow: allow, specs.ActLog: unix.SECCOMP_RET_LOG, specs.ActTrace: unix.SECCOMP_RET_TRACE | 1,
	} {
		s := &specs.LinuxSeccomp{DefaultAction: action,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: errno(5)}}}
		if got := simulateNumber(t, mustCompile(t, s, specs.ArchX86_64), specs.ArchX86_64, 436); got != want {
			t.Errorf("%s: %#x; want %#x", action, got, want)
		}
	}
	t.Run("a rule like the default action counts", func(t *testing.T) {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"clone3"}, Action: specs.ActErrno}}}
		p := mustCompile(t, s, specs.ArchX86_64)
		if got := simulateNumber(t, p, specs.ArchX86_64, 435); got != eperm {
			t.Errorf("clone3: %#x", got)
		}
		if got := simulateNumber(t, p, specs.ArchX86_64, 436); got != enosys {
			t.Errorf("newer: %#x", got)
		}
	})
	t.Run("numbers with the sign bit", func(t *testing.T) {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
		if got := simulateNumber(t, mustCompile(t, s, specs.ArchX86_64), specs.ArchX86_64, 1<<31); got != kill {
			t.Errorf("without x32: %#x", got)
		}
		s.Architectures = []specs.Arch{specs.ArchX32}
		if got := simulateNumber(t, mustCompile(t, s, specs.ArchX86_64), specs.ArchX86_64, 1<<31); got != allow {
			t.Errorf("with x32: %#x", got)
		}
	})
	t.Run("no names, nothing newer", func(t *testing.T) {
		p := mustCompile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, specs.ArchX86_64)
		if got := simulateNumber(t, p, specs.ArchX86_64, 436); got != eperm {
			t.Errorf("%#x", got)
		}
	})
}

func TestMultiplexers(t *testing.T) {
	p := mustCompile(t, parse(t, `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[
		{"names":["connect","shmat","clone3"],"action":"SCMP_ACT_ALLOW"},
		{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"},{"index":1,"value":3,"op":"SCMP_CMP_EQ"}]}]}`),
		specs.ArchX86_64)
	for _, test := range []struct {
		arch specs.Arch
		name string
		args []uint64
		want uint32
	}{
		{specs.ArchX86, "connect", nil, allow},
		{specs.ArchX86, "socketcall", []uint64{3}, allow},
		{specs.ArchX86, "socketcall", []uint64{4}, eperm},
		{specs.ArchX86, "shmat", nil, allow},
		{specs.ArchX86, "ipc", []uint64{21}, allow},
		{specs.ArchX86, "ipc", []uint64{22}, eperm},
		{specs.ArchX86, "socket", []uint64{2, 3}, allow},
		{specs.ArchX86, "socket", []uint64{40, 3}, eperm},
		{specs.ArchX86, "socket", []uint64{2, 4}, eperm},
		{specs.ArchX86, "socketcall", []uint64{1, 3}, allow}, // the domain is behind a pointer
		{specs.ArchX86, "socketcall", []uint64{1, 4}, eperm},
		{specs.ArchX86_64, "connect", nil, allow},
		{specs.ArchX86_64, "socket", []uint64{40, 3}, eperm},
	} {
		if got := simulate(t, p, test.arch, test.name, test.args...); got != test.want {
			t.Errorf("%s %s%v: %#x; want %#x", test.arch, test.name, test.args, got, test.want)
		}
	}
}

func TestFlags(t *testing.T) {
	rules := `"syscalls":[{"names":["close"],"action":"SCMP_ACT_NOTIFY"}],"listenerPath":"/agent"`
	for _, test := range []struct {
		profile string
		want    uint
	}{
		{`{"defaultAction":"SCMP_ACT_ALLOW"}`, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{`{"defaultAction":"SCMP_ACT_ALLOW","flags":[]}`, 0},
		{`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_TSYNC"]}`, 0},
		{`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}`, unix.SECCOMP_FILTER_FLAG_LOG},
		{`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}`, 6},
		{`{"defaultAction":"SCMP_ACT_ALLOW","flags":[],` + rules + `}`, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
		{`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],` + rules + `}`,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
	} {
		if p := mustCompile(t, parse(t, test.profile), specs.ArchX86_64); p.Flags != test.want {
			t.Errorf("%s: %#x; want %#x", test.profile, p.Flags, test.want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		profile string
		want    []string
	}{
		{`{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`, []string{"linux.seccomp.defaultAction: missing"}},
		{`{"defaultAction":"SCMP_ACT_NOTIFY"}`, []string{"linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action"}},
		{`{"defaultAction":"ALLOW"}`, []string{`linux.seccomp.defaultAction: unknown action "ALLOW"`}},
		{`{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}`, []string{"linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW returns no errno"}},
		{`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}`, []string{"linux.seccomp.defaultErrnoRet: 4096 is above 4095"}},
		{`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","x86","SCMP_ARCH_PARISC","SCMP_ARCH_S390X"]}`, []string{
			`linux.seccomp.architectures[1]: unknown architecture "x86"`,
			"linux.seccomp.architectures[2]: the system call numbers of SCMP_ARCH_PARISC are not known here",
			"linux.seccomp.architectures[3]: SCMP_ARCH_S390X has another byte order than this host's SCMP_ARCH_X86_64"}},
		{`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}`, []string{
			`linux.seccomp.flags[0]: unknown flag "SECCOMP_FILTER_FLAG_NEW_LISTENER"`,
			"linux.seccomp.flags[1]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY"}},
		{`{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x","syscalls":[
			{"names":["read","write"],"action":"SCMP_ACT_NOTIFY"},
			{"names":[],"action":"SCMP_ACT_KILL","errnoRet":3},
			{"names":[""],"action":"","args":[{"index":6,"op":"SCMP_CMP_EQ"},{"index":1,"op":"=="}]}]}`, []string{
			"linux.seccomp.syscalls[0].names[1]: SCMP_ACT_NOTIFY cannot be used for the write syscall",
			"linux.seccomp.syscalls[1].errnoRet: SCMP_ACT_KILL returns no errno",
			"linux.seccomp.syscalls[1].names: no names",
			"linux.seccomp.syscalls[2].action: missing",
			"linux.seccomp.syscalls[2].names[0]: empty name",
			"linux.seccomp.syscalls[2].args[0].index: 6 is not between 0 and 5",
			`linux.seccomp.syscalls[2].args[1].op: unknown operator "=="`,
			"linux.seccomp.listenerPath: missing, and a rule has SCMP_ACT_NOTIFY",
			"linux.seccomp.listenerMetadata: set without listenerPath"}},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
			{"names":["read"],"action":"SCMP_ACT_KILL"},
			{"names":["close"],"action":"SCMP_ACT_KILL","args":[{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
			{"names":["close"],"action":"SCMP_ACT_TRAP","args":[{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}]}`, []string{
			"linux.seccomp.syscalls[2]: close on SCMP_ARCH_X86_64 has the same args as in syscalls[1] and another action"}},
	} {
		p, err := compile(parse(t, test.profile), findArch(specs.ArchX86_64))
		if err == nil || p != nil {
			t.Errorf("%s: %v, no error", test.profile, p)
			continue
		}
		if diff := cmp.Diff(test.want, strings.Split(err.Error(), "\n")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.profile, diff)
		}
		if !errors.Is(err, fault.BadSpec) && !errors.Is(err, fault.Unsupported) {
			t.Errorf("%v has no kind", err)
		}
		if f := new(fault.Error); !errors.As(err, &f) {
			t.Errorf("%v is no *fault.Error", err)
		}
	}
	if _, err := compile(parse(t, `{"defaultAction":"SCMP_ACT_ALLOW"}`), nil); !errors.Is(err, fault.Unsupported) {
		t.Errorf("unknown host: %v", err)
	}
}

// TestLongPrograms has programs in which jumps are farther than a byte, up to the kernel's limit.
func TestLongPrograms(t *testing.T) {
	profile := func(rules int) *specs.LinuxSeccomp {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		for i := range rules {
			id := (i * 7) % nameCount
			s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{callName(uint16(id)), "close"},
				Action: specs.ActErrno, ErrnoRet: errno(uint(100 + i)),
				Args: []specs.LinuxSeccompArg{{Index: 1, Value: uint64(i) << 31, Op: specs.OpEqualTo}, {Index: 3, Value: uint64(i), Op: specs.OpLessThan}}})
		}
		return s
	}
	s := profile(150)
	p := mustCompile(t, s, specs.ArchX86_64)
	if len(p.Filter) < 1000 {
		t.Errorf("only %d instructions", len(p.Filter))
	}
	for _, c := range s.Syscalls {
		for _, name := range c.Names {
			number, ok := Number(specs.ArchX86_64, name)
			if !ok {
				continue
			}
			for _, third := range []uint64{0, 200} {
				call := Call{Arch: specs.ArchX86_64, Number: number, Args: [6]uint64{1: c.Args[0].Value, 3: third}}
				got, _, err := p.Simulate(call)
				if want := naive(s, specs.ArchX86_64, call); err != nil || got != want {
					t.Fatalf("%+v: %#x, %v; want %#x", call, got, err, want)
				}
			}
		}
	}
	_, err := compile(profile(900), findArch(specs.ArchX86_64))
	if err == nil || !strings.HasSuffix(err.Error(), "instructions; the kernel takes 4096") {
		t.Errorf("900 rules: %v", err)
	}
}

// TestDefaultProfile holds the length of a usual filter and of the way through it.
func TestDefaultProfile(t *testing.T) {
	s := defaultProfile(t)
	p := mustCompile(t, s, specs.ArchX86_64)
	longest, longestPlain := 0, 0 // of calls that are decided by their number alone
	withArgs := []string{"socket", "personality", "clone"}
	for number := range uint32(600) {
		c := Call{Arch: specs.ArchX86_64, Number: number}
		ret, steps, err := p.Simulate(c)
		if want := naive(s, specs.ArchX86_64, c); err != nil || ret != want {
			t.Errorf("%d: %#x, %v; want %#x", number, ret, err, want)
		}
		longest = max(longest, steps)
		if !slices.ContainsFunc(withArgs, func(name string) bool { n, _ := Number(specs.ArchX86_64, name); return n == number }) {
			longestPlain = max(longestPlain, steps)
		}
	}
	t.Logf("%d instructions, at most %d for a call, %d for one without args", len(p.Filter), longest, longestPlain)
	if len(p.Filter) > 300 || longest > 22 || longestPlain > 12 {
		t.Error("want at most 300, 22 and 12")
	}
	if len(p.Unknown) != 0 {
		t.Errorf("unknown: %q", p.Unknown)
	}
}

// hosts are those that random profiles are for, with architectures of their byte order.
var hosts = map[specs.Arch][]specs.Arch{
	specs.ArchX86_64:  {specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
	specs.ArchAARCH64: {specs.ArchAARCH64, specs.ArchARM, specs.ArchX86},
	specs.ArchX86:     {specs.ArchX86, specs.ArchX86_64},
	specs.ArchS390X:   {specs.ArchS390X, specs.ArchPPC, specs.ArchPPC64},
	specs.ArchMIPS64:  {specs.ArchMIPS64, specs.ArchMIPS},
	specs.ArchPPC64LE: {specs.ArchPPC64LE, specs.ArchMIPSEL64, specs.ArchMIPSEL, specs.ArchRISCV64, specs.ArchLOONGARCH64},
}

// compare fails if the filter of a random profile and naive disagree. It returns false if the profile is refused.
func compare(t *testing.T, rnd *rand.Rand, host specs.Arch) bool {
	s := randomProfile(rnd, hosts[host])
	p, err := compile(s, findArch(host))
	if err != nil {
		if !strings.Contains(err.Error(), "has the same args") {
			t.Fatalf("%v", err)
		}
		return false
	}
	checkFilter(t, p.Filter)
	for range 60 {
		c := randomCall(rnd, s, hosts[host])
		got, _, err := p.Simulate(c)
		if want := naive(s, host, c); err != nil || got != want {
			text, _ := json.Marshal(s)
			t.Fatalf("host %s, call %+v: %#x, %v; want %#x\n%s", host, c, got, err, want, text)
		}
	}
	return true
}

func TestRandomProfiles(t *testing.T) {
	for host := range hosts {
		t.Run(string(host), func(t *testing.T) {
			const rounds = 300
			compiled := 0
			for seed := range uint64(rounds) {
				if compare(t, rand.New(rand.NewPCG(seed, 1)), host) {
					compiled++
				}
			}
			if compiled < rounds*7/10 {
				t.Errorf("only %d of %d profiles compiled", compiled, rounds)
			}
		})
	}
}

func FuzzRandomProfile(f *testing.F) {
	f.Add(uint64(1), uint64(2), "SCMP_ARCH_X86_64")
	f.Add(uint64(3), uint64(4), "SCMP_ARCH_S390X")
	f.Fuzz(func(t *testing.T, a, b uint64, host string) {
		if hosts[specs.Arch(host)] == nil {
			t.Skip("no such host")
		}
		compare(t, rand.New(rand.NewPCG(a, b)), specs.Arch(host))
	})
}

// FuzzCompile compiles what a config.json can hold: a program that the kernel takes, or mistakes with fields.
func FuzzCompile(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_KILL","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["read"],"action":"SCMP_ACT_TRACE",
		"errnoRet":7,"args":[{"index":1,"value":3,"op":"SCMP_CMP_GE"},{"index":1,"value":18446744073709551615,"valueTwo":5,"op":"SCMP_CMP_MASKED_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s specs.LinuxSeccomp
		if json.Unmarshal(text, &s) != nil {
			t.Skip("no profile")
		}
		p, err := Compile(&s)
		if err != nil {
			if f := new(fault.Error); !errors.As(err, &f) || !strings.HasPrefix(f.Field, "linux.seccomp") {
				t.Errorf("no field: %v", err)
			}
			return
		}
		if p == nil {
			return
		}
		checkFilter(t, p.Filter)
		for number := range uint32(500) {
			c := Call{Arch: native().name, Number: number}
			got, _, err := p.Simulate(c)
			if want := naive(&s, native().name, c); err != nil || got != want {
				t.Fatalf("%d: %#x, %v; want %#x", number, got, err, want)
			}
		}
	})
}

func TestAllows(t *testing.T) {
	p, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, ListenerPath: "/agent", Syscalls: []specs.LinuxSyscall{
		{Names: []string{"sendmsg"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 3, Op: specs.OpEqualTo}}},
		{Names: []string{"write"}, Action: specs.ActLog},
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify},
		{Names: []string{"execve"}, Action: specs.ActTrace},
		{Names: []string{"ptrace"}, Action: specs.ActKillProcess},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		nr             uint32
		arg            uint64
		allows, denies bool
	}{
		{unix.SYS_SENDMSG, 3, true, false}, {unix.SYS_SENDMSG, 4, false, true}, {unix.SYS_WRITE, 0, true, false},
		{unix.SYS_MKDIRAT, 0, false, false}, {unix.SYS_REBOOT, 0, false, true},
		{unix.SYS_EXECVE, 0, false, false}, {unix.SYS_PTRACE, 0, false, true},
	} {
		if got := p.Allows(tt.nr, tt.arg); got != tt.allows {
			t.Errorf("call %d with argument %d is allowed: %v", tt.nr, tt.arg, got)
		}
		if got := p.Denies(tt.nr, tt.arg); got != tt.denies {
			t.Errorf("call %d with argument %d is denied: %v", tt.nr, tt.arg, got)
		}
	}
}

func TestSimulateBadFilters(t *testing.T) {
	for name, filter := range map[string][]unix.SockFilter{
		"empty":      nil,
		"no return":  {{Code: opLoad}},
		"bad load":   {{Code: opLoad, K: 64}, {Code: opRet}},
		"odd load":   {{Code: opLoad, K: 2}, {Code: opRet}},
		"bad code":   {{Code: 0xff}},
		"long jump":  {{Code: opJump, K: 1 << 31}, {Code: opRet}},
		"short jump": {{Code: opJEQ, Jt: 9}, {Code: opRet}},
	} {
		_, _, err := (&Program{Filter: filter}).Simulate(Call{})
		if bad := badFilter(""); !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	s := defaultProfile(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleProgram_Simulate() {
	p, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: specs.ActAllow}}}, findArch(specs.ArchX86_64))
	if err != nil {
		fmt.Println(err)
		return
	}
	number, _ := Number(specs.ArchX86_64, "getpid")
	ret, _, _ := p.Simulate(Call{Arch: specs.ArchX86_64, Number: number})
	fmt.Println(ret == unix.SECCOMP_RET_ALLOW)
	// Output: true
}
