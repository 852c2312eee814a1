package task

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// noID is (uid_t)-1, which the system calls take for "leave it as it is" and no user can have.
const noID = math.MaxUint32

// maxGroups is NGROUPS_MAX, the most that setgroups(2) takes since Linux 2.6.4.
const maxGroups = 65536

// Cred holds the ids of process.user.
type Cred struct {
	UID, GID uint32
	Groups   []uint32 // what setgroups(2) takes: additionalGids in their order
}

// Credentials returns the ids of process.user.
func Credentials(u specs.User) (Cred, error) {
	var errs []error
	check := func(field string, id uint32) {
		if id == noID {
			errs = append(errs, problem(field, "%d is not an id: it stands for no change", id))
		}
	}
	check("process.user.uid", u.UID)
	check("process.user.gid", u.GID)
	for i, gid := range u.AdditionalGids {
		check(fmt.Sprintf("process.user.additionalGids[%d]", i), gid)
	}
	if n := len(u.AdditionalGids); n > maxGroups {
		errs = append(errs, problem("process.user.additionalGids", "%d groups: Linux takes %d", n, maxGroups))
	}
	if len(errs) > 0 {
		return Cred{}, errors.Join(errs...)
	}
	return Cred{u.UID, u.GID, slices.Clone(u.AdditionalGids)}, nil
}

// Umask returns the argument of umask(2) for process.user.umask, and false if the umask stays as it is.
func Umask(u specs.User) (mask int, set bool, err error) {
	if u.Umask == nil {
		return 0, false, nil
	}
	if *u.Umask > 0o777 {
		return 0, false, problem("process.user.umask", "%d (0%o) has bits above 0777", *u.Umask, *u.Umask)
	}
	return int(*u.Umask), true, nil
}
