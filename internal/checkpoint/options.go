package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// setOptions sets what CRIU is told, be it for saving or restoring. dirs is the number of the descriptor of the first of its
// directories.
func (s *service) setOptions(o *launch, dirs int) error {
	i := o.image
	mode, err := cgroupsMode(i.ManageCgroups)
	if err != nil {
		return err
	}
	// A shell job's terminal is the caller's, whose other end CRIU must not make anew.
	own := !i.ShellJob || o.spec.Process != nil && o.spec.Process.Terminal
	s.work = i.Dir
	s.options = &rpc.CriuOpts{
		ImagesDirFd: ptr(int32(dirs)), LogLevel: ptr(int32(4)), LogFile: &s.log, NotifyScripts: ptr(true),
		ManageCgroups: ptr(true), ManageCgroupsMode: &mode, OrphanPtsMaster: &own,
		ShellJob: &i.ShellJob, ExtUnixSk: &i.UnixSockets, TcpEstablished: &i.TCPConnected, FileLocks: &i.FileLocks,
		AutoDedup: &i.AutoDedup, LazyPages: &i.LazyPages,
	}
	if file := configFile(o.spec.Annotations); file != "" {
		s.options.ConfigFile = &file
	}
	if i.WorkPath == "" {
		return s.clearWork()
	}
	if err := os.Mkdir(i.WorkPath, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	fd, err := unix.Open(i.WorkPath, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: i.WorkPath, Err: err}
	}
	s.work, s.options.WorkDirFd = os.NewFile(uintptr(fd), i.WorkPath), ptr(int32(dirs+1))
	return s.clearWork()
}

// clearWork takes away what is in the place of the files that CRIU writes beside an image: it follows links, and whoever has made the
// image could have put one there that leads to a file of the host's.
func (s *service) clearWork() error {
	for _, name := range []string{s.log, "stats-" + strings.TrimSuffix(s.log, ".log")} {
		if err := unix.Unlinkat(int(s.work.Fd()), name, 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "unlink", Path: s.work.Name() + "/" + name, Err: err}
		}
	}
	return nil
}

// configFile returns the file of options that CRIU reads after those that it is given: what runc's annotation names, or that of
// hull or runc on this host.
func configFile(a map[string]string) string {
	if file, ok := a["org.criu.config"]; ok {
		return file
	}
	const own, runcs = "/etc/criu/hull.conf", "/etc/criu/runc.conf"
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return runcs
}

func cgroupsMode(name string) (rpc.CriuCgMode, error) {
	switch name {
	case "":
		return rpc.CriuCgMode_DEFAULT, nil
	case "soft":
		return rpc.CriuCgMode_SOFT, nil
	case "full":
		return rpc.CriuCgMode_FULL, nil
	case "strict":
		return rpc.CriuCgMode_STRICT, nil
	case "ignore":
		return rpc.CriuCgMode_IGNORE, nil
	}
	return 0, &fault.Error{Step: fmt.Sprintf("mode of cgroups %q", name), Kind: fault.BadUsage,
		Err: errors.New("want soft, full, strict or ignore")}
}

func ptr[T any](v T) *T { return &v }
