package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"hull"
)

// firstFD is the first descriptor beside the standard streams (sd_listen_fds(3): SD_LISTEN_FDS_START).
const firstFD = 3

// activation returns how many sockets a service manager has passed to the process called pid, from descriptor 3 on, and
// the variables that tell the container's program so: there they are meant for process 1.
func activation(pid int, getenv func(string) string) (n int, env []string) {
	if getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return 0, nil // meant for another process, which ran hull
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n <= 0 {
		return 0, nil
	}
	env = []string{"LISTEN_FDS=" + strconv.Itoa(n), "LISTEN_PID=1"}
	if names := getenv("LISTEN_FDNAMES"); names != "" {
		env = append(env, "LISTEN_FDNAMES="+names)
	}
	return n, env
}

// inherited returns the descriptors that hull was started with and is to pass on. Its own must not take the number of one
// that is missing; but all of its own close on exec, and no inherited one does.
func inherited(activated, preserved int) ([]*os.File, error) {
	if preserved < 0 {
		return nil, &hull.Error{Step: fmt.Sprintf("--preserve-fds %d", preserved), Kind: hull.ErrBadUsage, Err: errors.New("want a number of descriptors")}
	}
	var files []*os.File
	for i := range activated + preserved {
		fd := uintptr(firstFD + i)
		flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			option := "--preserve-fds " + strconv.Itoa(preserved)
			if i < activated {
				option = "LISTEN_FDS=" + strconv.Itoa(activated)
			}
			return nil, &hull.Error{Step: fmt.Sprintf("%s: descriptor %d", option, fd), Kind: hull.ErrBadUsage, Err: unix.EBADF}
		}
		files = append(files, os.NewFile(fd, "descriptor "+strconv.Itoa(firstFD+i)))
	}
	return files, nil
}
