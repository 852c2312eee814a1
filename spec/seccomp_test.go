package spec

import (
	"os"
	"slices"
	"strings"
	"testing"

	"hull/internal/seccomp"
)

func TestDenials(t *testing.T) {
	doc, err := os.ReadFile("../docs/do.md")
	if err != nil {
		t.Fatal(err)
	}
	known := seccomp.Names()
	seen := map[string]bool{}
	for _, d := range Denials() {
		if d.Reason == "" {
			t.Errorf("%v: no reason", d.Calls)
		}
		for _, c := range d.Calls {
			if _, ok := slices.BinarySearch(known, c); !ok {
				t.Errorf("%s: no such call", c)
			}
			if seen[c] {
				t.Errorf("%s: twice", c)
			}
			seen[c] = true
			if !strings.Contains(string(doc), "`"+c+"`") {
				t.Errorf("%s: not in docs/do.md", c)
			}
		}
	}
}

func TestSeccompCompiles(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN"}, {"CAP_NET_RAW", "CAP_SYS_CHROOT"}} {
		p, err := seccomp.Compile(Seccomp(caps...))
		if err != nil || p == nil || len(p.Unknown) > 0 {
			t.Errorf("%v: %v, %+v", caps, err, p)
		}
	}
}

func allowed(caps ...string) []string { return Seccomp(caps...).Syscalls[0].Names }

// A capability without its system calls would be none.
func TestCapabilitiesAllowTheirCalls(t *testing.T) {
	for _, c := range []struct{ capability, call string }{
		{"CAP_SYS_ADMIN", "mount"}, {"CAP_SYS_ADMIN", "clone3"}, {"CAP_SYS_ADMIN", "unshare"}, {"CAP_SYS_CHROOT", "chroot"}, {"CAP_BPF", "bpf"},
	} {
		if slices.Contains(allowed("CAP_KILL"), c.call) {
			t.Errorf("%s is allowed", c.call)
		}
		if !slices.Contains(allowed(c.capability), c.call) {
			t.Errorf("%s is not allowed with %s", c.call, c.capability)
		}
	}
	if slices.Contains(allowed("CAP_SYS_ADMIN"), "keyctl") {
		t.Error("keyctl is allowed")
	}
}

func BenchmarkSeccomp(b *testing.B) {
	n := 0
	for b.Loop() {
		p, err := seccomp.Compile(Seccomp())
		if err != nil {
			b.Fatal(err)
		}
		n = len(p.Filter)
	}
	b.ReportMetric(float64(n), "instructions")
}
