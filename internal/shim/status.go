package shim

import (
	"errors"
	"os"

	"hull"
	"hull/internal/ttrpc"
)

// ociError returns what containerd is told when hull has failed. Engines look for runc's words in it: Docker makes exit status
// 127 of "executable file not found", and its own sentence of what stands behind "OCI runtime create failed: ".
func ociError(verb string, err error) error {
	if err == nil {
		return nil
	}
	code := ttrpc.Unknown
	switch {
	case errors.Is(err, hull.ErrNotExist):
		code = ttrpc.NotFound
	case errors.Is(err, hull.ErrExist):
		code = ttrpc.AlreadyExists
	case errors.Is(err, hull.ErrBadState):
		code = ttrpc.FailedPrecondition
	case errors.Is(err, hull.ErrBadSpec), errors.Is(err, hull.ErrBadUsage):
		code = ttrpc.InvalidArgument
	}
	text := "OCI runtime " + verb + " failed: " + err.Error()
	if hint := hull.Hint(err); hint != "" {
		text += " (" + hint + ")"
	}
	return &ttrpc.Error{Code: code, Message: text}
}

func failed(why string) error { return &ttrpc.Error{Code: ttrpc.FailedPrecondition, Message: why} }

// alreadyEnded is what containerd takes for success of a kill.
func alreadyEnded() error {
	return &ttrpc.Error{Code: ttrpc.NotFound, Message: "process already finished"}
}

func isDone(err error) bool { return errors.Is(err, os.ErrProcessDone) }
