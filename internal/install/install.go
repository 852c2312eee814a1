// Package install finds the programs that hull consists of.
package install

import (
	"errors"
	"os"
	"path/filepath"

	"hull/internal/fault"
)

// Find opens a program of hull's by open: beside the running program, or in ../libexec/hull. step is what the error says
// where it is in neither.
func Find[T any](step, name string, open func(path string) (T, error)) (found T, err error) {
	self, err := os.Executable()
	if err != nil {
		return found, err
	}
	dir := filepath.Dir(self)
	libexec := filepath.Join(dir, "../libexec/hull", name)
	for _, path := range []string{filepath.Join(dir, name), libexec} {
		if found, err = open(path); err == nil || !errors.Is(err, os.ErrNotExist) {
			return found, err
		}
	}
	return found, &fault.Error{Step: step, Err: os.ErrNotExist, Hint: "install it beside " + self + " or as " + libexec + "; make build makes it"}
}

// Path returns the path of a program of hull's.
func Path(step, name string) (string, error) {
	return Find(step, name, func(path string) (string, error) {
		_, err := os.Stat(path)
		return path, err
	})
}
