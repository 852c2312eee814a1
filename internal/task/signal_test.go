package task

import (
	"errors"
	"strings"
	"testing"

	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]unix.Signal{
		"0": 0, "1": 1, "15": 15, "09": 9, "64": 64,
		"SIGTERM": unix.SIGTERM, "TERM": unix.SIGTERM, "term": unix.SIGTERM, "sigKill": unix.SIGKILL,
		"CHLD": unix.SIGCHLD, "CLD": unix.SIGCHLD, "SIGIOT": unix.SIGABRT, "POLL": unix.SIGIO, "WINCH": unix.SIGWINCH,
		"RTMIN": 34, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "rtmin+30": 64, "SIGRTMAX": 64, "SIGRTMAX-1": 63, "RTMAX-30": 34,
	} {
		got, err := ParseSignal(in)
		if err != nil || got != want {
			t.Errorf("ParseSignal(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", " ", "-1", "+9", "65", "256", "271", "4294967305", "9x", "0x9", "9 ", "SIG", "SIGSIGTERM", "TERMS", "SIG9",
		"RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN+-1", "RTMIN3",
	} {
		got, err := ParseSignal(in)
		if err == nil || got != 0 {
			t.Errorf("ParseSignal(%q) = %d, %v, want it refused", in, got, err)
		}
		if !errors.Is(err, fault.BadUsage) {
			t.Errorf("ParseSignal(%q): %v is not of kind BadUsage", in, err)
		}
	}
}

// Every name that the system has is taken, in each of its forms.
func TestParseSignalTakesAllNames(t *testing.T) {
	var names int
	for n := unix.Signal(1); n < 32; n++ {
		name := unix.SignalName(n)
		if name == "" {
			continue
		}
		names++
		for _, s := range []string{name, strings.ToLower(name), strings.TrimPrefix(name, "SIG")} {
			if got, err := ParseSignal(s); err != nil || got != n {
				t.Errorf("ParseSignal(%q) = %d, %v, want %d", s, got, err, n)
			}
		}
	}
	if names < 31 {
		t.Errorf("%d names", names)
	}
}

func FuzzParseSignal(f *testing.F) {
	for _, s := range []string{"TERM", "15", "SIGRTMIN+3", "RTMAX-2", "-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if sig, err := ParseSignal(s); sig < 0 || sig > 64 || (err != nil && sig != 0) {
			t.Errorf("ParseSignal(%q) = %d, %v", s, sig, err)
		}
	})
}
