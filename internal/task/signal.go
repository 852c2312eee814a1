package task

import (
	"fmt"
	"strconv"
	"strings"

	"hull/internal/fault"
	"hull/internal/typo"

	"golang.org/x/sys/unix"
)

// The real-time signals as programs name them: libc keeps the kernel's first two for itself (signal(7)).
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal returns the signal that a user of kill names: by number ("15"), or in any case and with or without SIG by
// name ("SIGTERM", "term", "RTMIN+3"). 0 is taken: kill(2) then only looks whether the process is there.
func ParseSignal(s string) (unix.Signal, error) {
	if s != "" && s[0] >= '0' && s[0] <= '9' {
		n, err := strconv.ParseUint(s, 10, 8)
		if err != nil || n > sigRTMax {
			return 0, badSignal(s)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig, ok := realTimeSignal(name); ok {
		return sig, nil
	}
	switch name { // the second names of signal(7)
	case "CLD":
		name = "CHLD"
	case "IOT":
		name = "ABRT"
	case "POLL":
		name = "IO"
	}
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	return 0, badSignal(s)
}

// realTimeSignal reads RTMIN, RTMAX, RTMIN+n and RTMAX-n.
func realTimeSignal(name string) (unix.Signal, bool) {
	base, sign := sigRTMin, "+"
	rest, ok := strings.CutPrefix(name, "RTMIN")
	if !ok {
		if rest, ok = strings.CutPrefix(name, "RTMAX"); !ok {
			return 0, false
		}
		base, sign = sigRTMax, "-"
	}
	if rest == "" {
		return unix.Signal(base), true
	}
	digits, ok := strings.CutPrefix(rest, sign)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 8)
	if err != nil || n > sigRTMax-sigRTMin {
		return 0, false
	}
	if sign == "-" {
		return unix.Signal(base - int(n)), true
	}
	return unix.Signal(base + int(n)), true
}

func badSignal(s string) error {
	e := &fault.Error{Kind: fault.BadUsage, Err: fmt.Errorf("unknown signal %q", s)}
	var names []string
	for n := range unix.Signal(sigRTMin) {
		if name := unix.SignalName(n); name != "" {
			names = append(names, strings.TrimPrefix(name, "SIG"))
		}
	}
	if meant := typo.Nearest(strings.TrimPrefix(strings.ToUpper(s), "SIG"), names); meant != "" {
		e.Hint = "did you mean " + meant + "?"
	}
	return e
}
