package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hull"
)

// limitFlags are the options of do that bound the command.
type limitFlags struct {
	memory  *int64
	cpus    *float64
	pids    *int64
	files   *uint64
	timeout *time.Duration
}

func (f *limitFlags) register(fs *optionSet) {
	fs.valueVar(number(&f.memory, parseSize, "SIZE"), "memory", "bound memory, swap and files in memory together: bytes, or a number with k, m, g or t")
	fs.valueVar(number(&f.cpus, parseCPUs, "N"), "cpus", "bound processor time: 1.5 is that of one and a half processors")
	fs.valueVar(number(&f.pids, parseInt, "N"), "pids", "bound processes and threads")
	fs.valueVar(number(&f.files, parseUint, "N"), "files", "bound the open files of each process")
	fs.valueVar(number(&f.timeout, parseTime, "TIME"), "timeout", "end the command after that, such as 30s or 5m: first with SIGTERM, and two seconds later all that is left of it; exit status 124")
}

// positive returns an error if the value of an option is given and not more than 0.
func positive[T int64 | uint64 | time.Duration](name string, value *T) error {
	if value == nil || *value > 0 {
		return nil
	}
	return fmt.Errorf("--%s %q: want more than 0", name, fmt.Sprint(*value))
}

// limits returns what the options say. A bound of nothing is a mistake, not no bound.
func (f *limitFlags) limits() (l hull.Limits, err error) {
	for _, err := range []error{positive("memory", f.memory), positive("pids", f.pids), positive("files", f.files), positive("timeout", f.timeout)} {
		if err != nil {
			return l, err
		}
	}
	if f.memory != nil {
		l.Memory = *f.memory
	}
	if f.cpus != nil {
		l.CPUs = *f.cpus
	}
	if f.pids != nil {
		l.Pids = *f.pids
	}
	if f.files != nil {
		l.Files = *f.files
	}
	if f.timeout != nil {
		l.Time = *f.timeout
	}
	return l, nil
}

func parseCPUs(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err == nil && (v < 0.01 || v > 100000 || math.IsNaN(v)) {
		err = errors.New("want 0.01 to 100000")
	}
	return v, numberError(err)
}

func parseTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		err = errNoTime
	}
	return d, err
}

// tellLimits says which bound has ended the command, or some of its processes.
func (e *Env) tellLimits(cmd *hull.Cmd) {
	r, ws := &cmd.Result, cmd.WaitStatus
	if r.AddressSpace && ws.Signaled() && (ws.Signal() == unix.SIGSEGV || ws.Signal() == unix.SIGKILL && !r.TimedOut) {
		e.log.warn(fmt.Sprintf("signal %d has ended the command, whose address space was bounded to %s: that may be too little for it",
			int(ws.Signal()), formatSize(cmd.Limits.Memory)))
	}
	if r.OOMKilled == 0 {
		return
	}
	what := "the command"
	if !cmd.WaitStatus.Signaled() || cmd.WaitStatus.Signal() != 9 {
		what = "a process of the command"
		if r.OOMKilled > 1 {
			what = fmt.Sprintf("%d processes of the command", r.OOMKilled)
		}
	}
	why := "memory was short outside of its own limit of " + formatSize(cmd.Limits.Memory)
	if r.OverLimit {
		why = "its memory limit of " + formatSize(cmd.Limits.Memory) + " was reached"
	}
	e.log.warn("out of memory: " + why + ", and the kernel has killed " + what)
}

// formatSize is the reverse of parseSize.
func formatSize(n int64) string {
	const units = "kmgtp"
	i := 0
	for i < len(units) && n >= 1024 && n%1024 == 0 {
		n /= 1024
		i++
	}
	if i == 0 {
		return strconv.FormatInt(n, 10) + " bytes"
	}
	return strconv.FormatInt(n, 10) + units[i-1:i]
}
