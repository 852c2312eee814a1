// Package errno turns errors of the sentry's kernel, which has a type of its own for them, into those of hull: a number of the
// system's with, where it comes from one, the field of config.json. Packages beside this one use it.
package errno

import (
	"errors"

	"golang.org/x/sys/unix"

	gerrors "gvisor.dev/gvisor/pkg/errors"

	"hull/internal/fault"
)

// Of returns the errno that an error of the kernel stands for, where it is one.
func Of(err error) error {
	var e *gerrors.Error
	if errors.As(err, &e) && e.Errno() != 0 {
		return unix.Errno(e.Errno())
	}
	return err
}

// InField returns an error that comes from a field of config.json.
func InField(field string, err error) error {
	return &fault.Error{Field: field, Err: Of(err)}
}
