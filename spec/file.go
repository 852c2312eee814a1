package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"hull/internal/fault"
)

// writeNew makes a file that must not exist yet.
func writeNew(file string, write func(io.Writer) error) error {
	// O_EXCL alone decides: a look before the open would follow a dangling link and could be overtaken.
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return &fault.Error{Err: existsError{file}}
	}
	if err != nil {
		return fileError(err)
	}
	err = write(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		return nil
	}
	// Half a configuration would stand in the way of the next attempt.
	return errors.Join(fileError(err), fileError(os.Remove(file)))
}

// existsError says what to do in the same line, as scripts around hull spec expect; it Is fs.ErrExist.
type existsError struct{ file string }

func (e existsError) Error() string        { return fmt.Sprintf("%s exists; remove it first", e.file) }
func (e existsError) Is(target error) bool { return target == fs.ErrExist }

func fileError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fault.Error{Step: pe.Op + " " + pe.Path, Err: pe.Err}
	}
	return err
}
