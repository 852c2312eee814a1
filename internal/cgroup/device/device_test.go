package device

import (
	"strings"
	"testing"

	"hull/internal/linux"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseAccess(t *testing.T) {
	for _, list := range []string{"a *:* rwm\n", "c 1:3 rw\nb *:* m\nc 136:* rwm\n", ""} {
		a, err := parseAccess(list)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range a.Exceptions() {
			got = append(got, r.String())
		}
		if a.AllowAll {
			got = []string{"a *:* rwm"}
		}
		want := strings.Split(strings.TrimSuffix(list, "\n"), "\n")
		if list == "" {
			want = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	for _, bad := range []string{"x 1:3 rw", "c 1 rw", "c 1:3 x", "c 99999999999:1 r"} {
		if _, err := parseAccess(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// The letter a, which package oci lets pass, is no kind of access.
func TestRuleOfPassesOverA(t *testing.T) {
	got, err := RuleOf(specs.LinuxDeviceCgroup{Type: "c", Access: "rwa"})
	if want := (Rule{Device: Device{'c', Any, Any}, Perm: Read | Write}); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if got, err := RuleOf(specs.LinuxDeviceCgroup{Type: "c", Access: "a"}); err == nil {
		t.Errorf("access a: %v", got)
	}
}

// An update that keeps a device never takes it away meanwhile.
func TestFromKeeps(t *testing.T) {
	access := func(lines string) *Access {
		a, err := parseAccess(lines)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tt := range []struct {
		now, then string
		want      []string
	}{
		{"c 1:3 rw\nc 1:5 rwm", "c 1:3 r\nc 1:7 r", []string{"deny c 1:3 w", "deny c 1:5 rwm", "allow c 1:7 r"}},
		{"c 1:3 rw", "c 1:3 rw", nil},
		{"a *:* rwm", "c 1:3 rw", []string{"deny a *:* rwm", "allow c 1:3 rw"}},
		{"c 1:3 rw", "a *:* rwm", []string{"allow a *:* rwm"}},
	} {
		var got []string
		for _, r := range access(tt.then).from(access(tt.now)) {
			verb := "deny "
			if r.Allow {
				verb = "allow "
			}
			got = append(got, verb+r.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("from %q to %q: %s", tt.now, tt.then, diff)
		}
	}
}

// run interprets a filter as the kernel does.
func run(t *testing.T, p []linux.BPFInsn, kind, access, major, minor uint32) bool {
	t.Helper()
	var reg [11]uint64
	context := map[int16]uint64{0: uint64(access<<16 | kind), 4: uint64(major), 8: uint64(minor)}
	for pc := 0; pc < len(p); pc++ {
		in := p[pc]
		dst, src := in.Regs&15, in.Regs>>4
		switch in.Op {
		case opLoadWord:
			reg[dst] = context[in.Off]
		case opMove:
			reg[dst] = reg[src]
		case opSet:
			reg[dst] = uint64(uint32(in.Imm))
		case opAnd:
			reg[dst] = uint64(uint32(reg[dst]) & uint32(in.Imm))
		case opShift:
			reg[dst] = uint64(uint32(reg[dst]) >> in.Imm)
		case opSkipNot:
			if reg[dst] != uint64(int64(in.Imm)) {
				pc += int(in.Off)
			}
		case opSkipNotR:
			if reg[dst] != reg[src] {
				pc += int(in.Off)
			}
		case opSkipIs:
			if reg[dst] == uint64(int64(in.Imm)) {
				pc += int(in.Off)
			}
		case opExit:
			return reg[0] != 0
		default:
			t.Fatalf("instruction %#v", in)
		}
	}
	t.Fatal("the program has no end")
	return false
}

// allows is what the v1 kernel would answer: match_exception and match_exception_partial of
// security/device_cgroup.c.
func (a *Access) allows(kind byte, p Perm, major, minor int64) bool {
	for d, have := range a.exceptions {
		if d.Kind != kind || d.Major != Any && d.Major != major || d.Minor != Any && d.Minor != minor {
			continue
		}
		if a.AllowAll && p&have != 0 {
			return false
		}
		if !a.AllowAll && p&^have == 0 {
			return true
		}
	}
	return a.AllowAll
}

// The filter of v2 allows what v1 does with the same rules.
func TestProgramLikeV1(t *testing.T) {
	for _, list := range []string{
		"", "c 1:3 rw\nc 1:* r\nb *:* m\nc *:5 rwm\nb 8:0 rwm\nc 1:5 w",
	} {
		a, err := parseAccess(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, all := range []bool{false, true} {
			a.AllowAll = all
			prog := a.program()
			for _, kind := range []byte{'b', 'c'} {
				for p := Perm(1); p <= All; p++ {
					for _, n := range [][2]int64{{1, 3}, {1, 5}, {1, 9}, {8, 0}, {8, 5}, {7, 7}} {
						k := uint32(unix.BPF_DEVCG_DEV_CHAR)
						if kind == 'b' {
							k = unix.BPF_DEVCG_DEV_BLOCK
						}
						got := run(t, prog, k, uint32(accessBits(p)), uint32(n[0]), uint32(n[1]))
						if want := a.allows(kind, p, n[0], n[1]); got != want {
							t.Errorf("%q, allowing all %v: %c %d:%d %v: %v, want %v", list, all, kind, n[0], n[1], p, got, want)
						}
					}
				}
			}
		}
	}
}

func FuzzParseAccess(f *testing.F) {
	f.Add("c 1:3 rw\nb *:* m\n")
	f.Fuzz(func(t *testing.T, list string) {
		a, err := parseAccess(list)
		if err != nil || a.AllowAll {
			return
		}
		var b strings.Builder
		for _, r := range a.Exceptions() {
			b.WriteString(r.String() + "\n")
		}
		again, err := parseAccess(b.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a.exceptions, again.exceptions); diff != "" {
			t.Error(diff)
		}
	})
}
