package rdt

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// schemata are the values of a schemata file: those of a resource, by the number of the cache or memory that each is of.
type schemata map[string]map[string]string

// parse reads lines like "    L3:0=7ff;1=7ff". A later value replaces an earlier one, as it does in the kernel. What
// isn't of that form counts as a value, too: no file has it.
func parse(lines []string) schemata {
	s := make(schemata)
	for _, line := range lines {
		name, values, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok && name == "" {
			continue
		}
		if s[name] == nil {
			s[name] = make(map[string]string)
		}
		for v := range strings.SplitSeq(values, ";") {
			domain, value, _ := strings.Cut(v, "=")
			s[name][number(domain)] = strings.TrimSpace(value)
		}
	}
	return s
}

// number returns a number without what the kernel ignores in it.
func number(s string) string {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return strconv.FormatUint(n, 10)
	}
	return s
}

// difference compares the schemata file of a group that exists with the lines that are wanted, and says what differs
// first, or "". What no line speaks of may be anything. granularity is as resctrl's.
func difference(file string, want []string, granularity func(resource string) uint64) string {
	have, wanted := parse(strings.Split(file, "\n")), parse(want)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		step := granularity(name)
		for _, domain := range slices.Sorted(maps.Keys(wanted[name])) {
			w, h := wanted[name][domain], have[name][domain]
			if !same(w, h, step) {
				return fmt.Sprintf("the class exists and has %s:%s=%s, want %s", name, domain, h, w)
			}
		}
	}
	return ""
}

// same tells whether the kernel would make have out of want: a hexadecimal bit mask, or a bandwidth, which it rounds up
// to a multiple of step.
func same(want, have string, step uint64) bool {
	base := 16
	if step > 0 {
		base = 10
	}
	// As kstrtoul does, for masks.
	if base == 16 {
		want = strings.TrimPrefix(strings.ToLower(want), "0x")
	}
	w, werr := strconv.ParseUint(want, base, 64)
	h, herr := strconv.ParseUint(have, base, 64)
	if werr != nil || herr != nil {
		return false
	}
	return w == h || step > 0 && w < h && h-w < step && h%step == 0
}
