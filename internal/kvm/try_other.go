//go:build !amd64

package kvm

import (
	"errors"

	"hull/internal/fault"
)

// try is not there: the platform was never run on other processors.
func try(int, func(string)) *fault.Error {
	return &fault.Error{Err: errors.New("on amd64 only")}
}
