// Package wire is what hull and hull-sandbox say to each other.
//
//	hull                                     hull-sandbox boot
//	  starts it in its jail, with  ────────>   the configuration (a sealed memfd), a listening socket, the start fifo,
//	                                           a socket to report to, the root, the sources of bind mounts
//	  waits for the report         <────────   Ready: the container is created; or a Failure
//	  is done, if the program      ────────>   Taken; end of file instead: hull was killed, the sandbox ends
//	  has to wait for its start
//	  a byte into the fifo         ────────>   the program runs; end of file
//	  waits for the end            <────────   the program's wait status, as the report
//	  connects, a Request          ────────>
//	                               <────────   a Reply, and another one where the request says so
//
// Another container in the same sandbox is asked for over the socket, see Create.
//
// A message is JSON, in packets of a SOCK_SEQPACKET socket, with descriptors beside the first one. Neither side trusts the
// length of what comes, nor the number of descriptors; hull shows nothing of it as it is (Printable). The two programs are of one release: one of another is refused, so that
// nothing here needs to be understood by older ones.
package wire

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// Version is that of what is said here, with the flags of boot. Both programs must have the same, beside the same release, which two
// builds may have that have nothing to say to each other. A test knows when the messages have become others.
const Version = "5"

// MaxMessage bounds a message, in bytes.
const MaxMessage = 1 << 20

// Ready is the first report of a boot that has created its container. A second one comes when the container's program has
// ended: its wait status, as a number.
const Ready = "ready"

// Taken is the answer to Ready, one byte, of a hull that has done all it does when it creates a container whose program waits for
// its start. It comes as late as possible: somebody who sees that hull was killed takes it that there is no container, and waits
// for the end of the container's streams.
const Taken = "t"

// EndsParked tells whether a signal ends a container that waits for its start, with the status 128 + sig: the process that stands
// for it on the host is the first of its pid namespace there, and passes signals on.
func EndsParked(sig unix.Signal) bool {
	switch sig {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM:
		return true
	}
	return false
}

// The values of options of boot: where what is written to a root goes, if not to the host, or the number of a file for it; who else
// changes files; and of what others of the host have made: whether it may be opened.
const (
	OverlayMemory = "memory"
	Exclusive     = "exclusive"
	Shared        = "shared"
	Open          = "open"
	OnlyCreate    = "create" // sockets
	OpenCreate    = "all"
)

// CPUFeatures is the command of hull-sandbox that prints the processor's features, a line each.
const CPUFeatures = "cpu-features"

// ProbeKVM is the command of hull-sandbox that tries the host's KVM, whose device is named behind it. It says what it does by the
// socket at TrialFD, and is one that nobody may wait for without an end.
const ProbeKVM = "probe-kvm"

// TrialFD is the descriptor that ProbeKVM finds its socket at.
const TrialFD = 3

// Trial is a message of ProbeKVM: the step that comes next; or, with neither, that KVM works. The device comes along then, open.
type Trial struct {
	Step    string   `json:",omitempty"`
	Failure *Failure `json:",omitempty"`
}

// The names of files in a container's state directory.
const (
	Control = "control.sock" // the socket
	Log     = "sandbox.log"  // what the kernel in the sandbox has to say, its end above all
)

// Nowhere is the directory of the jail that becomes boot's root when it has seen what it must of the host: an empty one.
const Nowhere = "/nowhere"

// Failure is why something could not be done.
type Failure struct {
	Field, Step, Message string
	Errno                int // of the cause, or 0
	Unsupported          bool
	BadState             bool
	Hint                 string
}

// Fail returns err as a Failure.
func Fail(err error) *Failure {
	f := &Failure{Hint: fault.Hint(err), Unsupported: errors.Is(err, fault.Unsupported), BadState: errors.Is(err, fault.BadState)}
	var errno unix.Errno
	if errors.As(err, &errno) {
		f.Errno = int(errno)
	}
	var e *fault.Error
	if errors.As(err, &e) {
		f.Field, f.Step, err = e.Field, e.Step, e.Err
		if err == nil {
			err = e.Kind
		}
	}
	f.Message = err.Error()
	return f
}

// Err returns the error that f was made of, as far as it was said.
func (f *Failure) Err() error {
	e := &fault.Error{Field: Printable(f.Field), Step: Printable(f.Step), Hint: Printable(f.Hint),
		Err: said{Printable(f.Message), unix.Errno(f.Errno)}}
	if f.Unsupported {
		e.Kind = fault.Unsupported
	}
	if f.BadState {
		e.Kind = fault.BadState
	}
	return e
}

// said is an error in the words of the other side.
type said struct {
	message string
	errno   unix.Errno
}

func (s said) Error() string { return s.message }

func (s said) Is(target error) bool {
	if s.errno == 0 {
		return false
	}
	return target == error(s.errno) || s.errno.Is(target)
}

func (s said) As(target any) bool {
	errno, ok := target.(*unix.Errno)
	if ok && s.errno != 0 {
		*errno = s.errno
		return true
	}
	return false
}

// maxWords bounds what is shown of a text, in bytes.
const maxWords = 1 << 10

// Printable returns what can be shown of a text that comes from a sandbox, in one line: it may be made for the terminal that
// it ends up on.
func Printable(s string) string {
	shown := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s[:min(len(s), maxWords)])
	if len(s) > maxWords {
		shown += "…"
	}
	return shown
}
