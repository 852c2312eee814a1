package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull"
	"hull/internal/oci"
)

// updateFlags are the options of update, and the resources that they set.
type updateFlags struct {
	file          string
	l3CacheSchema string
	memBwSchema   string

	memory            specs.LinuxMemory
	cpu               specs.LinuxCPU
	kernel, kernelTCP *int64 // taken, and of no effect
	blkioWeight       *uint16
	pidsLimit         *int64
}

func (f *updateFlags) register(fs *optionSet) {
	fs.stringVar(&f.file, "resources, r", "", "read the limits from `FILE`, or from standard input if it is -; "+
		"instead of other options about limits")
	const time, size = "MICROSECONDS", "SIZE"
	fs.valueVar(number(&f.blkioWeight, parseWeight, "WEIGHT"), "blkio-weight", "share of the disks, from 10 to 1000")
	fs.valueVar(number(&f.cpu.Period, parseUint, time), "cpu-period", "what --cpu-quota is a part of")
	fs.valueVar(number(&f.cpu.Quota, parseInt, time), "cpu-quota", "CPU time in each period; -1 is no limit")
	fs.valueVar(number(&f.cpu.Burst, parseUint, time), "cpu-burst", "CPU time that may be saved from periods and spent in another")
	fs.valueVar(number(&f.cpu.Shares, parseUint, "SHARES"), "cpu-share", "share of the CPUs; a container has 1024 if nothing is said")
	fs.valueVar(number(&f.cpu.RealtimePeriod, parseUint, time), "cpu-rt-period", "what --cpu-rt-runtime is a part of")
	fs.valueVar(number(&f.cpu.RealtimeRuntime, parseInt, time), "cpu-rt-runtime", "time with real-time scheduling in each period")
	fs.stringVar(&f.cpu.Cpus, "cpuset-cpus", "", "CPUs to run on, a `LIST` such as 0-3,6")
	fs.stringVar(&f.cpu.Mems, "cpuset-mems", "", "memory nodes to use, a `LIST`")
	fs.valueVar(number(&f.cpu.Idle, parseInt, "0|1"), "cpu-idle", "1: run only when the CPUs have nothing else to do")
	fs.valueVar(number(&f.memory.Limit, parseLimit, size), "memory", "memory: bytes, or a number with k, m, g or t; -1 is no limit")
	fs.valueVar(number(&f.memory.Reservation, parseLimit, size), "memory-reservation", "memory that the container keeps when the "+
		"host runs out of it")
	fs.valueVar(number(&f.memory.Swap, parseLimit, size), "memory-swap", "memory and swap space together; -1 is no limit")
	fs.valueVar(number(&f.kernel, parseLimit, size), "kernel-memory", "")
	fs.hide()
	fs.valueVar(number(&f.kernelTCP, parseLimit, size), "kernel-memory-tcp", "")
	fs.hide()
	fs.valueVar(number(&f.pidsLimit, parseInt, "N"), "pids-limit", "number of processes and threads; -1 is no limit")
	fs.stringVar(&f.l3CacheSchema, "l3-cache-schema", "", "Intel RDT: `SCHEMA` of the L3 cache")
	fs.stringVar(&f.memBwSchema, "mem-bw-schema", "", "Intel RDT: `SCHEMA` of the memory bandwidth")
}

func updateCommand() *Command {
	var f updateFlags
	var options *optionSet
	return &Command{
		Name:    "update",
		Summary: "change the limits of a container",
		Usage:   "[options] CONTAINER-ID",
		Long: `Changes limits of a container that runs, is created or paused. What isn't given stays as it is.

A file for --resources has the form of linux.resources in config.json:

 {
   "memory": {"limit": 0, "reservation": 0, "swap": 0,
              "checkBeforeUpdate": true},
   "cpu": {"shares": 0, "quota": 0, "burst": 0, "period": 0, "idle": 0,
           "realtimeRuntime": 0, "realtimePeriod": 0,
           "cpus": "", "mems": ""},
   "blockIO": {"weight": 0},
   "pids": {"limit": 0},
   "unified": {"memory.high": ""}
 }`,
		Examples: `hull update --memory 512m --pids-limit 100 web1
echo '{"cpu": {"quota": 50000, "period": 100000}}' | hull update -r - web1`,
		Args: arity{1, 1},
		Flags: func(fs *optionSet) {
			options = fs
			f.register(fs)
		},
		Run: func(env *Env, args []string) error {
			if beside := f.besideFile(options); len(beside) > 0 {
				return env.usage("update", fmt.Errorf("%s beside --resources: limits are given by options or by a file", strings.Join(beside, " and ")))
			}
			c, err := env.container("update", args[0])
			if err != nil {
				return err
			}
			r, err := f.read(env)
			if err != nil {
				return inOp("update", args[0], err)
			}
			if options.flags.NFlag() == 0 { // an empty value is given, too, by callers who fill in what they may not have
				env.log.warn("no limit is given, and none is changed")
			}
			if f.kernel != nil || f.kernelTCP != nil {
				env.log.warn("limits of kernel memory have no effect: the kernel has none any more")
			}
			return c.Update(hull.UpdateOptions{Resources: r, L3CacheSchema: f.l3CacheSchema, MemBwSchema: f.memBwSchema})
		},
	}
}

