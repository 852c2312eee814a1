package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/oci"
	"hull/internal/sandbox/wire"
)

// take tells boot that its container, which waits for its start, is there.
func (c *creation) take() error {
	if _, err := c.report.WriteString(wire.Taken); err != nil {
		return c.lost()
	}
	return nil
}

// wait waits for the report of boot, which is the process pid.
func (c *creation) wait(ctx context.Context, pid int) error {
	c.theirs.Close() // the end of boot is the end of the file only if nobody else has it
	c.theirs = nil
	return c.hear(ctx, &patientReader{File: c.report, pid: pid, timeout: bootTimeout}, readReport)
}

// hear waits for what a sandbox says first, and returns what that means. read is how it is read.
func (c *creation) hear(ctx context.Context, report *patientReader, read func(io.Reader) ([]byte, error)) error {
	defer context.AfterFunc(ctx, report.giveUp)()
	text, err := read(report)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cmp.Or(context.Cause(ctx), report.late())
	case err == io.EOF, errors.Is(err, unix.ECONNRESET):
		return c.lost()
	case err != nil:
		return err
	}
	return told(text)
}

// readReport reads a report that ends with the connection, unless all is well.
func readReport(report io.Reader) ([]byte, error) {
	text := make([]byte, len(wire.Ready))
	n, err := io.ReadFull(report, text)
	if err == nil && string(text) != wire.Ready || err == io.ErrUnexpectedEOF {
		var more []byte
		more, err = io.ReadAll(io.LimitReader(report, wire.MaxMessage))
		text = append(text[:n], more...)
	}
	return text, err
}

// readPacket reads a report that is a message of its own.
func readPacket(report io.Reader) ([]byte, error) {
	text := make([]byte, wire.MaxMessage)
	n, err := report.Read(text)
	return text[:n], err
}

// told returns what a sandbox's first report says.
func told(text []byte) error {
	if string(text) == wire.Ready {
		return nil
	}
	var f wire.Failure
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("the sandbox's report: %w", err)
	}
	return f.Err()
}

// ended returns what tells how the container's program has ended: the process of the sandbox, which is the first of its pid
// namespace, can't end itself by a signal. It takes over what c has of report and log.
func (c *creation) ended() func(unix.WaitStatus) unix.WaitStatus {
	report, kept := c.report, &creation{CreateRequest: c.CreateRequest, log: c.log}
	c.report, c.log = nil, nil
	return func(ws unix.WaitStatus) unix.WaitStatus {
		defer kept.close()
		defer report.Close()
		_ = report.SetReadDeadline(time.Now().Add(time.Second))
		text, err := io.ReadAll(io.LimitReader(report, 16))
		if err != nil {
			return ws
		}
		if n, err := strconv.ParseUint(string(text), 10, 16); err == nil {
			if told := unix.WaitStatus(n); told.Exited() || told.Signaled() {
				return told
			}
		}
		kept.explainEnd(ws)
		return ws
	}
}

// explainEnd says why a sandbox has ended whose program had not, if nobody has killed it.
func (c *creation) explainEnd(ws unix.WaitStatus) {
	why := ""
	switch log := c.readLog(); {
	case ws.Signaled() && ws.Signal() == unix.SIGSYS:
		why = "it made a system call that its jail forbids; the host's kernel has logged which one"
	case ws.Exited():
		c.traceLog(log)
		if why = lastWords(log); why == "" {
			if wire.EndsParked(unix.Signal(ws.ExitStatus() - 128)) {
				return // as boot ends then
			}
			why = fmt.Sprintf("exit status %d", ws.ExitStatus())
		}
	default:
		return
	}
	if c.Warn != nil {
		c.Warn("the sandbox ended by itself, and the container with it: " + why)
	}
}

func (c *creation) traceLog(log []byte) {
	if c.Trace == nil {
		return
	}
	for line := range strings.Lines(string(log)) {
		c.Trace("hull-sandbox: " + wire.Printable(strings.TrimSuffix(line, "\n")))
	}
}

var errLost = errors.New("the sandbox ended while it was being made")

// lost is the error of a sandbox that ended without a word, but perhaps with one in its log.
func (c *creation) lost() error {
	log := c.readLog()
	c.traceLog(log)
	last := lastWords(log)
	if last != "" && !strings.HasSuffix(last, noThread) {
		return fmt.Errorf("%w: %s", errLost, last)
	}
	e := &fault.Error{Err: errLost}
	if last != "" {
		e.Err = fmt.Errorf("%w: %s", errLost, last)
	}
	limit := oci.MemoryLimit(c.Spec)
	switch r := c.Spec.Linux.Resources; {
	case r != nil && r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 && *r.Pids.Limit < fewProcesses:
		e.Hint = "linux.resources.pids.limit may be too small: the sandbox's kernel has threads and helpers itself"
	case limit > 0 && limit < smallMemory:
		e.Hint = "linux.resources.memory.limit may be too small: the sandbox's kernel needs some itself"
	}
	return e
}

// noThread is what Go's runtime says last if it gets no thread.
const noThread = "newosproc"

// fewProcesses may be too few for a kernel's threads and its helpers, before there is a program.
const fewProcesses = 32

// explainLost adds to the error of lost, where there was no word, how the sandbox ended. That it was killed says nothing: it may
// have been by us.
func explainLost(err error, ws unix.WaitStatus) error {
	var e *fault.Error
	if !errors.As(err, &e) || e.Err != errLost || ws.Signaled() && ws.Signal() == unix.SIGKILL {
		return err
	}
	how := fmt.Sprintf("exit status %d", ws.ExitStatus())
	if ws.Signaled() {
		how = unix.SignalName(ws.Signal())
	}
	hint := cmp.Or(e.Hint, "the program hull-sandbox may be damaged, or another program: install it again")
	return &fault.Error{Err: fmt.Errorf("%w: %s", errLost, how), Hint: hint}
}

// smallMemory is what a kernel and its first program have room in, in bytes.
const smallMemory = 64 << 20

// explain makes of an error of the jail's one of the sandbox.
func explain(err error) error {
	var e *fault.Error
	if !errors.As(err, &e) || !strings.HasPrefix(e.Step, "execve") {
		return err
	}
	hint := ""
	switch {
	case errors.Is(err, unix.EACCES):
		hint = "the program hull-sandbox must be executable, and on a file system that is not mounted noexec"
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ENOENT):
		hint = "the program hull-sandbox is none of this machine's architecture, or not static"
	}
	return &fault.Error{Step: "start hull-sandbox", Err: e.Err, Hint: hint}
}
