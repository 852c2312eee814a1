package caps

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestNamesAndNumbers(t *testing.T) {
	all := Names()
	if len(all) != 41 {
		t.Fatalf("%d names, want 41: %v", len(all), all)
	}
	for want, name := range all {
		if got, ok := Number(name); !ok || got != want {
			t.Errorf("Number(%q) = %d, %v, want %d", name, got, ok, want)
		}
	}
	// Spot checks against include/uapi/linux/capability.h.
	for name, want := range map[string]int{"CAP_CHOWN": 0, "CAP_SYS_ADMIN": 21, "CAP_SYSLOG": 34, "CAP_CHECKPOINT_RESTORE": 40} {
		if got, _ := Number(name); got != want {
			t.Errorf("Number(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestParseIsExact(t *testing.T) {
	s, unknown := Parse([]string{"CAP_KILL", "cap_kill", "KILL", "CAP_", "", "CAP_CAP_KILL", "CAP_KILL ", "CAP_BPF", "CAP_KILL"})
	if want := Of(unix.CAP_KILL, unix.CAP_BPF); s != want {
		t.Errorf("set %v, want %v", s, want)
	}
	want := []string{"cap_kill", "KILL", "CAP_", "", "CAP_CAP_KILL", "CAP_KILL "}
	if diff := cmp.Diff(want, unknown); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
}

func TestSetString(t *testing.T) {
	if got, want := Of(unix.CAP_BPF, unix.CAP_KILL, 63).String(), "CAP_KILL,CAP_BPF"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if got := Set(0).Names(); got == nil || len(got) != 0 {
		t.Errorf("Names of the empty set = %#v, want an empty list that isn't nil", got)
	}
}

func TestHas(t *testing.T) {
	s := Of(0, 63)
	for n, want := range map[int]bool{-1: false, 0: true, 1: false, 63: true, 64: false} {
		if got := s.Has(n); got != want {
			t.Errorf("Has(%d) = %v", n, got)
		}
	}
}

func TestFromSpec(t *testing.T) {
	got, unknown := FromSpec(&specs.LinuxCapabilities{
		Bounding:    []string{"CAP_CHOWN", "CAP_NEW"},
		Effective:   []string{"CAP_KILL", "CAP_NEW"},
		Inheritable: []string{"CAP_SETUID"},
		Permitted:   []string{"CAP_SETGID", "CAP_OTHER"},
		Ambient:     []string{"CAP_SYSLOG"},
	})
	want := Sets{
		Bounding:    Of(unix.CAP_CHOWN),
		Effective:   Of(unix.CAP_KILL),
		Inheritable: Of(unix.CAP_SETUID),
		Permitted:   Of(unix.CAP_SETGID),
		Ambient:     Of(unix.CAP_SYSLOG),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sets (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"CAP_NEW", "CAP_OTHER"}, unknown); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
	if got, unknown := FromSpec(nil); got != (Sets{}) || unknown != nil {
		t.Errorf("FromSpec(nil) = %v, %v, want nothing", got, unknown)
	}
}

func TestWithin(t *testing.T) {
	in := Sets{Bounding: Of(1, 40), Effective: Of(1), Inheritable: Of(39), Permitted: Of(1, 2), Ambient: Of(38)}
	got, cut := in.Within(upTo(37))
	if want := (Sets{Bounding: Of(1), Effective: Of(1), Permitted: Of(1, 2)}); got != want {
		t.Errorf("sets %v, want %v", got, want)
	}
	if want := Of(38, 39, 40); cut != want {
		t.Errorf("cut %x, want %x", cut, want)
	}
}

func TestUpTo(t *testing.T) {
	for last, want := range map[int]Set{0: 1, 1: 3, 40: 1<<41 - 1, 62: 1<<63 - 1, 63: ^Set(0)} {
		if got := upTo(last); got != want {
			t.Errorf("upTo(%d) = %x, want %x", last, got, want)
		}
	}
}

// The layout is that of struct __user_cap_header_struct and __user_cap_data_struct; x/sys has it as Go types.
func TestBytesAreWhatCapgetGives(t *testing.T) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	set := func(lo, hi uint32) Set { return Set(hi)<<32 | Set(lo) }
	s := Sets{
		Effective:   set(data[0].Effective, data[1].Effective),
		Permitted:   set(data[0].Permitted, data[1].Permitted),
		Inheritable: set(data[0].Inheritable, data[1].Inheritable),
	}
	// Bits that tell the three apart, whatever this process has.
	s.Effective, s.Permitted, s.Inheritable = s.Effective^Of(0, 32), s.Permitted^Of(1, 33), s.Inheritable^Of(2, 34)
	data[0].Effective, data[1].Effective = data[0].Effective^1, data[1].Effective^1
	data[0].Permitted, data[1].Permitted = data[0].Permitted^2, data[1].Permitted^2
	data[0].Inheritable, data[1].Inheritable = data[0].Inheritable^4, data[1].Inheritable^4
	gotData, gotHeader := s.Data(), s.Header()
	if diff := cmp.Diff(encode(t, data), gotData[:]); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(encode(t, unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}), gotHeader[:]); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

// encode returns the memory of a C struct of 32-bit fields.
func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLastAgreesWithBothSources(t *testing.T) {
	n := Last()
	if n < unix.CAP_AUDIT_READ || n > 63 { // CAP_AUDIT_READ is of Linux 3.16
		t.Fatalf("Last() = %d", n)
	}
	if got := probeLast(inBoundingSet); got != n {
		t.Errorf("prctl says %d, /proc says %d", got, n)
	}
	if got := Supported(); !got.Has(n) || got.Has(n+1) {
		t.Errorf("Supported() = %x with Last() = %d", got, n)
	}
}

func TestParseLast(t *testing.T) {
	for in, want := range map[string]int{"40\n": 40, "0": 0, "63": 63} {
		if got, ok := parseLast([]byte(in), nil); !ok || got != want {
			t.Errorf("parseLast(%q) = %d, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "\n", "-1", "64", "4 0", "forty", strings.Repeat("9", 99)} {
		if n, ok := parseLast([]byte(in), nil); ok {
			t.Errorf("parseLast(%q) = %d, want it refused", in, n)
		}
	}
	if _, ok := parseLast([]byte("40"), os.ErrNotExist); ok {
		t.Error("parseLast went on after an error")
	}
}

func TestProbeLast(t *testing.T) {
	for want := range 64 {
		if got := probeLast(func(n int) bool { return n <= want }); got != want {
			t.Errorf("probeLast = %d, want %d", got, want)
		}
	}
}

func FuzzNumber(f *testing.F) {
	f.Add("CAP_KILL")
	f.Fuzz(func(t *testing.T, name string) {
		n, ok := Number(name)
		if ok && Of(n).String() != name {
			t.Errorf("Number(%q) = %d, which is %s", name, n, Of(n))
		}
		if _, unknown := Parse([]string{name}); (len(unknown) == 0) != ok {
			t.Errorf("Parse and Number disagree about %q", name)
		}
	})
}
