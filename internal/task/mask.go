package task

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The highest numbers taken: what the largest configurations of Linux have (NR_CPUS and MAX_NUMNODES). They also bound
// the memory that a list such as "0-4294967295" asks for.
const (
	maxCPU  = 8191
	maxNode = 1023
)

// Mask is a bit mask of CPUs or memory nodes, made of the kernel's words: bit n%64 of word n/64 stands for number n.
type Mask []uint64

// Bytes returns the mask's memory as system calls take it. (The kernel's words are 64 bits wide where hull runs.)
func (m Mask) Bytes() []byte {
	b := make([]byte, 0, 8*len(m))
	for _, w := range m {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

// Has tells whether n is in the mask.
func (m Mask) Has(n int) bool { return n >= 0 && n/64 < len(m) && m[n/64]&(1<<(n%64)) != 0 }

// Count returns how many numbers are in the mask.
func (m Mask) Count() int {
	var n int
	for _, w := range m {
		n += bits.OnesCount64(w)
	}
	return n
}

// set adds first to last, growing the mask where needed.
func (m *Mask) set(first, last int) {
	for len(*m) <= last/64 {
		*m = append(*m, 0)
	}
	for n := first; n <= last; n++ {
		(*m)[n/64] |= 1 << (n % 64)
	}
}

// parseList reads the list format of cpuset(7): decimal numbers and ranges, separated by commas, such as "0-3,7". Spaces
// around an element and empty elements are let through, as the peers do. The error names the element.
func parseList(list string, limit int) (Mask, error) {
	var m Mask
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		lo, hi, isRange := strings.Cut(item, "-")
		if !isRange {
			hi = lo
		}
		first, err := parseNumber(lo, limit)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", item, err)
		}
		last, err := parseNumber(hi, limit)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", item, err)
		}
		if first > last {
			return nil, fmt.Errorf("%q: the range runs backwards", item)
		}
		m.set(first, last)
	}
	return m, nil
}

func parseNumber(s string, limit int) (int, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	switch err := err.(type) {
	case nil:
	case *strconv.NumError:
		if err.Err == strconv.ErrSyntax {
			return 0, fmt.Errorf("%q is not a number", s)
		}
		n = 1<<64 - 1
	}
	if n > uint64(limit) {
		return 0, fmt.Errorf("%s is above %d, the most Linux is built for", s, limit)
	}
	return int(n), nil
}

// Affinity holds the two masks of process.execCPUAffinity for sched_setaffinity(2); an empty one leaves the affinity as
// it is.
type Affinity struct {
	Initial, Final Mask
}

// CPUAffinity returns the masks of process.execCPUAffinity.
func CPUAffinity(a *specs.CPUAffinity) (Affinity, error) {
	initial, err := parseList(a.Initial, maxCPU)
	if err != nil {
		return Affinity{}, problem("process.execCPUAffinity.initial", "invalid CPU list: %v", err)
	}
	final, err := parseList(a.Final, maxCPU)
	if err != nil {
		return Affinity{}, problem("process.execCPUAffinity.final", "invalid CPU list: %v", err)
	}
	return Affinity{initial, final}, nil
}
