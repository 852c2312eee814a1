package platform

import (
	"errors"
	"fmt"

	"hull/internal/fault"
)

// explainKVM makes an error of what the platform says when it can't be made, in an error or a panic.
func explainKVM(err error, panicked any) error {
	if panicked != nil {
		err = errors.New(fmt.Sprint(panicked))
	}
	if err == nil {
		return nil
	}
	return &fault.Error{Step: "platform kvm", Err: err, Hint: "programs can run without KVM, by the platform systrap, which is the default"}
}
