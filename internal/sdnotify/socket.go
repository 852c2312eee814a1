// Package sdnotify passes on what a container's program tells the service manager that started hull, by sd_notify(3).
//
// The manager's own socket is out of a container's reach, and its messages would name pids that mean nothing outside. So
// there is a socket for each container, and hull, which the manager knows, speaks for the container:
//
//	create  Setup(stateDir)   makes <stateDir>/notify, a mount of it on /run/notify, and NOTIFY_SOCKET for the program
//	start   Listen(stateDir)  binds <stateDir>/notify/notify.sock, before the program runs
//	        HandOver          reads there, checks, and sends to the manager, until the program is ready; or
//	run     Forward           the same to the program's end
//
// The directory is mounted, not the socket: the socket may be made after the container, and made again. The program is
// not trusted: of what it sends, only assignments about its own well-being are passed on (see allowed), never MAINPID, and
// never descriptors, which the kernel closes as they are not received.
package sdnotify

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	dirName    = "notify"
	socketName = "notify.sock"
	target     = "/run/notify" // in the container
)

// Setup makes the directory of the socket below a container's state directory, and returns the mount and the environment
// variable that the container's configuration needs.
func Setup(stateDir string) (specs.Mount, string, error) {
	dir := filepath.Join(stateDir, dirName)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return specs.Mount{}, "", err
	}
	// The mode is not the caller's umask's to decide: a program that isn't root has to come through.
	if err := os.Chmod(dir, 0o755); err != nil {
		return specs.Mount{}, "", err
	}
	mount := specs.Mount{
		Destination: target,
		Type:        "bind",
		Source:      dir,
		Options:     []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	}
	return mount, "NOTIFY_SOCKET=" + filepath.Join(target, socketName), nil
}

// Socket is where a container's program sends its notifications.
type Socket struct {
	fd int // non-blocking; not an os.File, whose Fd would make it a blocking one
}

// Listen makes the socket of a container that had Setup. For another, the error is fs.ErrNotExist.
func Listen(stateDir string) (*Socket, error) {
	dir, err := os.OpenFile(filepath.Join(stateDir, dirName), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// A socket address holds 108 bytes (unix(7)); state directories may be deeper.
	path := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + socketName
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &Socket{fd}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		s.Close()
		return nil, &fs.PathError{Op: "bind", Path: filepath.Join(stateDir, dirName, socketName), Err: err}
	}
	// Sending takes write permission, whoever the program runs as.
	if err := os.Chmod(path, 0o777); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the socket. What the program sends from then on gets ECONNREFUSED.
func (s *Socket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }
