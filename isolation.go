package hull

import (
	"errors"

	"hull/internal/fault"
)

// Isolation says what keeps a program apart from the host.
type Isolation string

const (
	Native  Isolation = "native"  // the host's kernel: namespaces, cgroups, seccomp
	Sandbox Isolation = "sandbox" // a kernel of its own, in user space
)

// check returns why there is no such isolation. The empty one is Native.
func (i Isolation) check() error {
	e := &fault.Error{Step: "isolation " + string(i), Kind: fault.Unsupported, Err: errors.New("not there yet; native is")}
	switch i {
	case "", Native:
		return nil
	case Sandbox:
	default:
		e.Kind, e.Err = fault.BadUsage, errors.New("want native or sandbox")
	}
	return e
}
