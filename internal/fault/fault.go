// Package fault has the one error type of hull.
//
// An error names the operation, its object, the field of config.json it comes from, the step hull was at and the
// kernel's word, in one line; a hint, where hull knows a cure that applies, comes apart:
//
//	create web1: mounts[2] "/proc": fsmount proc: operation not permitted
package fault

import (
	"errors"
	"strings"
	"syscall"
)

// The kinds of errors that callers tell apart, by errors.Is.
var (
	NotExist    = errors.New("container does not exist")
	Exist       = errors.New("container already exists")
	BadState    = errors.New("wrong state")
	BadSpec     = errors.New("invalid configuration")
	Unsupported = errors.New("not supported")
	BadUsage    = errors.New("invalid argument")
)

// Error is what every operation of hull returns.
type Error struct {
	Op    string // what was asked: "create"; or ""
	ID    string // the container's id; or ""
	Field string // where in config.json: `mounts[2] "/proc"`; or ""
	Step  string // what hull was doing: "fsmount proc"; or ""
	Kind  error  // one of the kinds above; or nil
	Err   error  // the cause, usually ending in an errno
	Hint  string // one sentence that tells a person the cure; or ""
}

// Error returns the one-line message, without the hint.
func (e *Error) Error() string {
	var parts []string
	id := e.ID
	if len(id) > 255 { // is no container's: the error says so
		id = id[:40] + "…"
	}
	head := strings.TrimSpace(e.Op + " " + id)
	for _, s := range []string{head, e.Field, e.Step} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	switch {
	case e.Err != nil:
		parts = append(parts, e.Err.Error())
	case e.Kind != nil:
		parts = append(parts, e.Kind.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap lets errors.Is find both the kind and the errno.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Spec returns a mistake in config.json.
func Spec(field, problem string) *Error {
	return &Error{Field: field, Kind: BadSpec, Err: errors.New(problem)}
}

// Errno returns the errno in err, without what stands around it; or err, which has none.
func Errno(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// NotInPath is the cause of an Error whose program was in no directory of PATH: ENOENT, in the words that engines and
// their users look for.
var NotInPath error = notInPath{}

type notInPath struct{}

func (notInPath) Error() string { return "executable file not found in $PATH" }
func (notInPath) Unwrap() error { return syscall.ENOENT }

// Hint returns the first hint in err's chain, or "".
func Hint(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// In adds the operation and the container to err, if it has none yet.
func In(op, id string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok && e.Op == "" {
		c := *e
		c.Op, c.ID = op, id
		return &c
	}
	return &Error{Op: op, ID: id, Err: err}
}
