package cgroup

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"hull/internal/fault"

	"golang.org/x/sys/unix"
)

// Stats is what `events --stats` prints as JSON, with the names runc gives them. Times are in nanoseconds, memory in
// bytes; a figure that the host's cgroups don't have is 0 or absent.
type Stats struct {
	CPU     CPUStats                `json:"cpu"`
	CPUSet  CPUSetStats             `json:"cpuset"`
	Memory  MemoryStats             `json:"memory"`
	Pids    PidsStats               `json:"pids"`
	BlockIO BlockIOStats            `json:"blkio"`
	Hugetlb map[string]HugetlbStats `json:"hugetlb"`
	RDMA    *RDMAStats              `json:"rdma,omitempty"`
	// IntelRdt and NetworkInterfaces are filled in by their own packages, if at all.
	IntelRdt          any   `json:"intel_rdt"`
	NetworkInterfaces []any `json:"network_interfaces"`
	// Inside is what the kernel of a sandbox counts for the container alone: the others have that kernel, too.
	Inside any `json:"inside,omitempty"`
}

type CPUStats struct {
	Usage      CPUUsage   `json:"usage,omitzero"`
	Throttling Throttling `json:"throttling,omitzero"`
	PSI        *PSI       `json:"psi,omitempty"`
}

type CPUUsage struct {
	Total        uint64   `json:"total,omitempty"`
	PerCPU       []uint64 `json:"percpu,omitempty"`
	PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
	PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
	Kernel       uint64   `json:"kernel"`
	User         uint64   `json:"user"`
}

type Throttling struct {
	Periods          uint64 `json:"periods,omitempty"`
	ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
	ThrottledTime    uint64 `json:"throttledTime,omitempty"`
}

// PSI is pressure stall information (Linux 4.20, v2 only): shares in percent, the total in microseconds.
type PSI struct {
	Some Pressure `json:"some,omitzero"`
	Full Pressure `json:"full,omitzero"`
}

type Pressure struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

type CPUSetStats struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

type MemoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage,omitzero"`
	Swap      MemoryEntry       `json:"swap,omitzero"` // memory and swap together
	Kernel    MemoryEntry       `json:"kernel,omitzero"`
	KernelTCP MemoryEntry       `json:"kernelTCP,omitzero"`
	Raw       map[string]uint64 `json:"raw,omitempty"` // memory.stat
	PSI       *PSI              `json:"psi,omitempty"`
}

type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PidsStats counts processes and threads; no limit is 0.
type PidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type BlockIOStats struct {
	IoServiceBytesRecursive []BlockIOEntry `json:"ioServiceBytesRecursive,omitempty"`
	IoServicedRecursive     []BlockIOEntry `json:"ioServicedRecursive,omitempty"`
	IoQueuedRecursive       []BlockIOEntry `json:"ioQueueRecursive,omitempty"`
	IoServiceTimeRecursive  []BlockIOEntry `json:"ioServiceTimeRecursive,omitempty"`
	IoWaitTimeRecursive     []BlockIOEntry `json:"ioWaitTimeRecursive,omitempty"`
	IoMergedRecursive       []BlockIOEntry `json:"ioMergedRecursive,omitempty"`
	IoTimeRecursive         []BlockIOEntry `json:"ioTimeRecursive,omitempty"`
	SectorsRecursive        []BlockIOEntry `json:"sectorsRecursive,omitempty"`
	PSI                     *PSI           `json:"psi,omitempty"`
}

type BlockIOEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type HugetlbStats struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type RDMAStats struct {
	Limit   []RDMAEntry `json:"limit,omitempty"`
	Current []RDMAEntry `json:"current,omitempty"`
}

type RDMAEntry struct {
	Device     string `json:"device,omitempty"`
	HCAHandles uint32 `json:"hca_handles,omitempty"`
	HCAObjects uint32 `json:"hca_objects,omitempty"`
}

// Stats reads the container's figures. Files that the kernel doesn't have are left out.
func (g *Group) Stats() (*Stats, error) {
	s := &Stats{Hugetlb: make(map[string]HugetlbStats), IntelRdt: struct{}{}}
	if g.any() == "" {
		return s, nil
	}
	r := &reader{}
	if g.mode == V2 {
		r.dir = g.paths[unified]
		r.unifiedStats(s)
	} else {
		g.v1Stats(r, s)
	}
	if r.err != nil {
		return nil, &fault.Error{Step: "read the statistics", Err: r.err}
	}
	return s, nil
}

