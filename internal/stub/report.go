package stub

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

func (e *entry) step() Step {
	name := e.note
	if e.nr != opTest {
		name = strings.TrimSpace(callName(e.nr) + " " + e.note)
	}
	return Step{e.field, name}
}

// Last hands over a batch that the stub executes alone, and closes the socket. The batch ends in execve. If a call
// fails, the stub writes its reply to descriptor report, which must be open in the stub and close-on-exec, and exits
// with status exit; ReadReport reads that.
func (s *Stub) Last(b *Batch, report, exit int) error {
	b.last, b.replyFD, b.exit = true, report, exit
	msg, err := b.encode(false)
	if err != nil {
		return err
	}
	if err := s.conn.write(msg, nil); err != nil {
		return err
	}
	s.reapStage1()
	return s.Close()
}

// Step is what an error says of one call of a batch.
type Step struct {
	Field string `json:"field,omitempty"`
	Name  string `json:"name"`
}

// Steps returns what errors say of the batch's calls, for whoever reads the report of a stub that was left with it.
func (b *Batch) Steps() []Step {
	steps := make([]Step, b.Len())
	for i := range steps {
		steps[i] = b.entries.at(i).step()
	}
	return steps
}

// ReadReport waits for what a stub writes to the descriptor it reports to, after the batch it was left with has
// failed. An end of file without a word is success: execve has closed the descriptor. The stub may also have died, or
// its seccomp filter may have kept it from writing; then only its status tells.
func ReadReport(r *os.File, steps []Step, timeout time.Duration) error {
	if err := r.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	report, err := io.ReadAll(io.LimitReader(r, batchMax))
	if err != nil {
		return waitError(err)
	}
	if len(report) == 0 {
		return nil
	}
	if len(report) < headerSize {
		return fmt.Errorf("report of %d bytes", len(report))
	}
	le := binary.LittleEndian
	at, errno := le.Uint64(report[headerStopped:]), le.Uint64(report[headerErrno:])
	if at >= uint64(len(steps)) || errno > 4095 {
		return fmt.Errorf("report out of range: entry %d, errno %d", at, errno)
	}
	return &fault.Error{Field: steps[at].Field, Step: steps[at].Name, Err: unix.Errno(errno)}
}
