package hull

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/caps"
	"hull/internal/fault"
)

// creating are the capabilities that hardly a container can be made without. The others are wanted by single fields.
var creating = caps.Of(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_DAC_OVERRIDE)

// explainRights adds to a refusal what hull itself has not got, if it is root: as in a container it may be a root of few
// rights.
func explainRights(err error) error {
	var e *fault.Error
	if os.Geteuid() != 0 || !errors.Is(err, os.ErrPermission) || Hint(err) != "" || !errors.As(err, &e) {
		return err
	}
	if lacks := creating &^ caps.Effective(); lacks != 0 {
		e.Hint = "this root lacks " + lacks.String()
	}
	return err
}
