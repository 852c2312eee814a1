package store

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
)

// systemRoot is root's directory of containers.
const systemRoot = "/run/hull"

// DefaultRoot returns the directory of the caller's containers, if none was named.
func DefaultRoot() string {
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if linux.OrdinaryRoot() {
		return filepath.Join(runtimeDir, "hull")
	}
	return defaultRoot(os.Geteuid(), runtimeDir, "/run/user")
}

// defaultRoot is DefaultRoot for a user. su(1), cron and ssh without pam_systemd leave the variable out, while the directory
// that it names in the user's sessions may be there: the containers are the same ones then.
func defaultRoot(uid int, runtimeDir, users string) string {
	if uid == 0 {
		return systemRoot
	}
	if runtimeDir != "" {
		return filepath.Join(runtimeDir, "hull")
	}
	dir := filepath.Join(users, strconv.Itoa(uid))
	if fi, err := os.Lstat(dir); err == nil && fi.IsDir() && fi.Sys().(*syscall.Stat_t).Uid == uint32(uid) {
		return filepath.Join(dir, "hull")
	}
	return systemRoot
}

// hint says what a caller can do who may not use the directory.
func (s Store) hint(err error) error {
	e := &fault.Error{Step: "state directory", Err: err}
	if !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EROFS) {
		return e
	}
	e.Hint = "--root names another directory for the state"
	if s.Root == systemRoot && os.Geteuid() != 0 {
		e.Hint = "other users than root need XDG_RUNTIME_DIR to be set, or --root to name a directory for the state"
	}
	return e
}