// reader reads the files of a cgroup; it keeps the first error. An absent file is none: it reads as empty.
type reader struct {
	dir string
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) text(file string) (text string, ok bool) {
	s, err := readFile(r.dir, file)
	switch {
	case err == nil:
		return s, true
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTSUP): // PSI that is off on the command line
		r.fail(err)
	}
	return "", false
}

func (r *reader) number(file string) uint64 {
	s, ok := r.text(file)
	if !ok {
		return 0
	}
	return r.parse(file, strings.TrimSpace(s))
}

func (r *reader) parse(file, s string) uint64 {
	n, err := parseUint(s)
	if err != nil {
		r.fail(&fs.PathError{Op: "parse", Path: r.dir + "/" + file, Err: err})
	}
	return n
}

// numbers returns a file of numbers.
func (r *reader) numbers(file string) []uint64 {
	s, _ := r.text(file)
	var ns []uint64
	for f := range strings.FieldsSeq(s) {
		ns = append(ns, r.parse(file, f))
	}
	return ns
}

// keyed returns a file of "key value" lines.
func (r *reader) keyed(file string) map[string]uint64 {
	s, ok := r.text(file)
	if !ok {
		return nil
	}
	m := make(map[string]uint64)
	for line := range strings.Lines(s) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok {
			m[k] = r.parse(file, v)
		}
	}
	return m
}

// list returns a file like "0-3,7".
func (r *reader) list(file string) []uint16 {
	s, _ := r.text(file)
	var ns []uint16
	for item := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		if item == "" {
			continue
		}
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		lo, hi := r.parse(file, first), r.parse(file, last)
		for n := lo; n <= hi && n <= math.MaxUint16; n++ {
			ns = append(ns, uint16(n))
		}
	}
	return ns
}

// psi returns a pressure file: lines like "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
func (r *reader) psi(file string) *PSI {
	s, ok := r.text(file)
	if !ok {
		return nil
	}
	p := &PSI{}
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		to := &p.Some
		switch {
		case len(f) == 0 || f[0] != "some" && f[0] != "full":
			continue
		case f[0] == "full":
			to = &p.Full
		}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			r.pressure(file, to, k, v)
		}
	}
	return p
}

func (r *reader) pressure(file string, to *Pressure, k, v string) {
	var share *float64
	switch k {
	case "avg10":
		share = &to.Avg10
	case "avg60":
		share = &to.Avg60
	case "avg300":
		share = &to.Avg300
	case "total":
		to.Total = r.parse(file, v)
		return
	default:
		return
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil {
		r.fail(&fs.PathError{Op: "parse", Path: r.dir + "/" + file, Err: err})
	}
	*share = n
}

// rdma returns a file of lines like "mlx4_0 hca_handle=2 hca_object=max".
func (r *reader) rdma(file string) []RDMAEntry {
	s, _ := r.text(file)
	var entries []RDMAEntry
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		e := RDMAEntry{Device: f[0]}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			n := uint32(min(r.parse(file, v), math.MaxUint32))
			switch k {
			case "hca_handle":
				e.HCAHandles = n
			case "hca_object":
				e.HCAObjects = n
			}
		}
		entries = append(entries, e)
	}
	return entries
}

func (r *reader) rdmaStats() *RDMAStats {
	s := RDMAStats{Limit: r.rdma("rdma.max"), Current: r.rdma("rdma.current")}
	if s.Limit == nil && s.Current == nil {
		return nil
	}
	return &s
}

// hugepageSizes returns the sizes that the host has as hugetlb's files spell them: hugepages-2048kB is 2MB.
func hugepageSizes() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	var sizes []string
	for _, e := range entries {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err == nil {
			sizes = append(sizes, pageSize(kb))
		}
	}
	return sizes
}

func pageSize(kb uint64) string {
	switch {
	case kb >= 1<<20:
		return strconv.FormatUint(kb>>20, 10) + "GB"
	case kb >= 1<<10:
		return strconv.FormatUint(kb>>10, 10) + "MB"
	}
	return strconv.FormatUint(kb, 10) + "KB"
}

// noLimit turns the "max" of a file where Stats has 0 for it.
func noLimit(n uint64) uint64 {
	if n == math.MaxUint64 {
		return 0
	}
	return n
}
