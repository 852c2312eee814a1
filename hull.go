// Package hull runs OCI containers.
//
// A Runtime manages the containers whose state is below one directory; a Container is one of them, and a Process is a
// program that runs in it. Command is the short way, modelled on os/exec: it runs one program in a container of its
// own and takes the container away again.
//
//	r := hull.Runtime{}
//	c, err := r.Create(ctx, "web1", hull.CreateOptions{Bundle: "/srv/web1"})
//	err = c.Start(ctx)
//	status, err := c.Init().Wait()
//	err = c.Delete(ctx, hull.DeleteOptions{})
//
// The package needs neither cgo nor a hook in the program's main, and changes nothing process-wide: not the umask, the
// working directory, signal handlers or resource limits. All methods may be called from several goroutines and, for the
// same container, by several programs at once.
//
// Errors are of type *Error, or join several of them; errors.Is finds the kinds below and the errno of a system call.
package hull

import (
	"hull/internal/fault"
)

// Version is hull's release. It is set when hull is built.
var Version = "0.1.0-dev"

// Error says what was asked, of which container, which field of config.json is concerned, what hull was doing, the
// cause, and the cure where hull knows one.
//
//	Op    string // what was asked: "create"; or ""
//	ID    string // the container's id; or ""
//	Field string // where in config.json: `mounts[2] "/proc"`; or ""
//	Step  string // what hull was doing: "fsmount proc"; or ""
//	Kind  error  // one of the kinds below; or nil
//	Err   error  // the cause, usually ending in an errno
//	Hint  string // one sentence that tells a person the cure; or ""
type Error = fault.Error

// Kinds of errors, for errors.Is.
var (
	ErrNotExist    = fault.NotExist    // no such container
	ErrExist       = fault.Exist       // the id is taken
	ErrBadState    = fault.BadState    // the container's status does not allow it
	ErrBadSpec     = fault.BadSpec     // config.json has a mistake
	ErrUnsupported = fault.Unsupported // this host, or the isolation, can't do it
	ErrBadUsage    = fault.BadUsage    // an argument is out of range
)

// Hint returns the sentence that tells a person the cure for err, or "".
func Hint(err error) string { return fault.Hint(err) }