// besideFile returns the options that say something about limits beside a file. What is given empty says nothing.
func (f *updateFlags) besideFile(options *optionSet) (names []string) {
	if f.file == "" {
		return nil
	}
	options.flags.Visit(func(o *flag.Flag) {
		switch o.Name {
		case "resources", "l3-cache-schema", "mem-bw-schema": // the latter are no limits of a cgroup
		default:
			if !slices.Contains(options.emptied, o.Name) {
				names = append(names, "--"+o.Name)
			}
		}
	})
	return names
}

// read returns the resources to change.
func (f *updateFlags) read(env *Env) (*specs.LinuxResources, error) {
	if f.file == "" {
		return f.fromFlags(), nil
	}
	var in io.Reader = env.Stdin
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	r, warnings, err := oci.ParseResources("--resources "+f.file, data)
	for _, w := range warnings {
		env.log.warn("--resources " + f.file + ": " + w)
	}
	return r, err
}

func (f *updateFlags) fromFlags() *specs.LinuxResources {
	r := &specs.LinuxResources{Memory: &f.memory, CPU: &f.cpu}
	if f.blkioWeight != nil {
		r.BlockIO = &specs.LinuxBlockIO{Weight: f.blkioWeight}
	}
	if f.pidsLimit != nil {
		r.Pids = &specs.LinuxPids{Limit: f.pidsLimit}
	}
	return r
}

// numberFlag is an option with a number that may also not be given: no number says so.
type numberFlag[T any] struct {
	p     **T
	parse func(string) (T, error)
	name  string // what --help calls the number
}

func number[T any](p **T, parse func(string) (T, error), name string) *numberFlag[T] {
	return &numberFlag[T]{p, parse, name}
}

func (n *numberFlag[T]) String() string { return "" }
func (n *numberFlag[T]) unit() string   { return n.name }

// Set takes an empty value for none, as callers do who fill in what they may not have.
func (n *numberFlag[T]) Set(s string) error {
	if s == "" {
		return nil
	}
	v, err := n.parse(s)
	if err != nil {
		return err
	}
	*n.p = &v
	return nil
}

func parseInt(s string) (int64, error) {
	v, err := strconv.ParseInt(s, 10, 64)
	return v, numberError(err)
}

func parseUint(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	return v, numberError(err)
}

func parseWeight(s string) (uint16, error) {
	v, err := strconv.ParseUint(s, 10, 16)
	return uint16(v), numberError(err)
}

// numberError leaves of an error of strconv what is new to a user: the option and its value are told anyhow.
func numberError(err error) error {
	e, ok := err.(*strconv.NumError)
	switch {
	case !ok:
		return err
	case e.Err == strconv.ErrSyntax && e.Func == "ParseFloat":
		return errors.New("want a number")
	case e.Err == strconv.ErrSyntax && e.Func == "ParseUint":
		return errors.New("want a whole number, 0 or more")
	case e.Err == strconv.ErrSyntax:
		return errors.New("want a whole number")
	}
	return e.Err
}

// parseLimit reads a size, or -1, which is no limit.
func parseLimit(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	v, err := parseSize(s)
	if err != nil {
		err = errors.New("want bytes, a number with k, m, g, t or p, or -1 for no limit")
	}
	return v, err
}

// parseSize reads a number of bytes, or of binary multiples: 1.5g, 100M, 64KiB, 10kb.
func parseSize(s string) (int64, error) {
	bad := errors.New("want bytes, or a number with k, m, g, t or p")
	end := strings.LastIndexAny(s, "0123456789.") + 1
	unit := strings.ToLower(strings.TrimPrefix(s[end:], " "))
	factor := 1.0
	if unit != "" && unit != "b" {
		power := strings.IndexByte("kmgtp", unit[0]) + 1
		if power == 0 || unit[1:] != "" && unit[1:] != "b" && unit[1:] != "ib" {
			return 0, bad
		}
		factor = math.Pow(1024, float64(power))
	}
	v, err := strconv.ParseUint(s[:end], 10, 63)
	if err == nil && factor == 1 {
		return int64(v), nil // exactly, where a float64 would round
	}
	f, err := strconv.ParseFloat(s[:end], 64)
	if err != nil || f < 0 || f*factor >= math.MaxInt64 {
		return 0, bad
	}
	return int64(f * factor), nil
}
